"""Trainers of the small study, for tests that observe a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.sampling import Batch
from medhybrid.runs.prepared import prepared_folder
from medhybrid.tracking.jsonl import JsonlTracker
from medhybrid.training.loop import Trainer
from tests.synthetic import StudyFolder

Kind = TypeVar("Kind", bound=Trainer)


def make_trainer(
    kind: type[Kind], config: StudyConfig, folder: Path, *, stop_at: int | None = None, network: Any = None
) -> Kind:
    """Create a trainer on fold 0 of the prepared study, which stops at a step."""
    dataset = PreparedDataset(prepared_folder(config))
    fold = dataset.fold(0)
    made = kind(
        config,
        dataset.plan,
        dataset.open(fold.train),
        dataset.open(fold.validation),
        folder=folder,
        tracker=JsonlTracker(folder / "log.jsonl"),
        should_stop=lambda: stop_at is not None and made.step >= stop_at,
        network=network,
    )
    return made


def trainer(study: StudyFolder, folder: Path, *, stop_at: int | None = None, **training: object) -> Trainer:
    """Create a trainer with twelve steps and two validations, unless changed by `training`."""
    settings = study.config.training.model_copy(update={"iterations": 12, "n_validations": 2, **training})
    return make_trainer(Trainer, study.config.model_copy(update={"training": settings}), folder, stop_at=stop_at)


def every_loss(made: Trainer) -> list[float]:
    """Return a list to which the trainer adds the loss of every step."""
    losses: list[float] = []
    step = made.train_step

    def watched(batch: Batch):  # type: ignore[no-untyped-def]
        terms = step(batch)
        losses.append(float(terms.total.detach()))
        return terms

    made.train_step = watched  # type: ignore[method-assign]
    return losses


def losses_of(run: Path) -> dict[int, float]:
    """Return the last recorded loss of each step."""
    events = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if line.startswith("{"))
    return {e["step"]: e["values"]["train/loss"] for e in events if "train/loss" in e.get("values", {})}


def train_command(study: StudyFolder, runs: Path, *more: str) -> list[str]:
    """Return the command that trains a study in a separate process."""
    config = ["--config", str(study.folder / "small.yaml")]
    return [sys.executable, "-m", "medhybrid", "train", *config, f"runs={runs}", *more]
