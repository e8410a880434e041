"""Make an MLflow store, or see that one can be used, in one process at a time.

MLflow makes the tables of a store in whichever process opens it first, without a lock: two processes leave them half made.
Here a new sqlite store is made under another name and renamed, so that nobody ever sees a part of it.
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
"""How long unfinished tables must stay the same until nobody is taken to be working on them."""

POLL_S = 0.25
"""Pause between two looks at them."""


def prepare_store(uri: str, *, lock: Path | None = None) -> None:
    """Make a store ready for use: make it, mend it, or follow its files; others wait meanwhile.

    Parameters
    ----------
    uri : str
        Address of a store. Nothing is done for a server, which makes its own.
    lock : Path, optional
        A folder for the lock of a store that is not a file.

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
        make_folder(path.parent, remedy="name another store: tracking.uri=...")
        with _locked(path.with_name(f".{path.name}.lock")):
            _make_or_mend(path)
    refuse_unusable(path, read_schema(path))
    try:
        follow_artifacts(path)
    except sqlite3.Error as error:
        raise TrackingError(
            f"the MLflow store {path} was moved, and its records of places cannot be changed",
            found=str(error),
            remedy="make the file and its folder writable, or copy the folder of runs to where you may write",
        ) from error


def refuse_unusable(path: Path, schema: Schema) -> None:
    """Raise `TrackingError` for a store of another version of MLflow, or of something else, with the remedy."""
    found = f"schema {schema.revision or 'without a version'}"
    if schema.state == "older":
        raise TrackingError(
            f"the MLflow store {path} was made by an older MLflow",
            found=found,
            remedy=f"make a copy of the file, then: mlflow db upgrade {shlex.quote(sqlite_url(path))}",
        )
    if schema.state == "newer":
        raise TrackingError(
            f"the MLflow store {path} was made by a newer MLflow",
            found=f"{found}, which the installed MLflow does not know",
            remedy="install that version of MLflow (pip install --upgrade mlflow), or name another store: tracking.uri=...",
        )
    if schema.state == "foreign":
        raise TrackingError(
            f"{path} is not an MLflow store",
            expected="tables of MLflow",
            found="a database of something else",
            remedy="name another store: tracking.uri=...",
        )


def _make_or_mend(path: Path) -> None:
    """Make a store, and set one aside first whose making was cut off; the lock is held."""
    schema = _wait_while_changing(path)
    if schema.state == "unfinished":
        place = _set_aside(path)
        logger.warning(
            "tracking: the making of %s was cut off, and nothing is recorded in it; it is kept as %s, and a new store is made",
            path,
            place.name,
        )
    elif schema.state != "new":
        return
    _make(path)


def _wait_while_changing(path: Path) -> Schema:
    """Read a schema, an unfinished one only once it stays the same: another program may be at work on it."""
    seen, since = None, time.monotonic()
    while (schema := read_schema(path)).state == "unfinished" and time.monotonic() - since < STILL_S:
        now = (schema.revision, path.stat().st_mtime_ns)
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(POLL_S)
    return schema


def _set_aside(path: Path) -> Path:
    """Rename a database, and what sqlite keeps beside it."""
    stamp = f"unfinished-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    for suffix in ("-journal", "-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}.{stamp}{suffix}"))
    return path.with_name(f"{path.name}.{stamp}")


def _make(path: Path) -> None:
    """Make the tables in a file of another name, and rename it."""
    quiet_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    quiet_mlflow()  # importing it has set its loggers up
    artifacts = (path.resolve().parent / ARTIFACT_FOLDER).as_uri() if path.name == STORE_FILE else "./mlruns"
    pending = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    try:
        store = SqlAlchemyStore(sqlite_url(pending), artifacts)
        store.engine.dispose()
        _give_name(pending, path)
    finally:
        pending.unlink(missing_ok=True)


def _give_name(pending: Path, path: Path) -> None:
    """Rename a finished store; one that a program without our lock made meanwhile stays."""
    if path.exists():  # without tables, or it would not be made
        pending.replace(path)
        return
    try:
        os.link(pending, path)
    except FileExistsError:
        logger.debug("%s was made by another program meanwhile", path)
    except OSError:  # a disk without links
        pending.replace(path)


def _is_database(uri: str) -> bool:
    return uri.split(":")[0].split("+")[0] in ("postgresql", "mysql", "mssql")


def _open_once(uri: str) -> None:
    """Let MLflow make the tables of a database, where there are none."""
    import mlflow

    quiet_mlflow()
    mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; where none can be made, the store's own errors follow."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except OSError as error:
            logger.debug("no lock %s", path, exc_info=error)
        yield
