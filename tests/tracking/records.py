"""Records of a store, written with SQLite only, because the import of MLflow takes seconds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def execute(store: Path, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Execute an SQL statement in a store and return the rows."""
    with closing(sqlite3.connect(store)) as database, database:
        return database.execute(text, values).fetchall()


def add_experiment(store: Path, name: str, place: str, *, stage: str = "active") -> int:
    """Add an experiment and return its id."""
    execute(
        store,
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES (?, ?, ?)",
        (name, place, stage),
    )
    return int(execute(store, "SELECT experiment_id FROM experiments WHERE name = ?", (name,))[0][0])


def add_run(store: Path, run_id: str, experiment: int, place: str, *, stage: str = "active") -> None:
    """Add a run to an experiment."""
    execute(
        store,
        "INSERT INTO runs (run_uuid, name, source_type, status, lifecycle_stage, experiment_id, artifact_uri)"
        " VALUES (?, ?, 'LOCAL', 'FINISHED', ?, ?, ?)",
        (run_id, f"run {run_id}", stage, experiment, place),
    )
