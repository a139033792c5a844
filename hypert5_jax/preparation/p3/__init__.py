"""P3: which prompts there are, where their data lie, and how rows become examples."""
