"""An MLflow store that is created once, and a copy of it for each test."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from medhybrid.tracking.mlflow_store import sqlite_url
from medhybrid.tracking.setup import prepare_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a store without runs; tests must not write into it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with warnings.catch_warnings():  # warnings inside MLflow and SQLAlchemy
        warnings.simplefilter("ignore")
        prepare_store(sqlite_url(path))
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    """Copy the empty store to a folder of runs."""
    path = tmp_path / "project" / "runs" / "mlflow.db"
    path.parent.mkdir(parents=True)
    shutil.copyfile(empty_store, path)
    return path
