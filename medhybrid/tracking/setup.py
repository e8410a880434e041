"""Creation and repair of an MLflow store, in one process at a time.

MLflow creates the tables of a store in the process that opens it first, without a lock. Two processes can leave them
incomplete. Here a new SQLite store is created under a temporary name and renamed, so that no process sees an incomplete store.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from medhybrid.errors import TrackingError
from medhybrid.files import held, make_folder
from medhybrid.tracking.artifact_places import follow_artifacts
from medhybrid.tracking.mlflow_store import ARTIFACT_FOLDER, STORE_FILE, quiet_mlflow, sqlite_path, sqlite_url
from medhybrid.tracking.schema import Schema, read_schema

logger = logging.getLogger(__name__)

STILL_S = 5.0
"""Time for which unfinished tables must not change before their creation counts as interrupted, in seconds."""

POLL_S = 0.25
"""Interval between two checks of unfinished tables, in seconds."""


def prepare_store(uri: str, *, lock: Path | None = None) -> None:
    """Prepare a store for use: create it, replace an unfinished one, and update its artifact locations.

    A lock file makes other processes wait meanwhile.

    Parameters
    ----------
    uri : str
        Address of a store. Servers create their own store, so nothing is done for them.
    lock : Path, optional
        Folder for the lock file of a store that is not a file.

    Raises
    ------
    TrackingError
        If the store is not one that the installed MLflow can use.
    """
    path = sqlite_path(uri)
    if path is None:
        if lock is not None and _is_database(uri):
            with _locked(lock / ".mlflow.lock"):
                _open_once(uri)
        return
    if read_schema(path).state not in ("ready", "older", "newer", "foreign"):
        make_folder(path.parent, remedy="use another store: tracking.uri=...")
        with _locked(path.with_name(f".{path.name}.lock")):
            _make_or_mend(path)
    refuse_unusable(path, read_schema(path))
    try:
        follow_artifacts(path)
    except sqlite3.Error as error:
        raise TrackingError(
            f"the MLflow store {path} was moved, and its artifact locations cannot be updated",
            found=str(error),
            remedy="make the file and its folder writable, or copy the folder of runs to a writable place",
        ) from error


def refuse_unusable(path: Path, schema: Schema) -> None:
    """Raise `TrackingError` for a store of another version of MLflow or another program, with the remedy."""
    found = f"schema {schema.revision or 'without a version'}"
    if schema.state == "older":
        raise TrackingError(
            f"the MLflow store {path} was created by an older version of MLflow",
            found=found,
            remedy=f"make a backup of the file, then run: mlflow db upgrade {shlex.quote(sqlite_url(path))}",
        )
    if schema.state == "newer":
        raise TrackingError(
            f"the MLflow store {path} was created by a newer version of MLflow",
            found=f"{found}, which the installed MLflow does not know",
            remedy="install that version of MLflow (pip install --upgrade mlflow), or use another store: tracking.uri=...",
        )
    if schema.state == "foreign":
        raise TrackingError(
            f"{path} is not an MLflow store",
            expected="tables of MLflow",
            found="a database of another program",
            remedy="use another store: tracking.uri=...",
        )


def _make_or_mend(path: Path) -> None:
    """Create a store; an unfinished one is renamed first. The caller holds the lock."""
    schema = _wait_while_changing(path)
    if schema.state == "unfinished":
        place = _set_aside(path)
        logger.warning(
            "tracking: the creation of %s was interrupted, and it has no records; it is renamed to %s and a new store created",
            path,
            place.name,
        )
    elif schema.state != "new":
        return
    _make(path)


def _wait_while_changing(path: Path) -> Schema:
    """Read a schema; wait while it is unfinished and changes, because another program may be creating it."""
    seen, since = None, time.monotonic()
    while (schema := read_schema(path)).state == "unfinished" and time.monotonic() - since < STILL_S:
        now = (schema.revision, path.stat().st_mtime_ns)
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(POLL_S)
    return schema


def _set_aside(path: Path) -> Path:
    """Rename a database and SQLite's files beside it."""
    stamp = f"unfinished-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    for suffix in ("-journal", "-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}.{stamp}{suffix}"))
    return path.with_name(f"{path.name}.{stamp}")


def _make(path: Path) -> None:
    """Create the store under a temporary name, and rename it."""
    quiet_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    quiet_mlflow()  # again, because the import configures MLflow's loggers
    artifacts = (path.resolve().parent / ARTIFACT_FOLDER).as_uri() if path.name == STORE_FILE else "./mlruns"
    pending = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    try:
        store = SqlAlchemyStore(sqlite_url(pending), artifacts)
        store.engine.dispose()
        _give_name(pending, path)
    finally:
        pending.unlink(missing_ok=True)


def _give_name(pending: Path, path: Path) -> None:
    """Rename a finished store, unless a program without our lock has created one meanwhile."""
    if path.exists():  # a file without tables, else no store would be created
        pending.replace(path)
        return
    try:
        os.link(pending, path)
    except FileExistsError:
        logger.debug("%s was created by another program meanwhile", path)
    except OSError:  # a file system without hard links
        pending.replace(path)


def _is_database(uri: str) -> bool:
    return uri.split(":")[0].split("+")[0] in ("postgresql", "mysql", "mssql")


def _open_once(uri: str) -> None:
    """Open a database by MLflow's client once, which creates its tables if needed."""
    import mlflow

    quiet_mlflow()
    mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; if it cannot be created, continue without a lock, and the store raises its own error."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except OSError as error:
            logger.debug("no lock %s", path, exc_info=error)
        yield
