"""Reading prepared mixtures by index: rows, contexts, batches. No TensorFlow."""
