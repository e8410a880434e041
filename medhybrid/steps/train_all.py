"""Several trainings as one: each once, resumed where it stopped, recorded under one MLflow run.

FOLDER/runs.json     name of each training to its run folder
FOLDER/begun/<name>  the run folder of a training that a worker began, until runs.json has it
FOLDER/cases.csv     Dice of every validation case of every training
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.source import check_source
from medhybrid.data.workers import FELLOWS, PLACE, WorkerDied, available_cores
from medhybrid.errors import ConfigError, DataError, MedHybridError, TrainingError
from medhybrid.files import make_folder, write_atomically, write_csv
from medhybrid.inference.engines.pool import Pool
from medhybrid.inference.records import MAX_ATTEMPTS
from medhybrid.names import check_case_name
from medhybrid.steps.independence import check_independence
from medhybrid.steps.interrupt import stop_on_signals
from medhybrid.steps.prepared import prepared_folder
from medhybrid.steps.progress import Reporter, Silent
from medhybrid.steps.resume import mark_part, run_config
from medhybrid.steps.run_data import check_data
from medhybrid.steps.run_places import config_here
from medhybrid.steps.run_record import check_tracking, code_revision, experiment_of, study_folder, without_places
from medhybrid.steps.score_tables import dice_by_case, read_scores
from medhybrid.steps.train import Run, resume, train
from medhybrid.tracking.jsonl import read_log
from medhybrid.tracking.mlflow import MlflowTracker, RunInfo
from medhybrid.tracking.mlflow_store import default_uri, is_default_store
from medhybrid.tracking.setup import prepare_store
from medhybrid.training.checkpoint import has_checkpoint
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
    configs: Mapping[str, StudyConfig],
    folder: str | Path,
    *,
    parent_run_id: str = "",
    pool: Pool | None = None,
    reporter: Reporter | None = None,
) -> list[Training] | None:
    """Train every config, in order; a second call goes on where the first one stopped.

    Parameters
    ----------
    folder : str or Path
        What belongs together; a training is known by its name there.
    parent_run_id : str
        MLflow run under which the others are nested.
    pool : Pool, optional
        Workers that train one each at the same time; by default this process trains them in turn.

    Returns
    -------
    list of Training, or None if it was interrupted.

    Raises
    ------
    DataError
        If a name of an earlier call stands for another config, other data or folds now, or a start has seen a case that is to
        validate.
    TrainingError
        If workers died on a training again and again.
    """
    refuse_team("a row of trainings")
    reporter, folder = reporter or Silent(), Path(folder)
    for name in configs:
        check_case_name(name, source="a training of several")
    known = _known_runs(folder)
    waiting: list[Job] = []
    trainings: dict[str, Training] = {}
    for name, config in configs.items():
        if name not in known:
            check_independence(config)
        run = _earlier(known[name], config, name) if name in known else None
        if run is not None and not run.is_interrupted:
            trainings[name] = Training(name, config, run, dice_by_case(read_scores(run.folder / "validation.csv")))
        else:
            waiting.append(Job(name, config, None if run is None else run.folder))
    work = partial(train_job, folder, parent_run_id)
    with stop_on_signals() if pool is None else nullcontext(lambda: False) as should_stop:
        results = (
            _in_turn(waiting, folder, parent_run_id, reporter) if pool is None else _on(pool, work, waiting, folder)
        )
        for n, (job, run) in enumerate(results, start=1):
            _known_runs(folder)
            if run.is_interrupted:
                return None
            trainings[job.name] = Training(
                job.name, job.config, run, dice_by_case(read_scores(run.folder / "validation.csv"))
            )
            _write_cases(folder / "cases.csv", [trainings[name] for name in configs if name in trainings])
            if pool is not None:
                reporter.message(
                    f"{job.name}: mean Dice {trainings[job.name].mean_dice:.4f}; {n} of {len(waiting)} trained"
                )
            if should_stop() and n < len(waiting):
                return None
    return [trainings[name] for name in configs]


@dataclass(frozen=True, slots=True)
class Job:
    """A training that is to be done, or gone on with."""

    name: str
    config: StudyConfig
    run: Path | None


def _in_turn(jobs: Sequence[Job], folder: Path, parent_run_id: str, reporter: Reporter) -> Iterator[tuple[Job, Run]]:
    for n, job in enumerate(jobs, start=1):
        reporter.message(f"training {n} of {len(jobs)}: {job.name}")
        yield job, _train(job, folder, parent_run_id, reporter)


def _on(
    pool: Pool, work: Callable[[Job], Run | MedHybridError], jobs: Sequence[Job], folder: Path
) -> Iterator[tuple[Job, Run]]:
    """Trainings as they end; one whose worker died goes on from its last checkpoint with another."""
    waiting = list(jobs)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        died: list[tuple[Job, WorkerDied]] = []
        for job, result in pool.map(work, waiting):
            if isinstance(result, WorkerDied):
                died.append((job, result))
            elif isinstance(result, MedHybridError):
                raise result
            else:
                yield job, result
        if not died:
            return
        logger.warning("a worker died on %s (attempt %d)", ", ".join(job.name for job, _ in died), attempt)
        known = _known_runs(folder)
        waiting = [replace(job, run=known.get(job.name)) for job, _ in died]
    raise TrainingError(
        f"workers died {MAX_ATTEMPTS} times on {died[0][0].name}", found=died[0][1].found, remedy="give it more memory"
    )


def train_job(folder: Path, parent_run_id: str, job: Job) -> Run | MedHybridError:
    """In a worker, on a GPU of its own where there are several."""
    import torch

    place = int(os.environ.get(PLACE, "0"))
    if (n_gpus := torch.cuda.device_count()) > 1:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(n_gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[place % n_gpus]  # before this process has used one
    torch.set_num_threads(max(1, available_cores() // int(os.environ.get(FELLOWS, "1"))))
    try:
        run = _train(job, folder, parent_run_id, Silent())
    except MedHybridError as error:
        return error
    if run.is_interrupted:
        sys.exit(128 + signal.SIGTERM)  # whoever sent it waits for this process to end
    return run


def _train(job: Job, folder: Path, parent_run_id: str, reporter: Reporter) -> Run:
    def remember(started: Path) -> None:
        write_atomically(folder / "begun" / job.name, str(started))
        mark_part(started, folder)

    if job.run is not None:
        return resume(job.run, reporter=reporter)
    return train(job.config, parent_run_id=parent_run_id, on_start=remember, reporter=reporter)


def _known_runs(folder: Path) -> dict[str, Path]:
    """The run folder of each training that was begun; `runs.json` has them from now on."""
    index = folder / "runs.json"
    known: dict[str, str] = json.loads(index.read_text()) if index.is_file() else {}
    begun = sorted(p for p in (folder / "begun").glob("*") if not p.name.startswith("."))
    if begun:
        known |= {path.name: path.read_text() for path in begun}
        write_atomically(index, json.dumps(known, indent=1))
        for path in begun:
            path.unlink()
    return {name: run_beside(folder, run) for name, run in known.items()}


def run_beside(folder: Path, run: str) -> Path:
    """Return a run folder that a search or cross-validation has kept: beside it, also where the project was moved or copied."""
    beside = folder.parent / Path(run).name
    return beside if beside.is_dir() or not Path(run).is_dir() else Path(run)


def _earlier(folder: Path, config: StudyConfig, name: str) -> Run | None:
    """A run of an earlier call: finished, or to go on with; None if it is gone."""
    if not (folder / "config.yaml").is_file():
        return None
    if not _is_same_study(folder, config):
        raise DataError(
            f"training {name} has another config than in an earlier call", remedy="give the whole another name"
        )
    check_data(folder, config)
    check_source(prepared_folder(config), config)
    is_done = (folder / "validation.csv").is_file() and (folder / "model" / "model.json").is_file()
    if not is_done and not has_checkpoint(folder / "checkpoint"):
        return None
    run_id = folder / "mlflow_run_id"
    return Run(folder, run_id.read_text().strip() if run_id.is_file() else None, {}, 0, is_interrupted=not is_done)


def _is_same_study(folder: Path, config: StudyConfig) -> bool:
    """Return whether a run was made with a config; its data and records may be elsewhere now."""
    then, now = run_config(folder), config
    starts = [c.training.pretrained for c in (config_here(folder), now)]
    is_same_start = then.training.pretrained == now.training.pretrained or (
        all(starts) and Path(str(starts[0])).resolve() == Path(str(starts[1])).resolve()
    )
    return is_same_start and without_places(then) == without_places(now)


def _write_cases(path: Path, trainings: list[Training]) -> None:
    rows: list[list[object]] = [["training", "fold", "seed", "case", "dice"]]
    for t in trainings:
        of = t.config.training
        rows += [[t.name, of.fold, of.seed, case, f"{dice:.4f}"] for case, dice in sorted(t.cases.items())]
    write_csv(path, rows)


class InterruptedRunsError(Exception):
    """Raised within `nested_runs`, which goes no further."""


@contextmanager
def nested_runs(config: StudyConfig, folder: Path, description: str) -> Iterator[tuple[str, Tracker | None]]:
    """An MLflow run that others are nested under: its id (empty where the store does not answer) and its tracker.

    A block that raises `InterruptedRunsError` is left, and what follows it goes on.
    """
    if ".." in folder.parts:
        raise ConfigError(f"{folder.name!r} is no name", expected="one that stays in the study's folder of runs")
    study_folder(config)
    check_tracking(config, folder)
    make_folder(folder)
    if config.tracking.kind != "mlflow":
        with suppress(InterruptedRunsError):
            yield "", None
        return
    info = RunInfo(
        experiment=experiment_of(config),
        name=folder.name,
        description=description,
        params={},
        tags={"medhybrid.version": medhybrid.__version__, "medhybrid.code": code_revision()},
        datasets={},
    )
    if is_default_store(
        config.tracking.uri, Path(config.runs)
    ):  # the trainings need its id, and a new store takes its time
        prepare_store(default_uri(Path(config.runs)))
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


def curve_of(training: Training) -> tuple[tuple[float, float], ...]:
    """Minutes or steps, and mean Dice, of the validations; minutes by the share of the steps: a pause does not count."""
    events = read_log(training.run.folder / "log.jsonl")
    points = [(int(e["step"]), float(e["values"]["val/dice"])) for e in events if "val/dice" in e.get("values", {})]
    minutes = training.config.training.max_minutes
    scale = 1.0 if minutes is None else minutes / max(points[-1][0], 1)
    return tuple((step * scale, dice) for step, dice in points)
