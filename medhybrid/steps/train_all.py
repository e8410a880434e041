"""Several trainings in one call: each is trained once, resumed if interrupted, and recorded under one MLflow run.

FOLDER/runs.json       run folder of each training, by name
FOLDER/started/<name>  run folder of a training that a worker started, until it is in runs.json
FOLDER/cases.csv       Dice of every validation case of every training
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

from medhybrid.config import StudyConfig
from medhybrid.data.source import check_source
from medhybrid.data.workers import FELLOWS, PLACE, WorkerDied, available_cores
from medhybrid.errors import ConfigError, DataError, MedHybridError, TrainingError
from medhybrid.files import make_folder, write_atomically, write_csv
from medhybrid.inference.engines.pool import Pool
from medhybrid.inference.records import MAX_ATTEMPTS, STARTED, STARTED_NAMES
from medhybrid.interrupt import stop_on_signals
from medhybrid.names import check_case_name
from medhybrid.progress import Reporter, Silent
from medhybrid.runs.data import check_data, read_data
from medhybrid.runs.folder import study_folder
from medhybrid.runs.leakage import check_leakage
from medhybrid.runs.places import config_here
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.record import check_tracking, experiment_of, without_places
from medhybrid.runs.resume import mark_part, run_config
from medhybrid.runs.run import Run
from medhybrid.runs.score_tables import dice_by_case, read_scores
from medhybrid.runs.setup import RunSetup, require_validation, resolve_setup
from medhybrid.steps.train import resume, train
from medhybrid.tracking.jsonl import read_log
from medhybrid.tracking.mlflow import MlflowTracker, RunInfo
from medhybrid.tracking.mlflow_store import default_uri, is_default_store
from medhybrid.tracking.setup import prepare_store
from medhybrid.training.checkpoint import has_checkpoint
from medhybrid.training.team import refuse_team
from medhybrid.training.tracker import Tracker
from medhybrid.version import __version__, code_revision

logger = logging.getLogger(__name__)

STORE_WAIT_S = 60.0
"""Seconds to wait until the store has created the parent run."""


@dataclass(frozen=True, slots=True)
class Training:
    """Finished training: its run, and the Dice of its validation cases."""

    name: str
    config: StudyConfig
    run: Run
    cases: dict[str, float]

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the validation cases."""
        return sum(self.cases.values()) / len(self.cases)


def train_all(
    configs: Mapping[str, StudyConfig],
    folder: str | Path,
    *,
    parent_run_id: str = "",
    pool: Pool | None = None,
    reporter: Reporter | None = None,
) -> list[Training] | None:
    """Train every config; a second call continues where the first one stopped.

    Parameters
    ----------
    folder : str or Path
        Folder with the index of the trainings.
    parent_run_id : str
        MLflow run under which the trainings are nested.
    pool : Pool, optional
        Workers for parallel trainings; by default this process trains them one after the other.

    Returns
    -------
    list of Training or None
        The trainings in the order of `configs`; None if interrupted.

    Raises
    ------
    ConfigError
        If a training has no validation (`training.fold: all`).
    DataError
        If a training of an earlier call had another config, other data or other folds, or if pretrained weights were trained
        on a validation case.
    TrainingError
        If the workers of a training died in all attempts.
    """
    refuse_team("a series of trainings")
    reporter, folder = reporter or Silent(), Path(folder)
    for name, config in configs.items():
        check_case_name(name, source="names of trainings")
        require_validation(config, "a series of trainings, which is compared by scores,")
    known = _known_runs(folder)
    waiting: list[Job] = []
    trainings: dict[str, Training] = {}
    for name, config in configs.items():
        if name not in known:
            setup = resolve_setup(config)
            _require_validation(setup, name)
            check_leakage(setup)
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
    """Training to start, or to resume if it has a run folder."""

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
    """Yield trainings as they finish; if a worker dies, another one resumes its training from the last checkpoint."""
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
        f"workers died {MAX_ATTEMPTS} times on {died[0][0].name}",
        found=died[0][1].found,
        remedy="check the memory of the host",
    )


