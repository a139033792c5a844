"""From seqio tasks to prepared files; what is imported here may import TensorFlow."""
