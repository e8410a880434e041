"""Experiment tracking of runs, in MLflow and in JSON lines."""
