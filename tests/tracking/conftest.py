"""An MLflow store that is made once, and a copy of it for each test."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from medhybrid.tracking.mlflow_store import sqlite_url
from medhybrid.tracking.setup import prepare_store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs. Do not write into it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with warnings.catch_warnings():  # MLflow and its store warn of themselves
        warnings.simplefilter("ignore")
        prepare_store(sqlite_url(path))
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    """A store in a folder of runs."""
    path = tmp_path / "project" / "runs" / "mlflow.db"
    path.parent.mkdir(parents=True)
    shutil.copyfile(empty_store, path)
    return path
