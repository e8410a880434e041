"""Losses, optimiser, training loop, validation and checkpoints; the loop logs to a `Tracker`."""
