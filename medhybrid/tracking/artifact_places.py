"""Artifact locations of a moved store: MLflow records absolute paths, but a project can be moved, renamed or copied.

In a store of medhybrid, artifacts are in `mlartifacts` beside the database. If its records have another folder of that name,
the project was moved or copied. The records are then changed to the folder beside the database, so that no file is read from or
written to the old folder.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medhybrid.tracking.mlflow_store import ARTIFACT_FOLDER, STORE_FILE
from medhybrid.tracking.schema import BUSY_S

logger = logging.getLogger(__name__)

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of a store with artifact locations."""


def local_path(location: str) -> Path | None:
    """Return the folder of a location; None if it is not a local path."""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return Path(location) if os.path.isabs(location) else None


def follow_artifacts(database: Path, *, beside: Path | None = None) -> None:
    """Update the artifact locations in a store to the folder that is beside it now.

    Parameters
    ----------
    database : Path
        SQLite store; one with another name or layout than medhybrid's is not changed.
    beside : Path, optional
        Store whose artifacts are used, if `database` is a copy of it.

    Raises
    ------
    sqlite3.Error
        If the store cannot be changed.
    """
    store = (beside or database).resolve()
    here = store.parent / ARTIFACT_FOLDER
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
        locations = [row[0] for row in connection.execute("SELECT DISTINCT artifact_location FROM experiments")]
        former = [old for old in locations if old and _has_moved(old, here, store, _runs_of(connection, old))]
        lost = _unused_places(connection) if store.name == STORE_FILE else {}
        if not former and not lost:
            return
        columns = [(table, column) for table, column in PLACES if _has_column(connection, table, column)]
        with connection:
            for old in former:
                new = here.as_uri() if old.startswith("file:") else str(here)
                for table, column in columns:
                    connection.execute(  # both names are of PLACES
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
            for number in lost:
                place = f"{here.as_uri()}/{number}"
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (place, number)
                )
    forget_places()
    if former:
        logger.info("tracking: the project was moved or copied; artifacts of its runs are now in %s", here)


def forget_places() -> None:
    """Clear MLflow's cache of artifact locations in this process: a copied project has runs with the same ids."""
    services = sys.modules.get("mlflow.tracking._tracking_service.utils")
    places = getattr(services, "_artifact_repos_cache", None)
    if places is not None:
        places.clear()


def _runs_of(connection: sqlite3.Connection, location: str) -> list[str]:
    """Return the ids of the runs whose experiment has this artifact location."""
    rows = connection.execute(
        "SELECT run_uuid FROM runs WHERE experiment_id IN (SELECT experiment_id FROM experiments WHERE artifact_location = ?)",
        (location,),
    )
    return [str(row[0]) for row in rows]


def _has_moved(location: str, here: Path, store: Path, runs: list[str]) -> bool:
    """Return whether a location is the artifact folder of a store at its former path.

    It is if artifacts of its runs are beside the store now, if the store was copied, or if its former folder does not exist.
    """
    old = local_path(location)
    if old is None or old.name != ARTIFACT_FOLDER or old == here:
        return False
    if old.exists() and here.exists() and old.samefile(here):
        return False
    if any((here / run).is_dir() for run in runs):
        return True
    if old.exists():
        return (old.parent / store.name).exists() and (here.is_dir() or store.name == STORE_FILE)
    return here.is_dir() or (store.name == STORE_FILE and not old.parent.exists())


def _unused_places(connection: sqlite3.Connection) -> dict[str, str]:
    """Return experiments without runs whose folder is absent, with that folder.

    MLflow's experiment `Default` is one: its folder is in the working directory of the process that created the store.
    """
    rows = connection.execute(
        "SELECT experiment_id, artifact_location FROM experiments"
        " WHERE experiment_id NOT IN (SELECT experiment_id FROM runs WHERE experiment_id IS NOT NULL)"
    ).fetchall()
    places = {str(number): local_path(location or "") for number, location in rows}
    return {
        number: str(place)
        for number, place in places.items()
        if place is not None and place.parent.name == "mlruns" and not place.exists()
    }


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))
