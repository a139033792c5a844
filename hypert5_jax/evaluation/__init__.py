"""Metrics and protocols of evaluation; no TensorFlow."""
