"""Training: configuration, data, schedule, loop, and what a run leaves behind."""
