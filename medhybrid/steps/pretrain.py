"""`medhybrid pretrain`: self-supervised pretraining on scans without masks.

RUNS/<study>-scans/<run>/start.safetensors     pretrained weights for `training.pretrained`
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

import torch
from torch import Tensor

from medhybrid.config import StudyConfig, require_config, save_config
from medhybrid.data.plan import Plan
from medhybrid.errors import ConfigError, DataError
from medhybrid.inference.device import choose_device
from medhybrid.inference.network import config_of_network, network_for
from medhybrid.inference.weights_file import About, write_weights
from medhybrid.interrupt import stop_on_signals
from medhybrid.networks import SegmentationNetwork
from medhybrid.progress import Reporter, Silent
from medhybrid.runs.data import check_data, remember_data
from medhybrid.runs.folder import hold_run, new_run_folder, study_folder
from medhybrid.runs.leakage import read_training_images, record_training_images
from medhybrid.runs.places import with_places_here
from medhybrid.runs.prepared import in_use
from medhybrid.runs.record import check_tracking, make_tracker
from medhybrid.runs.resume import extend, run_config, with_places
from medhybrid.runs.run import Run
from medhybrid.runs.setup import RunSetup, resolve_setup
from medhybrid.steps.preprocess import preprocess
from medhybrid.tracking.jsonl import read_log
from medhybrid.training.checkpoint import has_checkpoint
from medhybrid.training.determinism import deterministic, random_numbers_kept
from medhybrid.training.loop import Outcome, Progress
from medhybrid.training.pretraining import MaskedAutoencoder, Pretrainer
from medhybrid.training.team import refuse_team

logger = logging.getLogger(__name__)


def pretrain(config: StudyConfig, *, reporter: Reporter | None = None) -> Run:
    """Prepare the scans of `data.root` and pretrain a network on them; masks are not read.

    If the dataset has folds, only training cases are used, which avoids data leakage; the validation cases measure the
    reconstruction. `training.pretrained`, `training.stages` and `data.context` apply only to the training that follows.

    Raises
    ------
    DataError
        If no scan is usable.
    ConfigError
        If the network has no encoder to pretrain.
    """
    refuse_team("pretrain")
    reporter = reporter or Silent()
    config = for_scans(require_config(config))
    study_folder(config)  # raises before a long preparation
    check_tracking(config)
    preparation = preprocess(config, reporter=reporter)
    if preparation.left_out:
        reporter.message(
            f"{len(preparation.left_out)} scans are excluded, since they cannot be used: {', '.join(preparation.left_out[:5])}"
            f"{' ...' * (len(preparation.left_out) > 5)}; see {preparation.folder / 'problems.csv'}"
        )
    folder = new_run_folder(config, "pretrain")
    save_config(config, folder / "config.yaml")
    with in_use(config), hold_run(folder):
        setup = resolve_setup(config, choose_device(config.training.device))
        setup.plan.save(folder / "plan.json")
        remember_data(folder, setup.data)
        return replace(_run(setup, folder, reporter, resume=False), left_out=preparation.left_out)


def resume_pretraining(folder: Path, overrides: Sequence[str] = (), *, reporter: Reporter | None = None) -> Run:
    """Continue an interrupted pretraining, or extend a finished one; raises `ModelError` without a valid checkpoint."""
    kept = extend(run_config(folder), overrides)
    config = with_places(with_places_here(kept, folder), overrides)
    if config.data.labelled:
        raise ConfigError(
            f"{folder} is not a run of pretrain", remedy=f"medhybrid train --resume --run {quote(str(folder))}"
        )
    with in_use(config):
        setup = resolve_setup(config, choose_device(config.training.device))
        then = Plan.load(folder / "plan.json")
        if setup.plan.settings != then.settings:
            raise DataError(
                f"the plan of the prepared scans differs from the run {folder.name}", remedy="start a new run"
            )
        check_data(folder, setup.data)
        check_tracking(config, folder)
        with hold_run(folder):
            save_config(kept, folder / "config.yaml")
            has_started = has_checkpoint(folder / "checkpoint")
            return _run(setup, folder, reporter or Silent(), resume=has_started)


def for_scans(config: StudyConfig) -> StudyConfig:
    """Return the config for pretraining: another study name, and no settings that need masks."""
    if config.network.kind in ("transformer", "transunet"):
        raise ConfigError(
            f"network.kind={config.network.kind} cannot be pretrained",
            expected="hybrid, interleave, identity or resnet",
            remedy="initialise transunet from ImageNet weights: training.pretrained",
        )
    changes = {
        "name": f"{config.name}-scans",
        "data": config.data.model_copy(update={"labelled": False}),
        "augment": config.augment.model_copy(update={"paste_probability": 0.0}),
        "training": config.training.model_copy(
            update={"foreground_share": 0.0, "stages": (), "pretrained": None, "class_weights": None}
        ),
    }
    return config.model_copy(update=changes)


def _run(setup: RunSetup, folder: Path, reporter: Reporter, *, resume: bool) -> Run:
    config, plan = setup.config, setup.plan
    pictures = record_training_images(folder, setup.train_cases, validation=())
    tracker = make_tracker(config, plan, setup.data, folder)

    state = ""

    def on_progress(p: Progress) -> None:
        nonlocal state
        state = f"  loss {p.loss:.3f}"

    def on_step(step: int, fraction: float) -> None:
        reporter.advance(fraction, f"step {step}{state}")

    with stop_on_signals() as should_stop, random_numbers_kept(), deterministic(config.training.deterministic):
        try:
            torch.manual_seed(config.training.seed)
            network = network_for(config.network, plan)
            assert isinstance(network, SegmentationNetwork)
            trainer = Pretrainer(
                config,
                plan,
                setup.train_cases,
                setup.validation_cases,
                folder=folder,
                tracker=tracker,
                should_stop=should_stop,
                on_progress=on_progress,
                on_step=on_step,
                network=MaskedAutoencoder(network, len(plan.channels)),
                training_images=pictures,
                device=setup.device,
            )
            if resume:
                trainer.restore()
            else:
                tracker.log_file(folder / "config.yaml", "")
                tracker.log_file(folder / "plan.json", "")
            reporter.message(f"pretraining {folder.name} on {trainer.device}")
            reporter.begin("pretraining", 1.0)
            reporter.advance(trainer.progress, f"step {trainer.step}")
            outcome = trainer.fit()
            reporter.end()
            tracker.log_file(_save(outcome, plan, config_of_network(config.network, plan).heads, folder), "")
            tracker.finish("KILLED" if outcome.is_interrupted else "FINISHED")
        except BaseException:
            tracker.finish("FAILED")
            raise
    return Run(folder, tracker.run_id, _last_metrics(folder), outcome.step, outcome.is_interrupted)


def _save(outcome: Outcome, plan: Plan, heads: int, folder: Path) -> Path:
    taught = ("network.encoder.", "network.bottleneck.")
    weights: dict[str, Tensor] = {
        name.removeprefix("network."): tensor for name, tensor in outcome.weights.items() if name.startswith(taught)
    }
    about = About(channels=plan.channels, heads=heads, training_images=read_training_images(folder))
    return write_weights(folder / "start.safetensors", weights, about, with_checksum=True)


def _last_metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for event in read_log(folder / "log.jsonl"):
        found |= {k: v for k, v in event.get("values", {}).items() if k.startswith("val/")}
    return found
