"""Schema of an SQLite store, read without importing MLflow, to check that the installed version can use the store.

MLflow changes its tables by migration scripts (Alembic). Each script names its predecessor, and a store records its latest
revision. A store is `unfinished` if the creation of its tables was interrupted, or two processes created them at the same time.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from medhybrid.errors import TrackingError

BUSY_S = 30.0
"""Time to wait for a database that another process is writing to, in seconds."""

State = Literal["new", "ready", "unfinished", "older", "newer", "foreign"]

_REVISION = re.compile(r"^(down_)?revision\s*=\s*[\"'](\w+)[\"']", re.MULTILINE)

_COLUMNS = frozenset({"experiment_id", "name", "artifact_location", "lifecycle_stage"})
"""Columns of MLflow's table `experiments` in all versions; other programs also have a table of this name."""


@dataclass(frozen=True, slots=True)
class Schema:
    """State of the tables of a store.

    Attributes
    ----------
    state : str
        `new`: without tables. `ready`: the installed MLflow can use it. `unfinished`: tables are incomplete and hold no
        records. `older`, `newer`: of an older or newer version of MLflow. `foreign`: a database of another program.
    revision : str
        Latest revision of its tables, empty if not recorded.
    """

    state: State
    revision: str = ""


def read_schema(path: Path) -> Schema:
    """Read the state of a store; raise `TrackingError` if the file is not a readable database."""
    if not path.exists():
        return Schema("new")
    with open_database(path) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        revision = _revision_of(database) if "alembic_version" in tables else ""
        if not tables:
            return Schema("new")
        if tables != {"alembic_version"} and not _columns_of(database, "experiments") >= _COLUMNS:
            return Schema("foreign", revision)
        known, newest = known_revisions()
        if not known or revision == newest:
            return Schema("ready", revision)
        if revision and revision not in known:
            return Schema("newer", revision)
        return Schema("older" if _has_records(database, tables) else "unfinished", revision)


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database of a store; raise `TrackingError` for errors of SQLite."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
            yield database
    except sqlite3.Error as error:
        raise TrackingError(
            f"the MLflow store {path} cannot be read",
            expected="tables of MLflow" if "no such" in str(error) else "an SQLite database",
            found=str(error),
            remedy="wait until the other process has finished writing"
            if "locked" in str(error)
            else "move the file away, so that a new store is created, or use another store: tracking.uri=...",
        ) from error


@cache
def known_revisions() -> tuple[frozenset[str], str]:
    """Return the revisions that the installed MLflow knows, and the newest; empty if its scripts are not found."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return frozenset(), ""
    revisions: set[str] = set()
    before: set[str] = set()
    for script in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        for is_down, name in _REVISION.findall(script.read_text(encoding="utf-8")):
            (before if is_down else revisions).add(name)
    newest = revisions - before
    return (frozenset(revisions), newest.pop()) if len(newest) == 1 else (frozenset(), "")


def _revision_of(database: sqlite3.Connection) -> str:
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


def _columns_of(database: sqlite3.Connection, table: str) -> set[str]:
    """Return the column names of a table; empty if it does not exist."""
    return {str(name) for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _has_records(database: sqlite3.Connection, tables: set[str]) -> bool:
    """Return whether the store holds records, other than the experiment `Default` that MLflow creates."""
    questions = {
        "runs": "SELECT count(*) FROM runs",
        "registered_models": "SELECT count(*) FROM registered_models",
        "experiments": "SELECT count(*) FROM experiments WHERE name != 'Default'",
    }
    return any(database.execute(text).fetchone()[0] for table, text in questions.items() if table in tables)
