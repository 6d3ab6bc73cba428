"""Training: the loop, checkpoints, one-step online updates, and the long-term module's day-by-day fit."""
