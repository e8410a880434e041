"""Losses, optimiser, loop, checkpoint; what the loop tells goes to a `Tracker`."""
