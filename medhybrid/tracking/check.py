"""Checks of the MLflow store before a training, so that problems show at once and not after hours.

A server that does not answer is not an error: records are stored on disk and sent when it is back.
"""

from __future__ import annotations

import logging
import re
import shlex
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError, TrackingError
from medhybrid.tracking.artifact_places import local_path
from medhybrid.tracking.mlflow_store import quiet_mlflow, sqlite_path
from medhybrid.tracking.problems import explain
from medhybrid.tracking.schema import open_database
from medhybrid.tracking.setup import prepare_store

logger = logging.getLogger(__name__)

ANSWER_S = 20.0
"""Time for which a training waits for the first answer of a server, in seconds."""

MAX_EXPERIMENT_NAME = 500
MAX_ALIAS = 255


@dataclass(frozen=True, slots=True)
class Kept:
    """Experiment or run as recorded in a store."""

    number: str
    name: str
    is_deleted: bool
    artifacts: str = ""


def check_names(experiment: str, alias: str) -> None:
    """Raise `ConfigError` for names that MLflow refuses; without this check, some fail only when the model is registered."""
    if not experiment.strip() or len(experiment) > MAX_EXPERIMENT_NAME:
        raise ConfigError(
            "tracking.experiment cannot be used",
            expected=f"a name of 1 to {MAX_EXPERIMENT_NAME} characters",
            found=repr(experiment[:60]),
        )
    is_reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias)
    if is_reserved or len(alias) > MAX_ALIAS or not re.fullmatch(r"[\w\-]+", alias):
        raise ConfigError(
            "tracking.alias cannot be used",
            expected="letters, digits, - and _; not `latest` or `v` and a number, which MLflow reserves",
            found=repr(alias[:60]),
        )


def check_store(uri: str, experiment: str, *, run_id: str | None = None, lock: Path) -> None:
    """Check that a store can record a run.

    Parameters
    ----------
    uri : str
        Address of the store.
    experiment : str
        Name of the experiment; it need not exist yet.
    run_id : str, optional
        Id of a run that is resumed.
    lock : Path
        Folder for the lock file of a store that is not a file.

    Raises
    ------
    TrackingError
        If the store cannot record the run until a person fixes it; the message has the reason and the command.
    """
    path = sqlite_path(uri)
    if path is None:
        _check_by_client(uri, experiment, run_id, lock)
    elif path.exists():
        prepare_store(uri)
        _refuse_read_only(path)
        with open_database(path) as database:
            _refuse(uri, *_sqlite_records(database, experiment, run_id), run_id)
    elif run_id is not None:
        _refuse(uri, None, None, run_id)


