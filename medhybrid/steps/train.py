"""`medhybrid train`: from prepared cases to a model, with every step on record."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import medhybrid
from medhybrid.config import StudyConfig, config_from_dict, save_config
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.data.store import PreparedCase
from medhybrid.errors import ConfigError, DataError, MedHybridError
from medhybrid.inference.model import ModelRecord, model_card, save_model
from medhybrid.review.training import draw_reference, draw_result, write_table
from medhybrid.steps.preprocess import prepared_folder
from medhybrid.steps.progress import Reporter, Silent
from medhybrid.tracking.jsonl import JsonlTracker
from medhybrid.tracking.mlflow import MlflowTracker, RunInfo
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.training.checkpoint import load_checkpoint
from medhybrid.training.loop import Outcome, Progress, Trainer
from medhybrid.training.tracker import Tracker
from medhybrid.training.validation import Validation, subset

logger = logging.getLogger(__name__)

PICTURED_CASES = 3
"""Cases drawn at each validation: the same ones, so that progress can be seen."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished or interrupted run."""

    folder: Path
    run_id: str | None
    metrics: dict[str, float]
    n_steps: int
    is_interrupted: bool


def train(config: StudyConfig, *, reporter: Reporter | None = None) -> Run:
    """Train a new run.

    Raises
    ------
    DataError
        If the dataset is not prepared, or the fold has no case.
    TrainingError
        If the loss is no longer finite.
    """
    dataset = PreparedDataset(prepared_folder(config))
    folder = _new_folder(config)
    save_config(config, folder / "config.yaml")
    dataset.plan.save(folder / "plan.json")
    return _run(config, dataset, folder, reporter or Silent(), resume=False)


def resume(folder: Path, overrides: Sequence[str] = (), *, reporter: Reporter | None = None) -> Run:
    """Go on with a run as if nothing had happened, or extend it (`training.iterations=+1000`).

    Raises
    ------
    ModelError
        If the run has no usable checkpoint.
    """
    config = extend(run_config(folder), overrides)
    dataset = PreparedDataset(prepared_folder(config))
    if dataset.plan.model_dump(exclude={"reasons"}) != Plan.load(folder / "plan.json").model_dump(exclude={"reasons"}):
        raise DataError(
            f"the prepared dataset has another plan than the run {folder.name}",
            remedy="preprocess with the run's config.yaml, or start a new run",
        )
    save_config(config, folder / "config.yaml")
    return _run(config, dataset, folder, reporter or Silent(), resume=True)


def run_config(folder: Path) -> StudyConfig:
    """The resolved config of a run."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is no run folder", expected="config.yaml in it", remedy="check --resume")
    return config_from_dict(yaml.safe_load(path.read_text()), source=str(path))


def latest_run(config: StudyConfig) -> Path:
    """The newest run folder of a study.

    Raises
    ------
    ConfigError
        If there is none.
    """
    folders = sorted(p.parent for p in (Path(config.runs) / config.name).glob("*/config.yaml"))
    if not folders:
        raise ConfigError(f"study {config.name} has no run in {config.runs}", remedy="start one without --resume")
    return folders[-1]


def extend(config: StudyConfig, overrides: Sequence[str]) -> StudyConfig:
    """Change a run's length, absolute or relative (`+1000`); nothing else may change on resume."""
    length: dict[str, Any] = {}
    for item in overrides:
        match = re.fullmatch(r"training\.(iterations|max_minutes)=(\+?)([0-9.e]+)", item)
        if match is None:
            raise ConfigError(
                f"{item} cannot change on --resume",
                expected="training.iterations=N, +N, or training.max_minutes=M, +M",
                remedy="start a new run for other settings",
            )
        name, is_more, value = match.group(1), match.group(2), float(match.group(3))
        old = getattr(config.training, name)
        if is_more and old is None:
            raise ConfigError(f"{item}: the run's length is not set by {name}")
        total = value + (old if is_more else 0)
        length = {"iterations": None, "max_minutes": None, name: int(total) if name == "iterations" else total}
    if not length:
        return config
    values = config.model_dump()
    values["training"] |= length
    return config_from_dict(values, source="--resume")


