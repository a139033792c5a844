"""One T5 v1.1, used twice: as the frozen downstream model and inside the hypermodel."""