def train_job(folder: Path, parent_run_id: str, job: Job) -> Run | MedHybridError:
    """Run a training in a worker, with one GPU for each worker if there are several."""
    import torch

    place = int(os.environ.get(PLACE, "0"))
    if (n_gpus := torch.cuda.device_count()) > 1:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(n_gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[place % n_gpus]  # torch reads it at the first use of a GPU
    torch.set_num_threads(max(1, available_cores() // int(os.environ.get(FELLOWS, "1"))))
    try:
        run = _train(job, folder, parent_run_id, Silent())
    except MedHybridError as error:
        return error
    if run.is_interrupted:
        sys.exit(128 + signal.SIGTERM)  # the sender of SIGTERM waits for this process to end
    return run


def _train(job: Job, folder: Path, parent_run_id: str, reporter: Reporter) -> Run:
    def remember(started: Path) -> None:
        write_atomically(folder / STARTED / job.name, str(started))
        mark_part(started, folder)

    if job.run is not None:
        return resume(job.run, reporter=reporter)
    return train(job.config, parent_run_id=parent_run_id, on_start=remember, reporter=reporter)


def _require_validation(setup: RunSetup, name: str) -> None:
    """Raise `DataError` if no case validates, since the trainings are compared by their validation."""
    if not setup.validation_cases:
        raise DataError(
            f"{name} has no validation case, so its training has no score",
            expected="cases of at least two subjects",
            remedy="add a subject, correct data.subject_pattern, or use medhybrid train, which needs no validation",
        )


def _known_runs(folder: Path) -> dict[str, Path]:
    """Return the run folder of each started training, after moving new entries of `started/` to `runs.json`."""
    index = folder / "runs.json"
    known: dict[str, str] = json.loads(index.read_text()) if index.is_file() else {}
    started = sorted(p for name in STARTED_NAMES for p in (folder / name).glob("*") if not p.name.startswith("."))
    if started:
        known |= {path.name: path.read_text() for path in started}
        write_atomically(index, json.dumps(known, indent=1))
        for path in started:
            path.unlink()
    return {name: run_beside(folder, run) for name, run in known.items()}


def run_beside(folder: Path, run: str) -> Path:
    """Return the current path of a recorded run folder, also after the project was moved or copied."""
    beside = folder.parent / Path(run).name
    return beside if beside.is_dir() or not Path(run).is_dir() else Path(run)


def _earlier(folder: Path, config: StudyConfig, name: str) -> Run | None:
    """Return a finished or interrupted run of an earlier call; None if it was removed or has no checkpoint."""
    if not (folder / "config.yaml").is_file():
        return None
    if not _is_same_study(folder, config):
        raise DataError(
            f"training {name} had another config in an earlier call", remedy="choose another name for this call"
        )
    if read_data(folder) is not None:  # finished runs of earlier versions do not need their data
        check_data(folder, resolve_setup(config).data)
    check_source(prepared_folder(config), config)
    is_done = (folder / "validation.csv").is_file() and (folder / "model" / "model.json").is_file()
    if not is_done and not has_checkpoint(folder / "checkpoint"):
        return None
    run_id = folder / "mlflow_run_id"
    return Run(folder, run_id.read_text().strip() if run_id.is_file() else None, {}, 0, is_interrupted=not is_done)


def _is_same_study(folder: Path, config: StudyConfig) -> bool:
    """Return whether a run was trained with a config, ignoring paths, tracking, and the plan's choices for the network."""
    then, now = run_config(folder), config
    chosen = {key: None for key, value in now.network if value is None}
    then = then.model_copy(update={"network": then.network.model_copy(update=chosen)})
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
    """Exception that ends a block of `nested_runs` after an interruption."""


@contextmanager
def nested_runs(config: StudyConfig, folder: Path, description: str) -> Iterator[tuple[str, Tracker | None]]:
    """Create a parent MLflow run; yields its id (empty if the store does not respond) and its tracker.

    `InterruptedRunsError` within the block leaves the block and is not raised further.
    """
    if ".." in folder.parts:
        raise ConfigError(f"invalid name {folder.name!r}", expected="a folder inside the study's folder of runs")
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
        tags={**config.tracking.tags, "medhybrid.version": __version__, "medhybrid.code": code_revision()},
        datasets={},
    )
    if is_default_store(
        config.tracking.uri, Path(config.runs)
    ):  # creating a store takes time, and the trainings need its run id
        prepare_store(default_uri(Path(config.runs)))
    tracker = MlflowTracker(config.tracking.uri, Path(config.runs), info, folder=folder)
    until = time.monotonic() + STORE_WAIT_S
    while tracker.run_id is None and time.monotonic() < until:
        time.sleep(0.1)
    if tracker.run_id is None:
        logger.warning("tracking: the store does not respond; the trainings are recorded without a parent run")
    try:
        yield tracker.run_id or "", tracker
        tracker.finish("FINISHED")
    except InterruptedRunsError:
        tracker.finish("KILLED")
    except BaseException:
        tracker.finish("KILLED")
        raise


def curve_of(training: Training) -> tuple[tuple[float, float], ...]:
    """Return (minutes or steps, mean Dice) of each validation; minutes are scaled from steps, to ignore interruptions."""
    events = read_log(training.run.folder / "log.jsonl")
    points = [(int(e["step"]), float(e["values"]["val/dice"])) for e in events if "val/dice" in e.get("values", {})]
    minutes = training.config.training.max_minutes
    scale = 1.0 if minutes is None else minutes / max(points[-1][0], 1)
    return tuple((step * scale, dice) for step, dice in points)
