"""Masks that a reviewer corrected, on their way back into a dataset.

OUT/corrected/<case>.nii.gz       the corrected mask of a case in the output folder of `predict`
OUT/review.json                   who marked it, when, and what was said
PREPARED/corrections.csv          which were taken: the dataset has another hash, and this says why

A case of the dataset gets the corrected mask in place of its own. One that is not in the dataset is new: it trains in every
fold and validates in none, so that scores stay comparable with those of before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.layouts import Case, Files, subject_of
from medhybrid.data.splits import Fold
from medhybrid.errors import DataError
from medhybrid.files import write_csv
from medhybrid.inference.folder_record import FolderRecord, read_folder_record
from medhybrid.inference.worklist import WorkItem, make_worklist
from medhybrid.review.marks import Mark, read_marks
from medhybrid.scans import discover
from medhybrid.steps.evaluate import masks_in

FOLDER = "corrected"


@dataclass(frozen=True, slots=True)
class Correction:
    """A corrected mask: of which case, whether the dataset did not have it, and who decided what and when."""

    case: str
    mask: str
    is_new: bool
    reviewer: str
    time: str
    comment: str


def with_corrections(cases: Sequence[Case], config: DataConfig) -> tuple[list[Case], list[Correction]]:
    """The cases of a dataset with the masks of `data.corrections`, sorted by name, and what was taken.

    Raises
    ------
    DataError
        If a folder holds no corrected mask, or its labels or channels are not those of the dataset.
    """
    by_name, taken = {c.name: c for c in cases}, []
    for folder in map(Path, config.corrections):
        masks = masks_in(folder / FOLDER)
        if not masks:
            raise DataError(
                f"{folder / FOLDER} holds no mask", expected="<case>.nii.gz", remedy="put corrected masks there"
            )
        record, marks = read_folder_record(folder), read_marks(folder).marks
        _check_fits(folder, record, config)
        items = _items(record, config)
        for name, path in masks.items():
            earlier = by_name.get(name)
            if earlier is None:
                by_name[name] = _new_case(name, path, items.get(name), config)
            else:
                by_name[name] = replace(earlier, mask=Files((path,)), is_labelled=True)
            mark = marks.get(name, Mark(decision="to correct"))
            changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
            taken.append(
                Correction(name, str(path), earlier is None, mark.reviewer, mark.time or changed, mark.comment)
            )
    return sorted(by_name.values(), key=lambda c: c.name), taken


def with_new_cases(folds: Sequence[Fold], cases: Sequence[Case], taken: Sequence[Correction]) -> list[Fold]:
    """Folds in which new cases train, but for those where a case of the same subject validates."""
    subjects = {c.name: c.subject for c in cases}
    new = [c.case for c in taken if c.is_new]
    extended = []
    for fold in folds:
        kept_apart = {subjects.get(n, n) for n in fold.validation}
        added = tuple(n for n in new if subjects[n] not in kept_apart)
        extended.append(Fold(train=fold.train + added, validation=fold.validation))
    return extended


def write_corrections(path: Path, taken: Sequence[Correction]) -> None:
    """A row a correction."""
    write_csv(path, [[f.name for f in fields(Correction)], *(astuple(c) for c in taken)])


def _check_fits(folder: Path, record: FolderRecord, config: DataConfig) -> None:
    channels = [c.name for c in config.channels]
    if record.labels != config.labels or [n for n, _ in record.model_channels] != channels:
        raise DataError(
            f"the masks in {folder} are of another task",
            expected=f"labels {config.labels}, channels {channels}",
            found=f"labels {record.labels}, channels {[n for n, _ in record.model_channels]}",
        )


def _items(record: FolderRecord, config: DataConfig) -> dict[str, WorkItem]:
    place = Path(record.scans)
    if not record.scans or not place.exists():
        return {}
    return {i.case: i for i in make_worklist(discover(place), record.model_channels, record.channel_map).items}


def _new_case(name: str, mask: Path, item: WorkItem | None, config: DataConfig) -> Case:
    subject = subject_of(config, name)
    if item is None or item.problem:
        problem = DataError(
            f"case {name}: a corrected mask, but its scan is not where predict read it",
            found=item.problem if item is not None else "",
            remedy="predict again from the folder where the scans are now, or remove the mask",
        )
        return Case(name, subject, (), Files((mask,)), problem)
    images = tuple(None if e is None else Files(e.paths, e.part) for e in item.entries)
    return Case(name, subject, images, Files((mask,)))
