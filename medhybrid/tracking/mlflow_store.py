"""Where the MLflow store is, and how its client is kept quiet; MLflow itself is not imported here."""

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
"""The sqlite store in a folder of runs."""

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable of MLflow that names a store."""

ARTIFACT_FOLDER = "mlartifacts"
"""The folder beside it with the files of the runs."""


def store_uri(uri: str | None, runs: Path) -> str:
    """Return the store that is meant: `uri`, else `MLFLOW_TRACKING_URI`, else the sqlite store of the folder of runs."""
    own = _pointed.own_uri if _pointed.depth else os.environ.get(TRACKING_URI)
    return uri or own or default_uri(runs)


def is_default_store(uri: str | None, runs: Path) -> bool:
    """Return whether the store that is meant is the one in the folder of runs."""
    return store_uri(uri, runs) == default_uri(runs)


def default_uri(runs: Path) -> str:
    """The sqlite store of a folder of runs."""
    return sqlite_url(runs / STORE_FILE)


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of an sqlite store; None for any other store."""
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
    """Of a database file, whatever its path; versions of SQLAlchemy differ in how they write `%` and `?`."""
    place = str(path.resolve())
    if not set(place) & set("%?#"):
        return f"sqlite:///{place}"
    from sqlalchemy import URL

    return URL.create("sqlite", database=place).render_as_string()


def refuse_absent_store(uri: str) -> None:
    """Raise `ModelError` where a file of a store does not exist: to ask for it would make an empty one."""
    place = sqlite_path(uri)
    if place is not None and not place.is_file():
        raise ModelError(
            f"there is no MLflow store at {place}",
            remedy="name the one that the training recorded in: --tracking-uri (RUNS/mlflow.db by default)",
        )


@contextmanager
def pointed_at(uri: str) -> Iterator[None]:
    """Let MLflow's own functions use a store, and the caller's again afterwards; its place is one of the whole process."""
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
    """The state of `pointed_at`: meanwhile MLflow keeps our store in the environment, in place of the user's."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    own_uri: str | None = None


_pointed = _Pointed()


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Undo what `mlflow.pytorch` does to the root logger when it is imported: others would be silent from then on."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


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
