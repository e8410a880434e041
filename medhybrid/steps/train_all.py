"""Several trainings as one: each once, resumed where it stopped, recorded under one MLflow run.

FOLDER/runs.json     name of each training to its run folder
FOLDER/cases.csv     Dice of every validation case of every training
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.errors import DataError
from medhybrid.files import write_atomically
from medhybrid.steps.independence import check_independence
from medhybrid.steps.progress import Reporter, Silent
from medhybrid.steps.resume import mark_part, run_config
from medhybrid.steps.run_record import code_revision
from medhybrid.steps.train import Run, resume, train
from medhybrid.tracking.mlflow import MlflowTracker, RunInfo
from medhybrid.training.team import refuse_team
from medhybrid.training.tracker import Tracker

logger = logging.getLogger(__name__)

STORE_WAIT_S = 60.0
"""How long the first training waits for the store to name the run that the others are nested under."""


@dataclass(frozen=True, slots=True)
class Training:
    """One of several trainings: the run, and the Dice of its validation cases."""

    name: str
    config: StudyConfig
    run: Run
    cases: dict[str, float]

    @property
    def mean_dice(self) -> float:
        """Over the cases."""
        return sum(self.cases.values()) / len(self.cases)


def train_all(
    configs: Mapping[str, StudyConfig], folder: Path, *, parent_run_id: str = "", reporter: Reporter | None = None
) -> list[Training] | None:
    """Train every config, in order; a second call goes on where the first one stopped.

    Parameters
    ----------
    folder : Path
        What belongs together; a training is known by its name there.
    parent_run_id : str
        MLflow run under which the others are nested.

    Returns
    -------
    list of Training, or None if it was interrupted.

    Raises
    ------
    DataError
        If a name of an earlier call stands for another config now, or a start has seen a case that is to validate.
    """
    refuse_team("a row of trainings")
    reporter = reporter or Silent()
    index = folder / "runs.json"
    known: dict[str, str] = json.loads(index.read_text()) if index.is_file() else {}
    trainings: list[Training] = []
    for name, config in configs.items():
        if name not in known:
            check_independence(config)
    for n, (name, config) in enumerate(configs.items(), start=1):
        reporter.message(f"training {n} of {len(configs)}: {name}")
        run = _earlier(Path(known[name]), config, name) if name in known else None
        if run is None:

            def remember(started: Path, name: str = name) -> None:
                known[name] = str(started)
                mark_part(started, folder)
                write_atomically(index, json.dumps(known, indent=1))

            run = train(config, parent_run_id=parent_run_id, on_start=remember, reporter=reporter)
        elif run.is_interrupted:
            run = resume(run.folder, reporter=reporter)
        if run.is_interrupted:
            return None
        trainings.append(Training(name, config, run, _cases(run.folder)))
        _write_cases(folder / "cases.csv", trainings)
    return trainings


def _earlier(folder: Path, config: StudyConfig, name: str) -> Run | None:
    """A run of an earlier call: finished, or to go on with; None if it is gone."""
    if not (folder / "config.yaml").is_file():
        return None
    if run_config(folder) != config:
        raise DataError(
            f"training {name} has another config than in an earlier call", remedy="give the whole another name"
        )
    is_done = (folder / "validation.csv").is_file() and (folder / "model" / "model.json").is_file()
    if not is_done and not any((folder / "checkpoint").glob("*")):
        return None
    run_id = folder / "mlflow_run_id"
    return Run(folder, run_id.read_text().strip() if run_id.is_file() else None, {}, 0, is_interrupted=not is_done)


def _cases(folder: Path) -> dict[str, float]:
    with (folder / "validation.csv").open(newline="") as file:
        return {row["case"]: float(row["dice"]) for row in csv.DictReader(file)}


def _write_cases(path: Path, trainings: list[Training]) -> None:
    lines = ["training,fold,seed,case,dice"]
    for t in trainings:
        of = t.config.training
        lines += [f"{t.name},{of.fold},{of.seed},{case},{dice:.4f}" for case, dice in sorted(t.cases.items())]
    write_atomically(path, "\n".join(lines) + "\n")


class InterruptedRunsError(Exception):
    """Raised within `nested_runs`, which goes no further."""


@contextmanager
def nested_runs(config: StudyConfig, folder: Path, description: str) -> Iterator[tuple[str, Tracker | None]]:
    """An MLflow run that others are nested under: its id (empty where the store does not answer) and its tracker.

    A block that raises `InterruptedRunsError` is left, and what follows it goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.tracking.kind != "mlflow":
        with suppress(InterruptedRunsError):
            yield "", None
        return
    info = RunInfo(
        experiment=config.tracking.experiment or config.name,
        name=folder.name,
        description=description,
        params={},
        tags={"medhybrid.version": medhybrid.__version__, "medhybrid.code": code_revision()},
        datasets={},
    )
    tracker = MlflowTracker(config.tracking.uri, Path(config.runs), info, folder=folder)
    until = time.monotonic() + STORE_WAIT_S
    while tracker.run_id is None and time.monotonic() < until:
        time.sleep(0.1)
    if tracker.run_id is None:
        logger.warning("tracking: the store does not answer; the trainings are recorded side by side")
    try:
        yield tracker.run_id or "", tracker
        tracker.finish("FINISHED")
    except InterruptedRunsError:
        tracker.finish("KILLED")
    except BaseException:
        tracker.finish("KILLED")
        raise
