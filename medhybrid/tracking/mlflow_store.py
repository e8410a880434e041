"""Where the MLflow store is, and how its client is kept quiet; MLflow itself is not imported here."""

from __future__ import annotations

import logging
import os
from pathlib import Path


def default_uri(runs: Path) -> str:
    """The sqlite store of a folder of runs."""
    return f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def quiet_mlflow() -> None:
    """Short timeouts and no chatter; both only where the user set nothing."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
