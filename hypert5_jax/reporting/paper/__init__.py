"""What the paper prints and says, as data."""
