"""Masks that a reviewer corrected, on their way back into a dataset.

OUT/corrected/<case>.nii.gz       the corrected mask of a case in the output folder of `predict` (.dcm: a SEG or RTSTRUCT)
OUT/review.json                   who marked it, when, and what was said; what was rejected is not taken
PREPARED/corrections.csv          what became of each: the dataset has another hash, and this says why

A scan that the dataset has, by the content of its files, gets the corrected mask in place of its own. One that it does not have
is new: it trains in every fold and validates in none, so that scores stay comparable with those of before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.layouts import Case, Files, NoMaskError, subject_of
from medhybrid.data.layouts.parts import keep_tests_out
from medhybrid.data.splits import Fold
from medhybrid.data.subjects import unify_subjects
from medhybrid.errors import DataError
from medhybrid.inference.corrected import FOLDER, hash_correction, is_older
from medhybrid.inference.folder_record import FolderRecord, read_folder_record
from medhybrid.inference.records import Records
from medhybrid.inference.worklist import WorkItem
from medhybrid.kept_tables import write_kept_table
from medhybrid.remote import local_copy
from medhybrid.review.marks import Mark, read_marks
from medhybrid.scans.walk import visible_files
from medhybrid.steps.folder_scans import FolderScans, is_unchanged
from medhybrid.steps.mask_files import SUFFIXES, list_masks


@dataclass(frozen=True, slots=True)
class Correction:
    """A corrected mask: of which case of the dataset, whether it is new there, and who decided what and when."""

    case: str
    mask: str
    is_new: bool
    reviewer: str
    time: str
    comment: str


@dataclass(frozen=True, slots=True)
class Corrections:
    """What `data.corrections` bring; `kept` holds unpacked archives as long as they are to be read."""

    taken: tuple[Correction, ...] = ()
    kept: tuple[Any, ...] = ()


def with_corrections(
    cases: Sequence[Case], config: DataConfig, testing: Sequence[Case] = ()
) -> tuple[list[Case], Corrections]:
    """The cases of a dataset with the masks of `data.corrections`, sorted by name, and what was taken.

    A case is left out by name where its scan cannot be told or is kept for testing, it has two corrected masks, or the marks of
    its folder cannot be read: its mask may have been rejected, and the dataset's own was said to be wrong.

    Parameters
    ----------
    testing : sequence of Case
        Those that the dataset keeps for testing, or that do not train for their sake.

    Raises
    ------
    DataError
        If a folder holds no corrected mask, its labels or channels are not those of the dataset, or nobody can tell which
        subjects new scans are of.
    """
    by_name = {c.name: c for c in cases}
    taken: list[Correction] = []
    kept: list[Any] = []
    for folder in map(Path, config.corrections if config.labelled else ()):
        masks, doubled = list_masks(folder / FOLDER, suffixes=(*SUFFIXES, ".dcm"))
        if not masks and not doubled:
            raise DataError(
                f"{folder / FOLDER} holds no mask", expected="<case>.nii.gz or .dcm", remedy="put corrected masks there"
            )
        record = read_folder_record(folder)
        problems = {name: DataError(reason, remedy="leave the one that counts") for name, reason in doubled.items()}
        try:
            marks = read_marks(folder).marks
        except DataError as error:
            marks = {}
            problems = dict.fromkeys(masks, error) | problems
        _check_fits(folder, record, config)
        scans = FolderScans.find(folder, record)
        kept.append(scans)
        for name, path in (masks | dict.fromkeys(doubled, folder / FOLDER)).items():
            mark = marks.get(name, Mark(decision="to correct"))
            done = Records(folder).done(name)
            if done is not None and not mark.is_of(done.sign):
                mark = Mark(decision="to correct")  # it was said of a mask before this one
            if mark.decision == "rejected":
                continue
            item = scans.items.get(name)
            known = list(by_name.values())  # those of folders before this one, too
            is_as_read = item is not None and not item.problem and is_unchanged(scans.folder, item)
            other = _of_another_scan(folder, name, path) if name in masks else None
            twins = _same_scans(item.files, known) if item is not None and is_as_read and other is None else []
            # a case of the dataset that had no mask is new, as one that it does not have: it validates nowhere
            found = [(replace(t, mask=Files((path,)), problem=None), t.mask is None) for t in twins]
            if not found:
                found = [(_new_case(name, path, item, scans, known, config, testing, other), True)]
            changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
            for case, is_new in found:
                by_name[case.name] = replace(case, problem=problems.get(name, case.problem))
                taken.append(
                    Correction(case.name, str(path), is_new, mark.reviewer, mark.time or changed, mark.comment)
                )
    listed = _without_tests(list(by_name.values()), testing, {c.case for c in taken})
    return sorted(listed, key=lambda c: c.name), Corrections(tuple(taken), tuple(kept))


def _of_another_scan(folder: Path, name: str, path: Path) -> DataError | None:
    """Say that a corrected mask lay there before the scan that has its name now; None if it did not."""
    records = Records(folder)
    done = records.done(name)
    if done is None:
        return None
    if done.other_corrections is None:  # of an earlier version: nothing but the times tells
        is_other = is_older(path, records.done_at(name))
    else:
        is_other = hash_correction(path) in done.other_corrections
    if not is_other:
        return None
    return DataError(
        f"case {name}: the corrected mask is older than the scan that is on record under this name, and may be of another",
        expected=f"a mask that was saved in {FOLDER} after predict made the mask of its scan",
        found=str(path),
        remedy="predict each set of scans into a folder of its own, and put the mask into the one of its scan; else remove it",
    )


def _without_tests(cases: Sequence[Case], testing: Sequence[Case], names: Collection[str]) -> list[Case]:
    """Give cases of these names whose subject or image is kept for testing a problem: they must not train."""
    if not testing or not names:
        return list(cases)
    unified = unify_subjects((*cases, *testing))[0]
    usable, _ = keep_tests_out(unified[: len(cases)], unified[len(cases) :])
    left = {c.name for c in cases} - {c.name for c in usable}
    return [
        replace(
            c,
            problem=DataError(
                f"case {c.name}: a corrected mask, but its scan or subject is kept for testing",
                remedy="remove the mask, or let the dataset's list say that the case trains",
            ),
        )
        if c.name in left and c.name in names
        else c
        for c in cases
    ]


def with_new_cases(folds: Sequence[Fold], cases: Sequence[Case], taken: Sequence[Correction]) -> list[Fold]:
    """Folds in which new cases train, but for those where a case of the same subject validates."""
    subjects = {c.name: c.subject for c in cases}
    new = list(dict.fromkeys(c.case for c in taken if c.is_new))
    extended = []
    for fold in folds:
        validation = tuple(
            n for n in fold.validation if n not in new
        )  # a study without mask may have had a place there
        kept_apart = {subjects.get(n, n) for n in validation}
        added = tuple(n for n in new if subjects[n] not in kept_apart and n not in fold.train)
        extended.append(Fold(train=fold.train + added, validation=validation))
    return extended


def write_corrections(path: Path, taken: Sequence[Correction], left_out: Collection[str]) -> None:
    """A row a correction, with what became of it."""
    rows = [
        [
            c.case,
            "left out" if c.case in left_out else "new" if c.is_new else "replaced",
            c.mask,
            c.reviewer,
            c.time,
            c.comment,
        ]
        for c in taken
    ]
    write_kept_table(path, [["case", "state", "mask", "reviewer", "time", "comment"], *rows])


def _check_fits(folder: Path, record: FolderRecord, config: DataConfig) -> None:
    channels = [c.name for c in config.channels]
    if record.labels != config.labels or [n for n, _ in record.model_channels] != channels:
        raise DataError(
            f"the masks in {folder} are of another task",
            expected=f"labels {config.labels}, channels {channels}",
            found=f"labels {record.labels}, channels {[n for n, _ in record.model_channels]}",
        )


def _same_scans(files: Iterable[Path], cases: Sequence[Case]) -> list[Case]:
    """The cases of the dataset whose pictures are these files, whatever they are called; several where raters have one each."""
    sizes = _sizes(files)
    may_take = [c for c in cases if c.problem is None or isinstance(c.problem, NoMaskError)]
    alike = [c for c in may_take if c.images and _sizes(_pictures(c)) == sizes]
    content = _content(files) if alike else ()
    return [c for c in alike if _content(_pictures(c)) == content]


def _pictures(case: Case) -> list[Path]:
    return [p for files in case.images if files for p in files.paths]


def _new_case(
    name: str,
    mask: Path,
    item: WorkItem | None,
    scans: FolderScans,
    cases: Sequence[Case],
    config: DataConfig,
    testing: Sequence[Case],
    problem: DataError | None,
) -> Case:
    subject = name
    earlier = next((c for c in cases if c.name == name), None)
    if problem is not None:
        name = f"{name} (corrected)" if earlier is not None else name
    elif item is None or item.problem or not is_unchanged(scans.folder, item):
        problem = DataError(
            f"case {name}: a corrected mask, but its scan is not as predict read it",
            found=item.problem if item is not None else "no such scan",
            remedy="predict again from the folder where the scans are now, or remove the mask",
        )
    elif earlier is not None and not earlier.images and _is_below(config.root, item):
        subject = earlier.subject  # a study of the dataset that had no mask
    elif earlier is not None:
        problem = DataError(
            f"case {name}: another scan has that name already",
            remedy="predict from files of another name, or remove the mask",
        )
        name = f"{name} (corrected)"
    else:
        try:
            subject = _subject(name, [*cases, *(c for c in testing if c.subject)], config)
        except DataError as error:
            problem = error
    images = () if item is None else _images(item)
    # A mask that began as a prediction judges no model: the case does not validate, in inner parts neither.
    return Case(name, subject, images, Files((mask,)), problem, is_labelled=False)


def _subject(name: str, cases: Sequence[Case], config: DataConfig) -> str:
    if config.subject_pattern is None and any(c.subject != c.name for c in cases):
        raise DataError(
            f"case {name}: nobody can tell which subject it is of, and the dataset has subjects with several cases",
            remedy="set data.subject_pattern: a subject must not train and validate",
        )
    return subject_of(config, name)


def _is_below(root: str | None, item: WorkItem) -> bool:
    return root is not None and all(p.resolve().is_relative_to(local_copy(root).resolve()) for p in item.files)


def _images(item: WorkItem) -> tuple[Files | None, ...]:
    return tuple(None if e is None else Files(e.paths, e.part) for e in item.entries)


def _files(paths: Iterable[Path]) -> list[Path]:
    """A folder stands for its files."""
    return [f for p in paths for f in (visible_files(p) if p.is_dir() else [p])]


def _sizes(paths: Iterable[Path]) -> list[int]:
    try:
        return sorted(f.stat().st_size for f in _files(paths))
    except OSError:
        return []


def _content(paths: Iterable[Path]) -> list[str]:
    digests = []
    for path in _files(paths):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return sorted(digests)
