"""What φ is: its type, its shapes, how it meets activations, its file. Knows no T5."""
