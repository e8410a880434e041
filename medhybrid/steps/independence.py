"""What a run's weights have learnt from, so that no case validates what has seen it.

RUN/learnt_from.json      hashes of pictures (`data.pictures`): those of the cases that train, and those of the start
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.store import PreparedCase
from medhybrid.errors import DataError
from medhybrid.files import write_atomically
from medhybrid.starts import Start, read_weights
from medhybrid.steps.prepared import prepared_folder

FILE = "learnt_from.json"

START = "start"


def check_independence(config: StudyConfig) -> None:
    """Raise what `remember_pictures` would, before the first of several trainings rather than hours later."""
    dataset = PreparedDataset(prepared_folder(config))
    fold = dataset.fold_for(config)
    start = Path(config.training.pretrained) if config.training.pretrained else None
    about = read_weights(start).about if start else None
    train, validation = dataset.open(fold.train), dataset.open(fold.validation)
    for side, cases in (("train", train), ("validate", validation)):
        if not cases:
            raise DataError(
                f"no case that is to {side} in fold {config.training.fold} was prepared",
                remedy=f"see {dataset.folder / 'problems.csv'}, or change the folds",
            )
    _independent(train, validation, START, about.learnt_from if about else ())


def remember_pictures(
    folder: Path, train: Sequence[PreparedCase], validation: Sequence[PreparedCase], start: Start | None = None
) -> tuple[str, ...]:
    """Write and return what a run will have learnt from; what it learnt before it was interrupted stays in that.

    Raises
    ------
    DataError
        If a case that is to validate is among that: its score would not be one of an unseen scan.
    """
    what, before = (START, start.learnt_from) if start else (f"run {folder.name}", learnt_from(folder))
    pictures = _independent(train, validation, what, before)
    write_atomically(folder / FILE, json.dumps(pictures))
    return pictures


def _independent(
    train: Sequence[PreparedCase], validation: Sequence[PreparedCase], what: str, before: Sequence[str]
) -> tuple[str, ...]:
    """Hashes of all that was learnt from, if no validation case is among that."""
    if known := [case.name for case in validation if set(before) & set(case.record.pictures)]:
        raise DataError(
            f"the {what} has seen {len(known)} of the {len(validation)} cases that validate",
            expected=f"a {what.split()[0]} that did not learn from them",
            found=", ".join(known[:5]),
            remedy=(
                "pretrain or train it with the same training.fold (and training.inner_fold), or begin without it"
                if what == START
                else "its folds have changed since it began: go back to the old ones (data.splits), or start a new run"
            ),
        )
    pictures = set(before).union(*(case.record.pictures for case in train))
    if doubled := [case.name for case in validation if pictures & set(case.record.pictures)]:
        raise DataError(
            f"{len(doubled)} of the {len(validation)} cases that validate have a picture that trains, under another name",
            found=", ".join(doubled[:5]),
            remedy="put copies into one subject (data.subject_pattern, a column subject), or take them out",
        )
    return tuple(sorted(pictures))


def learnt_from(folder: Path) -> tuple[str, ...]:
    """What `remember_pictures` wrote; nothing for a run that did not."""
    path = folder / FILE
    return tuple(json.loads(path.read_text())) if path.is_file() else ()
