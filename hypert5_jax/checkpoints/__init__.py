"""Checkpoints: our own store (Orbax) and the formats other projects read and write."""
