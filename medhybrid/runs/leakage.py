"""Data leakage check: no validation case of a run may have trained its weights.

RUN/training_images.json    hashes of the images (`data.pictures`) that trained the weights: of the run's training cases and
                            of the pretrained weights
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medhybrid.data.store import PreparedCase
from medhybrid.errors import DataError
from medhybrid.files import write_atomically
from medhybrid.runs.setup import RunSetup
from medhybrid.starts import Start, read_weights

FILE = "training_images.json"

EARLIER_FILE = "learnt_from.json"
"""Name of this file in version 0.1."""

START = "weights"


def check_leakage(setup: RunSetup) -> None:
    """Raise the errors of `record_training_images` before a training starts, or the first of several.

    Raises
    ------
    DataError
        If the fold has no case to train on, none of its validation cases is prepared, or for data leakage.
    """
    config = setup.config
    start = Path(config.training.pretrained) if config.training.pretrained else None
    about = read_weights(start).about if start else None
    needed = {"train": setup.train_cases}
    if config.training.has_validation and setup.fold.validation:  # the cases of a single subject have no validation
        needed["validate"] = setup.validation_cases
    for side, cases in needed.items():
        if not cases:
            raise DataError(
                f"fold {config.training.fold} has no prepared case to {side} on",
                remedy=f"see {setup.dataset.folder / 'problems.csv'}, or change the folds",
            )
    _images_without_leakage(setup.train_cases, setup.validation_cases, START, about.training_images if about else ())


def record_training_images(
    folder: Path, train: Sequence[PreparedCase], validation: Sequence[PreparedCase], start: Start | None = None
) -> tuple[str, ...]:
    """Write and return the hashes of the images that train a run, with those from before an interruption.

    Raises
    ------
    DataError
        If a validation case is among them: its score would not be that of an unseen scan.
    """
    what, before = (START, start.training_images) if start else (f"run {folder.name}", read_training_images(folder))
    pictures = _images_without_leakage(train, validation, what, before)
    write_atomically(folder / FILE, json.dumps(pictures))
    return pictures


def _images_without_leakage(
    train: Sequence[PreparedCase], validation: Sequence[PreparedCase], what: str, before: Sequence[str]
) -> tuple[str, ...]:
    """Return the hashes of all images that train the weights; raises `DataError` for a validation case among them."""
    if known := [case.name for case in validation if set(before) & set(case.record.pictures)]:
        raise DataError(
            f"data leakage: {len(known)} of the {len(validation)} validation cases were used to train the {what}",
            expected=f"{what.split()[0]} trained on other cases",
            found=", ".join(known[:5]),
            remedy=(
                "pretrain with the same training.fold (and training.inner_fold), or remove training.pretrained"
                if what == START
                else "the folds changed since the run started: restore them (data.splits), or start a new run"
            ),
        )
    pictures = set(before).union(*(case.record.pictures for case in train))
    if doubled := [case.name for case in validation if pictures & set(case.record.pictures)]:
        raise DataError(
            f"data leakage: {len(doubled)} of the {len(validation)} validation cases share an image with a training case",
            found=", ".join(doubled[:5]),
            remedy="give copies the same subject (data.subject_pattern, or a column subject), or remove them",
        )
    return tuple(sorted(pictures))


def read_training_images(folder: Path) -> tuple[str, ...]:
    """Read the hashes that `record_training_images` wrote; empty for a run without them."""
    paths = [folder / name for name in (FILE, EARLIER_FILE)]
    path = next((p for p in paths if p.is_file()), None)
    return () if path is None else tuple(json.loads(path.read_text()))
