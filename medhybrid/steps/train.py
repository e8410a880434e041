"""`medhybrid train`: training of a model on prepared cases, with a record of every step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import torch

from medhybrid.config import StudyConfig, config_from_dict, require_config, save_config, with_values
from medhybrid.config.models import ALL_CASES, OWN_LOSS
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.fingerprint import SeenRange
from medhybrid.data.plan import Plan
from medhybrid.data.source import check_source
from medhybrid.errors import ConfigError, DataError, MedHybridError, ModelError, OutputError
from medhybrid.inference.confidence import NOT_CALIBRATED, Calibration
from medhybrid.inference.device import choose_device
from medhybrid.inference.model_folder import model_card, save_model
from medhybrid.inference.model_record import ModelRecord, TrainingRecord, read_record
from medhybrid.inference.network import network_for
from medhybrid.interrupt import stop_on_signals
from medhybrid.metrics import mean_interval
from medhybrid.networks import Network
from medhybrid.progress import Reporter, Silent
from medhybrid.runs.data import check_data, remember_data
from medhybrid.runs.folder import hold_run, new_run_folder, study_folder
from medhybrid.runs.leakage import check_leakage, read_training_images, record_training_images
from medhybrid.runs.places import with_places_here
from medhybrid.runs.prepared import in_use, prepared_folder
from medhybrid.runs.record import (
    LOSS,
    check_tracking,
    description_of,
    made_with,
    make_tracker,
    silent_tracker,
    without_places,
)
from medhybrid.runs.remarks import NO_VALIDATION, report_absent_labels, report_other_budget, thin_labels
from medhybrid.runs.resume import extend, refuse_shorter, run_config, with_places
from medhybrid.runs.run import Run
from medhybrid.runs.setup import RunSetup, resolve_setup
from medhybrid.runs.validation import record_validation, show_progress, show_references
from medhybrid.runs.verdict import Verdict, judge_training
from medhybrid.starts import Start, begin_with
from medhybrid.tracking.jsonl import read_log
from medhybrid.training.checkpoint import has_checkpoint
from medhybrid.training.determinism import deterministic, random_numbers_kept
from medhybrid.training.early_signs import EarlySigns
from medhybrid.training.loop import Outcome, Progress, Trainer
from medhybrid.training.objective import SegmentationObjective
from medhybrid.training.own_loss import LossFunction, OwnLoss
from medhybrid.training.team import Team, join_team, own_gpu
from medhybrid.training.tracker import Tracker
from medhybrid.training.validation import Validation, subset
from medhybrid.version import __version__

logger = logging.getLogger(__name__)

SHOWN_CASES = 3
"""Number of cases drawn at each validation, always the same ones, to show progress."""

OTHER_LENGTH = "other_length"
"""Empty file in the folder of a run whose length was changed during training."""


Watch = Callable[[int, float], bool]
"""Callback for each validation except the last, with its number and mean Dice; returns whether to stop the run."""


def train(
    config: StudyConfig,
    *,
    loss: LossFunction | OwnLoss | None = None,
    parent_run_id: str = "",
    on_start: Callable[[Path], None] = lambda _: None,
    watch: Watch = lambda _number, _dice: False,
    reporter: Reporter | None = None,
) -> Run:
    """Train a new run.

    Ctrl-C or SIGTERM stops it after the current step and saves its state; scripts with several trainings should check
    `is_interrupted`. The training uses the global random state of torch and restores it at the end. For parallel trainings
    use processes, not threads.

    Parameters
    ----------
    loss : callable, optional
        Loss instead of the config's: a function from logits (B, K, X, Y, Z), target and known voxels (B, X, Y, Z) to a scalar.
        It is called for each output of the network; see `docs/how-to/training-options.md`.
    parent_run_id : str
        MLflow run under which the run is nested.
    on_start : callable
        Called with the run folder before the first step.
    watch : callable
        Called at validations; see `Watch`.

    Raises
    ------
    ConfigError
        If the config has another loss besides `loss`.
    DataError
        If the dataset is not prepared, was prepared from another folder or with other settings, or the fold has no case.
    TrainingError
        If the loss is not finite.
    TrackingError
        If the store of runs must be repaired first.
    """
    config, own_loss = _with_own_loss(require_config(config), loss)
    _refuse_unlabelled(config)
    reporter = reporter or Silent()
    for message in check_source(PreparedDataset(prepared_folder(config)).folder, config):
        reporter.message(message)
    with in_use(config):
        setup = resolve_setup(config, choose_device(own_gpu(config.training.device)))
        check_leakage(setup)  # before the run folder is created: a refused training leaves no run
        study_folder(config)  # every process of a team checks it
        check_tracking(config)
        with join_team(setup.device) as team:
            team.part(setup.plan.batch_size)  # raises before the run folder is created
            folder = Path(team.tell(str(new_run_folder(config)) if team.is_first else ""))
            with _held(folder, setup.config, team):
                if team.is_first:
                    setup.plan.save(folder / "plan.json")
                    remember_data(folder, setup.data)
                    if own_loss is not None:
                        own_loss.record.save(folder)
                    on_start(folder)
                    report_other_budget(setup, reporter)
                return _run(
                    setup,
                    folder,
                    reporter,
                    team,
                    resume=False,
                    parent_run_id=parent_run_id,
                    watch=watch,
                    own_loss=own_loss,
                )


def resume(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    loss: LossFunction | OwnLoss | None = None,
    watch: Watch = lambda _number, _dice: False,
    reporter: Reporter | None = None,
) -> Run:
    """Continue an interrupted run, or extend a finished one (`training.iterations=+1000`).

    Parameters
    ----------
    loss : callable, optional
        Loss of a run that was trained with the user's own; it is never loaded through the record of the run.

    Raises
    ------
    ConfigError
        If this is not the loss of the run.
    ModelError
        If the run's checkpoints are damaged. A run without checkpoints starts from the first step.
    DataError
        If the data or the fold have changed since it started.
    OutputError
        If another process trains the run.
    TrackingError
        If the store of runs must be repaired first.
    """
    reporter = reporter or Silent()
    before = run_config(folder)
    kept = extend(before, overrides)
    config = with_places(with_places_here(kept, folder), overrides)
    has_other_length = kept.training != before.training
    with suppress(MedHybridError):  # of data that are absent here, which the setup refuses if they are needed
        for message in check_source(PreparedDataset(prepared_folder(config)).folder, config):
            reporter.message(message)
    _, own_loss = _with_own_loss(config, loss)
    if own_loss is not None:
        own_loss.record.check(folder)
    _refuse_unlabelled(config)
    check_tracking(config, folder)
    device = choose_device(own_gpu(config.training.device))
    with join_team(device) as team, in_use(config):
        # The first process rewrites config.yaml, possibly before the others read it: broadcast the earlier values.
        values, has_started = team.tell((config.model_dump(mode="json"), has_checkpoint(folder / "checkpoint")))
        config = config_from_dict(values, source=str(folder))
        setup = resolve_setup(config, device)
        then = Plan.load(folder / "plan.json")
        has_same_order = list(setup.plan.labels) == list(then.labels)  # labels are the classes of the network, in order
        if setup.plan.settings != then.settings or not has_same_order:
            raise DataError(
                f"the plan of the prepared dataset differs from the run {folder.name}",
                expected="" if has_same_order else f"labels in the order {', '.join(then.labels)}",
                found="" if has_same_order else ", ".join(setup.plan.labels),
                remedy="preprocess with the run's config.yaml, or start a new run",
            )
        check_data(folder, setup.data)
        if has_started and has_other_length:
            refuse_shorter(folder, config)
        team.part(setup.plan.batch_size)
        # Check before anything is written, so that a refused run stays unchanged.
        record_training_images(folder, setup.train_cases, setup.validation_cases)
        if not has_started:
            reporter.message(f"{folder.name} has no checkpoint yet: starting from the first step")
        with _held(folder, kept, team):
            if team.is_first and has_started and has_other_length:
                (folder / OTHER_LENGTH).touch()
            return _run(setup, folder, reporter, team, resume=has_started, watch=watch, own_loss=own_loss)


@contextmanager
def _held(folder: Path, config: StudyConfig, team: Team) -> Iterator[None]:
    """Lock a run and write its config in the first process; all processes raise the error of the first."""
    with ExitStack() as stack:
        problem: OutputError | None = None
        if team.is_first:
            try:
                stack.enter_context(hold_run(folder))
                save_config(config, folder / "config.yaml")
            except OutputError as error:
                problem = error
            except OSError as error:
                problem = OutputError(f"{folder} cannot be written to", found=error.strerror or str(error))
        if (problem := team.tell(problem)) is not None:
            raise problem
        yield


# --- one run ----------------------------------------------------------------------------------------------------------


def _run(
    setup: RunSetup,
    folder: Path,
    reporter: Reporter,
    team: Team,
    *,
    resume: bool,
    watch: Watch,
    parent_run_id: str = "",
    own_loss: OwnLoss | None = None,
) -> Run:
    """Train a new or resumed run; only the first process of a team writes records."""
    if not team.is_first:
        reporter = Silent()
    config = setup.config
    plan = setup.plan
    tracker = silent_tracker()
    if team.is_first:
        tracker = make_tracker(config, plan, setup.data, folder, parent_run_id=parent_run_id)
    shown = max((i for i, n in enumerate(plan.normalisation) if not n.optional), default=0)

    shown_cases = subset(subset(setup.validation_cases, config.training.validation_cases), SHOWN_CASES)

    is_ended = False
    trainer: Trainer | None = None
    on_known = " on labelled voxels" if any(c.record.known_share < 1 for c in setup.validation_cases) else ""

    def on_validation(validation: Validation) -> None:
        nonlocal is_ended
        if not validation.is_complete and trainer is not None:
            is_ended = watch(trainer.validations_done, validation.mean_dice)
            if sign := signs.see_dice(trainer.progress, validation.dice_of_present):
                reporter.message(sign)
        show_progress(validation, {c.name for c in shown_cases}, folder, tracker, shown)

    state = ""

    def on_progress(p: Progress) -> None:
        nonlocal state
        state = f"  loss {p.loss:.3f}" + ("" if p.dice is None else f"  dice{on_known} {p.dice:.3f}")
        if sign := signs.see_loss(p.fraction, p.loss):
            reporter.message(sign)

    def on_step(step: int, fraction: float) -> None:
        reporter.advance(fraction, f"step {step}{state}" if fraction < 1 else f"step {step}: validating all cases")

    if not config.training.has_validation:
        reporter.message(NO_VALIDATION)
    if team.is_first and not resume:
        report_absent_labels(plan, setup.train_cases, config.training.fold, reporter)
    with stop_on_signals() as should_stop, random_numbers_kept(), deterministic(config.training.deterministic):
        try:
            network, start = (None, None) if resume else _begin(config, plan)
            pictures = record_training_images(folder, setup.train_cases, setup.validation_cases, start)
            trainer = Trainer(
                config,
                plan,
                setup.train_cases,
                setup.validation_cases,
                folder=folder,
                tracker=tracker,
                should_stop=lambda: is_ended or should_stop(),
                on_progress=on_progress,
                on_step=on_step,
                on_validation=on_validation,
                on_stage=tracker.begin,
                network=network,
                training_images=pictures,
                team=team,
                device=setup.device,
                objective=partial(SegmentationObjective, class_weights=setup.class_weights, own_loss=own_loss),
            )
            losses: list[float] = []
            if resume:
                trainer.restore()
                losses = _logged_losses(folder, trainer.step)
            elif team.is_first:
                _report_start(start, folder, tracker, reporter)
                _log_inputs(tracker, folder)
                tracker.log_metrics({"network/parameters": sum(p.numel() for p in trainer.network.parameters())}, 0)
                show_references(shown_cases, folder, tracker, shown)
                if not config.training.has_validation:
                    tracker.describe(description_of(config, plan))
            signs = EarlySigns(config, plan, thin_labels(setup), losses=losses, progress=trainer.progress)
            reporter.message(f"training {folder.name} on {trainer.device}, {trainer.precision}")
            reporter.begin("training", 1.0)
            reporter.advance(trainer.progress, f"step {trainer.step}")
            outcome = trainer.fit()
            reporter.end()
            metrics: dict[str, float] = {}
            verdict = _judge(folder, config, outcome) if team.is_first else None
            if team.is_first and outcome.is_interrupted and _has_finished_model(folder):
                # The weights of an unfinished extension are not validated and may be worse.
                reporter.message(
                    f"{folder / 'model'} stays that of the finished training until the extension is finished"
                )
            elif team.is_first:
                metrics = _save(setup, outcome, folder, own_loss, verdict)
            if team.is_first and outcome.validation is not None and outcome.validation.is_complete:
                # The model is saved first, since this record takes minutes with hundreds of cases.
                lines = [] if verdict is None else ["", *verdict.lines]
                text, logs_report = "\n".join([description_of(config, plan), *lines]), config.tracking.log_report
                record_validation(outcome.validation, folder, tracker, shown, text, logs_report=logs_report)
            if team.is_first and not outcome.is_interrupted:
                tracker.log_metrics({f"final/{k}": v for k, v in metrics.items()}, outcome.step)
                register_as = config.name if config.tracking.register_model else None
                tracker.log_model(folder / "model", register_as=register_as, alias=config.tracking.alias)
            tracker.finish("KILLED" if outcome.is_interrupted else "FINISHED")
        except BaseException:
            tracker.finish("FAILED")
            raise
        finally:
            trainer = None  # `on_validation` would keep it, with its memory on the GPU
    return Run(folder, tracker.run_id, metrics, outcome.step, outcome.is_interrupted, verdict=verdict)


def _judge(folder: Path, config: StudyConfig, outcome: Outcome) -> Verdict | None:
    """Return the verdict on a finished training; None for an interrupted one."""
    if outcome.is_interrupted:
        return None
    dice = None if outcome.validation is None else outcome.validation.mean_dice
    return judge_training(folder, config, n_steps=outcome.step, elapsed_s=outcome.elapsed_s, dice=dice)


def _has_finished_model(folder: Path) -> bool:
    """Return whether the run was finished before, with a validation of all cases."""
    try:
        _, record = read_record(folder)
    except ModelError:
        return False
    is_finished = record.training is not None and not record.training.is_interrupted
    return is_finished and (record.fold == ALL_CASES or (folder / "validation.csv").is_file())


def _refuse_unlabelled(config: StudyConfig) -> None:
    if not config.data.labelled:
        raise ConfigError(
            "training needs masks, but data.labelled is false",
            remedy="use medhybrid pretrain for scans without masks, also to resume its runs",
        )


def _with_own_loss(config: StudyConfig, loss: LossFunction | OwnLoss | None) -> tuple[StudyConfig, OwnLoss | None]:
    """Return the config with `training.loss=own`, and the user's loss; the config alone without a loss.

    Raises
    ------
    ConfigError
        If the config has another loss, or the loss of the user and the function is not given.
    """
    named = config.training.loss
    if loss is None and named == OWN_LOSS:
        raise ConfigError(
            "the loss of this training is a function of the user, which no record can name",
            expected="the function, in a call that you trust",
            remedy="give it with --own-loss FILE.py:FUNCTION, or train(..., loss=function)",
        )
    if loss is None:
        return config, None
    if named not in (LOSS, OWN_LOSS):
        raise ConfigError(f"training.loss={named} and a loss of the user", expected="one of them")
    own = loss if isinstance(loss, OwnLoss) else OwnLoss.of(loss)
    return with_values(config, {"training.loss": OWN_LOSS}, source="loss"), own


def _logged_losses(folder: Path, step: int) -> list[float]:
    """Return the losses that a run logged up to a step."""
    events = read_log(folder / "log.jsonl") if (folder / "log.jsonl").is_file() else []
    values = [e["values"].get("train/loss") for e in events if e.get("values") and e.get("step", 0) <= step]
    return [float(value) for value in values if value is not None]


def _begin(config: StudyConfig, plan: Plan) -> tuple[Network | None, Start | None]:
    """Return the network initialised from the pretrained weights of the config, or None without such weights."""
    if config.training.pretrained is None:
        return None, None
    torch.manual_seed(config.training.seed)
    network = network_for(config.network, plan)
    return network, begin_with(network, Path(config.training.pretrained), plan, parts=config.training.pretrained_parts)


def _report_start(start: Start | None, folder: Path, tracker: Tracker, reporter: Reporter) -> None:
    if start is None:
        return
    reporter.message(str(start))
    tracker.log_file(start.save(folder / "start.csv"), "")
    tracker.log_metrics({"start/weights_taken": start.count("taken", "adapted"), "start/weights": len(start.rows)}, 0)


def _seen_range(setup: RunSetup) -> SeenRange | None:
    """Return the ranges of the dataset's scans, with the share of training cases that have each label."""
    seen = setup.dataset.seen_range()
    records = [c.record for c in setup.train_cases if c.record.is_labelled]
    if seen is None or not records:
        return seen
    has = {n: [r.reference_ml[n] > 0 for r in records if n in r.reference_ml] for n in setup.plan.structures}
    share = {n: sum(of_label) / len(of_label) for n, of_label in has.items() if of_label}
    return seen.model_copy(update={"n_cases": len(records), "label_share": share})


