"""A trained system with its vocabulary: examples in text become φ, inputs become text."""