def _check_by_client(uri: str, experiment: str, run_id: str | None, lock: Path) -> None:
    """Check a server or database by MLflow's client; log a warning if it does not answer."""
    address = hide_password(uri)
    answer: list[tuple[Kept | None, Kept | None]] = []
    failure: list[Exception] = []

    def ask() -> None:
        try:
            prepare_store(uri, lock=lock)
            answer.append(_client_records(uri, experiment, run_id))
        except Exception as error:  # MLflow passes on errors of many libraries
            failure.append(error)

    thread = Thread(target=ask, name="tracking-check", daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if failure:
        problem = explain(failure[0], uri)
        if problem.is_lasting:
            raise problem.as_error() from failure[0]
        logger.warning("tracking: %s (%s); records of the run are stored and sent later", problem.what, problem.found)
    elif not answer:
        logger.warning(
            "tracking: the MLflow store %s does not answer; records of the run are stored and sent later", address
        )
    else:
        _refuse(uri, *answer[0], run_id)


def _client_records(uri: str, experiment: str, run_id: str | None) -> tuple[Kept | None, Kept | None]:
    """Return the experiment and the run of a store, from MLflow's client."""
    quiet_mlflow()
    import mlflow
    from mlflow.exceptions import MlflowException

    quiet_mlflow()  # again, because the import configures MLflow's loggers
    client: Any = mlflow.MlflowClient(tracking_uri=uri)
    if run_id is None:
        found = client.get_experiment_by_name(experiment)
        return None if found is None else _kept_experiment(found), None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None, None
        raise
    of = client.get_experiment(run.info.experiment_id)
    return _kept_experiment(of), Kept(run_id, run.info.run_name, run.info.lifecycle_stage == "deleted")


def _kept_experiment(found: Any) -> Kept:
    return Kept(found.experiment_id, found.name, found.lifecycle_stage == "deleted", found.artifact_location or "")


def _sqlite_records(
    database: sqlite3.Connection, experiment: str, run_id: str | None
) -> tuple[Kept | None, Kept | None]:
    """Read the experiment and the run from the tables of an SQLite store, because the import of MLflow takes seconds."""
    run = None
    if run_id is not None:
        row = database.execute(
            "SELECT run_uuid, name, lifecycle_stage, experiment_id FROM runs WHERE run_uuid = ?", (run_id,)
        ).fetchone()
        if row is None:
            return None, None
        run = Kept(row[0], row[1] or "", row[2] == "deleted")
        experiment = database.execute("SELECT name FROM experiments WHERE experiment_id = ?", (row[3],)).fetchone()[0]
    row = database.execute(
        "SELECT experiment_id, name, lifecycle_stage, artifact_location FROM experiments WHERE name = ?", (experiment,)
    ).fetchone()
    if row is None:
        return None, run
    place = row[3] or ""
    is_used = database.execute("SELECT count(*) FROM runs WHERE experiment_id = ?", (row[0],)).fetchone()[0]
    return Kept(str(row[0]), row[1], row[2] == "deleted", place if is_used else _remote_part(place)), run


def _remote_part(place: str) -> str:
    """Return a location that is not a local path, else an empty string: a local folder without runs need not exist yet."""
    return place if local_path(place) is None else ""


def _refuse(uri: str, experiment: Kept | None, run: Kept | None, run_id: str | None) -> None:
    """Raise `TrackingError` if the run does not exist, the run or its experiment is deleted, or artifacts cannot be stored."""
    address = hide_password(uri)
    command = f"MLFLOW_TRACKING_URI={shlex.quote(address)} mlflow"
    if run_id is not None and run is None:
        raise TrackingError(
            f"the MLflow store {address} does not have the run that is resumed",
            expected=f"run {run_id}",
            remedy="set the store that has it (tracking.uri=..., or MLFLOW_TRACKING_URI), or rename the file mlflow_run_id "
            "in the run folder to record the run as a new one",
        )
    if experiment is not None and experiment.is_deleted:
        other = "" if run_id else ", or record in another experiment: tracking.experiment=NAME"
        raise TrackingError(
            f"the experiment {experiment.name} is deleted in the MLflow store {address}",
            remedy=f"restore it: {command} experiments restore --experiment-id {experiment.number}{other}",
        )
    if run is not None and run.is_deleted:
        raise TrackingError(
            f"the run {run.name} is deleted in the MLflow store {address}",
            remedy=f"restore it: {command} runs restore --run-id {run.number}",
        )
    if experiment is not None:
        _refuse_unreachable_files(address, experiment)


def _refuse_unreachable_files(address: str, experiment: Kept) -> None:
    """Raise `TrackingError` if artifacts of an experiment cannot be stored at its location."""
    another = "record in another experiment: tracking.experiment=NAME"
    if experiment.artifacts.startswith("mlflow-artifacts:") and not address.startswith("http"):
        raise TrackingError(
            f"artifacts of the experiment {experiment.name} are stored by an MLflow server",
            expected="the address of that server",
            found=f"the address of its database, {address}",
            remedy=f"start the server and set its address (tracking.uri=http://...), or {another}",
        )
    place = local_path(experiment.artifacts)
    if not address.startswith("http") and place is not None and not place.is_dir() and not _is_ours(address, place):
        raise TrackingError(
            f"the artifact folder of the experiment {experiment.name} does not exist",
            expected=str(place),
            remedy=f"restore it, or {another}",
        )


def _is_ours(address: str, place: Path) -> bool:
    """Return whether an artifact folder is the one beside its store; if it is absent, it is created again."""
    store = sqlite_path(address)
    return store is not None and place.parent == store.resolve().parent


def _refuse_read_only(path: Path) -> None:
    """Raise `TrackingError` for a store that is not writable."""
    try:
        with open_database(path) as database:
            database.execute("PRAGMA busy_timeout = 0")
            database.execute("BEGIN IMMEDIATE")
            database.execute("UPDATE alembic_version SET version_num = version_num")
            database.execute("ROLLBACK")
    except TrackingError as error:
        if "locked" in error.found:  # another process is writing, so the store is writable
            return
        raise TrackingError(
            f"the MLflow store {path} cannot be written to",
            found=error.found,
            remedy="make the file and its folder writable, or use another store: tracking.uri=...",
        ) from error
