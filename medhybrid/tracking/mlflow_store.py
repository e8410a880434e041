"""Address of the MLflow store and settings of MLflow's client, without importing MLflow at the start."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.errors import ModelError

STORE_FILE = "mlflow.db"
"""File name of the SQLite store in a folder of runs."""

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable of MLflow with the address of a store."""

ARTIFACT_FOLDER = "mlartifacts"
"""Folder beside the SQLite store with the artifacts of the runs."""


def store_uri(uri: str | None, runs: Path) -> str:
    """Return the address of the store: `uri`, else `MLFLOW_TRACKING_URI`, else the SQLite store in the folder of runs."""
    own = _pointed.own_uri if _pointed.depth else os.environ.get(TRACKING_URI)
    return uri or own or default_uri(runs)


def is_default_store(uri: str | None, runs: Path) -> bool:
    """Return whether `store_uri` is the SQLite store in the folder of runs."""
    return store_uri(uri, runs) == default_uri(runs)


def default_uri(runs: Path) -> str:
    """Return the address of the SQLite store in a folder of runs."""
    return sqlite_url(runs / STORE_FILE)


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of an SQLite store; None for any other store."""
    if not uri.startswith("sqlite"):
        return None
    if uri.startswith("sqlite:///") and not set(uri) & set("%?#"):
        place = uri.removeprefix("sqlite:///")
    else:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            place = make_url(uri).database or ""
        except ArgumentError:
            return None
    return Path(place) if place and place != ":memory:" else None


def sqlite_url(path: Path) -> str:
    """Return the address of a database file.

    Paths with special characters are escaped by SQLAlchemy itself, because its versions escape `%` and `?` differently.
    """
    place = str(path.resolve())
    if not set(place) & set("%?#"):
        return f"sqlite:///{place}"
    from sqlalchemy import URL

    return URL.create("sqlite", database=place).render_as_string()


def refuse_absent_store(uri: str) -> None:
    """Raise `ModelError` if the file of an SQLite store does not exist: MLflow would create an empty store."""
    place = sqlite_path(uri)
    if place is not None and not place.is_file():
        raise ModelError(
            f"the MLflow store {place} does not exist",
            remedy="set the store of the training with --tracking-uri (by default RUNS/mlflow.db)",
        )


@contextmanager
def pointed_at(uri: str) -> Iterator[None]:
    """Set MLflow's tracking URI inside the context, and restore that of the caller; it is a setting of the whole process."""
    import mlflow

    with _pointed.lock:
        own = os.environ.get(TRACKING_URI)
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        if _pointed.depth == 0:
            _pointed.own_uri = own
        _pointed.depth += 1
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None if before == own else before)
            if own is None:
                os.environ.pop(TRACKING_URI, None)
            else:
                os.environ[TRACKING_URI] = own
            _pointed.depth -= 1


@dataclass
class _Pointed:
    """State of `pointed_at`: inside it, the environment variable holds our store, and `own_uri` the user's."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    own_uri: str | None = None


_pointed = _Pointed()


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Restore the root logger afterwards: the import of `mlflow.pytorch` changes it and would silence other loggers."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def quiet_mlflow() -> None:
    """Set short timeouts, less log output and no telemetry for MLflow, unless the user has set these variables."""
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
