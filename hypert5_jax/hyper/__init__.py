"""Hypermodels, variants as data, and the system that joins the two models."""
