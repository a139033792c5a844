"""What a step will take on devices nobody has rented yet: memory, time, money."""
