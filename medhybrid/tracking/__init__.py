"""Records of runs: MLflow, JSON lines, none."""