# --- one run ----------------------------------------------------------------------------------------------------------


def _run(config: StudyConfig, dataset: PreparedDataset, folder: Path, reporter: Reporter, *, resume: bool) -> Run:
    plan = dataset.plan
    fold = dataset.fold(config.training.fold)
    train_cases, validation_cases = dataset.open(fold.train), dataset.open(fold.validation)
    data_hash = dataset.data_hash()
    tracker = _make_tracker(config, dataset, folder, data_hash, resume=resume)
    shown = max((i for i, n in enumerate(plan.normalisation) if not n.optional), default=0)

    pictured = subset(subset(validation_cases, config.training.validation_cases), PICTURED_CASES)

    def on_validation(validation: Validation) -> None:
        _show_validation(validation, {c.name for c in pictured}, folder, tracker, shown)

    def on_progress(p: Progress) -> None:
        dice = "" if p.dice is None else f"  dice {p.dice:.3f}"
        reporter.advance(p.fraction, f"step {p.step}  loss {p.loss:.3f}{dice}  {_minutes(p.left_s)} left")

    with _stop_on_signals() as should_stop:
        try:
            trainer = Trainer(
                config,
                plan,
                train_cases,
                validation_cases,
                folder=folder,
                tracker=tracker,
                should_stop=should_stop,
                on_progress=on_progress,
                on_validation=on_validation,
            )
            if resume:
                trainer.restore()
            else:
                _log_inputs(tracker, folder)
                _show_references(pictured, folder, tracker, shown)
            reporter.begin(f"training {folder.name} on {trainer.device}, {str(trainer.precision)[6:]}", 1.0)
            outcome = trainer.fit()
            reporter.end()
            metrics = _save(config, dataset.plan, outcome, folder, data_hash)
            if not outcome.is_interrupted:
                tracker.log_metrics({f"final/{k}": v for k, v in metrics.items()}, outcome.step)
                register_as = config.name if config.tracking.register_model else None
                tracker.log_model(folder / "model", register_as=register_as, alias=config.tracking.alias)
            tracker.finish("KILLED" if outcome.is_interrupted else "FINISHED")
        except BaseException:
            tracker.finish("FAILED")
            raise
    return Run(folder, tracker.run_id, metrics, outcome.step, outcome.is_interrupted)


