"""Records of runs: MLflow and JSON lines."""