def _save(
    setup: RunSetup, outcome: Outcome, folder: Path, own_loss: OwnLoss | None, verdict: Verdict | None
) -> dict[str, float]:
    """Write the model of a run, and return the metrics of its validation."""
    config = setup.config
    metrics: dict[str, float] = {}
    calibration = Calibration()
    if outcome.validation is not None:
        metrics = {k: v for k, v in outcome.validation.metrics().items() if not k.startswith("val_case/")}
        interval = mean_interval([r.mean_dice for r in outcome.validation.results])
        metrics |= {"val/dice_low": interval.low, "val/dice_high": interval.high}
        calibration = outcome.validation.calibration()
    if verdict is not None and verdict.outcome == "failed":
        calibration = NOT_CALIBRATED
    if outcome.validation is not None:
        measured = {"ece": calibration.ece, "ece_calibrated": calibration.ece_calibrated, "auc": calibration.auc}
        metrics |= {f"val_confidence/{k}": v for k, v in measured.items() if v is not None}
    record = ModelRecord(
        medhybrid_version=__version__,
        network=config.network,
        inference=config.inference,
        scans=config.scans,
        channel_map=config.data.channel_map,
        label_codes=config.data.label_codes,
        plan=setup.plan.settings.model_copy(update={"reasons": setup.plan.reasons}),
        fold=config.training.fold,
        inner_fold=config.training.inner_fold,
        training_images=read_training_images(folder),
        data_hash=setup.data_hash,
        weights_sha256="",
        metrics=metrics,
        calibration=calibration,
        seen=_seen_range(setup),
        training=TrainingRecord(
            config=without_places(config),
            n_steps=outcome.step,
            is_interrupted=outcome.is_interrupted,
            has_changed_length=(folder / OTHER_LENGTH).exists(),
            software=made_with(config) | ({} if own_loss is None else {"loss": str(own_loss.record)}),
        ),
    )
    card = model_card(record, f"{config.name}, {folder.name}", verdict=() if verdict is None else verdict.lines)
    save_model(folder / "model", outcome.weights, record, card)
    return metrics


def _log_inputs(tracker: Tracker, folder: Path) -> None:
    tracker.log_file(folder / "config.yaml", "")
    tracker.log_file(folder / "plan.json", "")