def _save(config: StudyConfig, plan: Plan, outcome: Outcome, folder: Path, data_hash: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if outcome.validation is not None:
        metrics = {k: v for k, v in outcome.validation.metrics().items() if not k.startswith("val_case/")}
    record = ModelRecord(
        medhybrid_version=medhybrid.__version__,
        network=config.network,
        inference=config.inference,
        channel_map=config.data.channel_map,
        plan=plan,
        fold=config.training.fold,
        data_hash=data_hash,
        weights_sha256="",
        metrics=metrics,
    )
    save_model(folder / "model", outcome.weights, record, model_card(record, f"{config.name}, {folder.name}"))
    return metrics


def _show_references(cases: Sequence[PreparedCase], folder: Path, tracker: Tracker, channel: int) -> None:
    """Step 0 of each series of pictures: MLflow's slider begins there."""
    try:
        for case in cases:
            path = draw_reference(case, folder / "pictures", channel=channel)
            tracker.log_image(path, f"validation/{case.name}", 0)
    except (OSError, ValueError) as error:
        logger.warning("no pictures of the references: %s", error)


def _show_validation(
    validation: Validation, pictured: Collection[str], folder: Path, tracker: Tracker, channel: int
) -> None:
    """Pictures of the same few cases each time; a table of all at the end."""
    try:
        for result in (r for r in validation.results if r.case.name in pictured):
            path = draw_result(result, folder / "pictures", channel=channel, step=validation.step)
            tracker.log_image(path, f"validation/{result.case.name}", validation.step)
        if validation.is_complete:
            tracker.log_table(write_table(validation, folder / "validation.csv"), "validation")
            tracker.log_file(folder / "validation.csv", "")
    except (OSError, ValueError) as error:  # a picture must not stop a training
        logger.warning("no pictures of this validation: %s", error)


def _log_inputs(tracker: Tracker, folder: Path) -> None:
    tracker.log_file(folder / "config.yaml", "")
    tracker.log_file(folder / "plan.json", "")


def _make_tracker(
    config: StudyConfig, dataset: PreparedDataset, folder: Path, data_hash: str, *, resume: bool
) -> SeveralTrackers:
    trackers: list[Tracker] = [JsonlTracker(folder / "log.jsonl")]
    if config.tracking.kind == "mlflow":
        run_id = None
        if resume:
            try:
                run_id = load_checkpoint(folder / "checkpoint")["run_id"]
            except MedHybridError:
                logger.warning("the run's MLflow id is unknown; a new MLflow run is made")
        info = _run_info(config, dataset, folder, data_hash)
        trackers.append(MlflowTracker(config.tracking.uri, Path(config.runs), info, folder=folder, run_id=run_id))
    return SeveralTrackers(trackers)


def reopen_tracker(folder: Path) -> Tracker:
    """The record of an ended run, to add to it."""
    config = run_config(folder)
    return _make_tracker(config, PreparedDataset(prepared_folder(config)), folder, "", resume=True)


def _run_info(config: StudyConfig, dataset: PreparedDataset, folder: Path, data_hash: str) -> RunInfo:
    fold = dataset.fold(config.training.fold)
    present = set(dataset.names())
    plan, training = dataset.plan, config.training
    length = f"{training.max_minutes:g} min" if training.max_minutes else f"{training.iterations} steps"
    description = "\n".join(
        [
            f"**{config.name}**: {', '.join(plan.labels)} from {', '.join(plan.channels)}",
            "",
            f"- network: {config.network.kind}, widths {config.network.widths}",
            f"- patch {plan.patch_size} at {plan.spacing_mm} mm, batch {plan.batch_size}",
            f"- length: {length}, fold {training.fold}, seed {training.seed}",
        ]
    )
    sides = {"train": fold.train, "validation": fold.validation}
    datasets = {
        side: {
            "name": f"{config.name}-fold{training.fold}-{side}",
            "hash": data_hash,
            "cases": sorted(set(n) & present),
        }
        for side, n in sides.items()
    }
    return RunInfo(
        experiment=config.tracking.experiment or config.name,
        name=folder.name,
        description=description,
        params=_key_parameters(config, plan),
        tags={
            "medhybrid.version": medhybrid.__version__,
            "medhybrid.code": code_revision(),
            "medhybrid.data_hash": data_hash,
            "medhybrid.fold": str(training.fold),
            "medhybrid.seed": str(training.seed),
            "medhybrid.network": config.network.kind,
        },
        datasets=datasets,
    )


def _key_parameters(config: StudyConfig, plan: Plan) -> dict[str, str]:
    """What runs are compared by; `config.yaml` has the rest. MLflow prints them all beside each picture, so they are few."""
    network, training = config.network, config.training
    values = {
        "network.kind": network.kind,
        "network.widths": network.widths,
        "network.depth": network.depth,
        "plan.spacing_mm": plan.spacing_mm,
        "plan.patch_size": plan.patch_size,
        "plan.batch_size": plan.batch_size,
        "training.max_minutes": training.max_minutes,
        "training.iterations": training.iterations,
        "training.peak_rate": training.peak_rate,
        "training.fold": training.fold,
        "training.seed": training.seed,
    }
    return {k: str(v) for k, v in values.items() if v is not None}


def code_revision() -> str:
    """The git revision of the package's source, with `+changes` if it was edited; the version where there is no git."""
    here = Path(medhybrid.__file__).parent
    try:
        ask = ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"]
        revision = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "."], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return medhybrid.__version__
    return revision + ("+changes" if dirty else "")


def _new_folder(config: StudyConfig) -> Path:
    base = Path(config.runs) / config.name
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{config.network.kind}-fold{config.training.fold}-seed{config.training.seed}"
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        folder = base / (name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise DataError(f"too many runs of one second in {base}")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks the loop to stop after its step; a second one acts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before: dict[int, Any] = {}

    def ask(number: int, _: Any) -> None:
        asked.set()
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
