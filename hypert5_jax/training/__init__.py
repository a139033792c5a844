"""Training: optimisers, schedules, the state, one pure step and the loop around it."""
