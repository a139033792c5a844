"""Using a trained system: scoring, and later decoding and adapting."""
