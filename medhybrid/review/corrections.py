"""Addition of masks that a reviewer corrected to a dataset.

OUT/corrected/<case>.nii.gz       corrected mask of a case in the output folder of `predict` (.dcm: a SEG or RTSTRUCT)
OUT/review.json                   reviewer, time and comment of each mark; rejected masks are not used
PREPARED/corrections.csv          result for each corrected mask; it explains the new hash of the dataset

Scans are compared by the content of their files. If the dataset has a scan, the corrected mask replaces its mask. Otherwise
the scan is a new case: it trains in every fold and validates in none, so that scores stay comparable with earlier ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.layouts import Case, Files, NoMaskError, layout_of, subject_of
from medhybrid.data.layouts.copies import same_file_keys
from medhybrid.data.layouts.parts import keep_tests_out
from medhybrid.data.layouts.studies import study_folder
from medhybrid.data.mask_files import SUFFIXES, list_masks
from medhybrid.data.splits import Fold
from medhybrid.data.subjects import form_of_subject, unify_subjects
from medhybrid.errors import DataError
from medhybrid.inference.corrected import FOLDER, hash_correction, is_older
from medhybrid.inference.folder_record import FolderRecord, read_folder_record
from medhybrid.inference.folder_scans import FolderScans, is_unchanged
from medhybrid.inference.records import Records
from medhybrid.inference.worklist import WorkItem
from medhybrid.kept_tables import write_kept_table
from medhybrid.names import escape_name
from medhybrid.remote import local_copy
from medhybrid.review.marks import Mark, read_marks
from medhybrid.scans import ScanEntry
from medhybrid.scans.walk import visible_files


@dataclass(frozen=True, slots=True)
class Correction:
    """Corrected mask of a case, whether the case is new in the dataset, and its reviewer, time and comment."""

    case: str
    mask: str
    is_new: bool
    reviewer: str
    time: str
    comment: str


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrected masks of `data.corrections`; `kept` holds unpacked archives until they are read."""

    taken: tuple[Correction, ...] = ()
    kept: tuple[Any, ...] = ()


def with_corrections(
    cases: Sequence[Case], config: DataConfig, testing: Sequence[Case] = ()
) -> tuple[list[Case], Corrections]:
    """Return the cases of a dataset with the masks of `data.corrections`, sorted by name, and the corrections used.

    A case gets a problem, so that it is excluded, in three cases: its scan is unknown or kept for testing, it has two corrected
    masks, or the marks of its folder cannot be read. Without marks, the corrected mask may be a rejected one, and the dataset's
    mask may be wrong.

    Parameters
    ----------
    testing : sequence of Case
        Cases kept for testing, and cases excluded from training because they share a subject with these.

    Raises
    ------
    DataError
        If a folder has no corrected mask, its labels or channels differ from the dataset's, or the subjects of new scans are
        unknown.
    """
    by_name = {c.name: c for c in cases}
    taken: list[Correction] = []
    kept: list[Any] = []
    for folder in map(Path, config.corrections if config.labelled else ()):
        masks, doubled = list_masks(folder / FOLDER, suffixes=(*SUFFIXES, ".dcm"))
        if not masks and not doubled:
            raise DataError(
                f"{folder / FOLDER} has no mask", expected="<case>.nii.gz or .dcm", remedy="put corrected masks there"
            )
        record = read_folder_record(folder)
        problems = {name: DataError(reason, remedy="keep the valid one") for name, reason in doubled.items()}
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
                mark = Mark(decision="to correct")  # the mark is of an earlier mask
            if mark.decision == "rejected":
                continue
            item = scans.items.get(name)
            known = list(by_name.values())  # with the new cases of earlier folders
            is_as_read = item is not None and not item.problem and is_unchanged(scans.folder, item)
            other = _of_another_scan(folder, name, path) if name in masks else None
            twins = _same_scans(item.entries, known) if item is not None and is_as_read and other is None else []
            # a case of the dataset without mask is treated as new: it validates in no fold
            found = [
                (replace(t, mask=Files((path,)), problem=None, annotated=None), t.mask is None) for t in twins
            ]  # a predicted mask has all labels
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
    """Return an error if a corrected mask is older than the scan that now has its name, else None."""
    records = Records(folder)
    done = records.done(name)
    if done is None:
        return None
    if done.other_corrections is None:  # earlier versions stored no hashes: only the times remain
        is_other = is_older(path, records.done_at(name))
    else:
        is_other = hash_correction(path) in done.other_corrections
    if not is_other:
        return None
    return DataError(
        f"case {name}: the corrected mask is older than the scan recorded under this name, and may belong to another scan",
        expected=f"a mask that was saved in {FOLDER} after predict wrote the mask of its scan",
        found=str(path),
        remedy="predict each set of scans into a separate folder and put the mask into that of its scan, or remove it",
    )


def _without_tests(cases: Sequence[Case], testing: Sequence[Case], names: Collection[str]) -> list[Case]:
    """Add a problem to cases of these names whose subject or image is kept for testing, so that they do not train."""
    if not testing or not names:
        return list(cases)
    unified = unify_subjects((*cases, *testing))[0]
    usable, _ = keep_tests_out(unified[: len(cases)], unified[len(cases) :])
    left = {c.name for c in cases} - {c.name for c in usable}
    return [
        replace(
            c,
            problem=DataError(
                f"case {c.name} has a corrected mask, but its scan or subject is kept for testing",
                remedy="remove the mask, or move the case to the training cases in the dataset's list",
            ),
        )
        if c.name in left and c.name in names
        else c
        for c in cases
    ]


def with_new_cases(folds: Sequence[Fold], cases: Sequence[Case], taken: Sequence[Correction]) -> list[Fold]:
    """Add new cases to the training side of each fold, except where a case of the same subject validates."""
    subjects = {c.name: c.subject for c in cases}
    unusable = {c.name for c in cases if c.problem is not None}
    new = list(dict.fromkeys(c.case for c in taken if c.is_new and c.case not in unusable))
    extended = []
    for fold in folds:
        validation = tuple(n for n in fold.validation if n not in new)  # a case without mask may be listed there
        kept_apart = {subjects.get(n, n) for n in validation}
        added = tuple(n for n in new if subjects[n] not in kept_apart and n not in fold.train)
        extended.append(Fold(train=fold.train + added, validation=validation))
    return extended


def write_corrections(path: Path, taken: Sequence[Correction], left_out: Collection[str]) -> None:
    """Write a table with a row for each corrected mask and its state."""
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
            f"the masks in {folder} have other labels or channels than the dataset",
            expected=f"labels {config.labels}, channels {channels}",
            found=f"labels {record.labels}, channels {[n for n, _ in record.model_channels]}",
        )


def _same_scans(entries: Sequence[ScanEntry | None], cases: Sequence[Case]) -> list[Case]:
    """Return the cases with the same volumes of files with the same content; several where raters have one case each."""
    sizes = _volumes(entries, _sizes)
    may_take = [c for c in cases if c.problem is None or isinstance(c.problem, NoMaskError)]
    alike = [c for c in may_take if c.images and _volumes(c.images, _sizes) == sizes]
    content = _volumes(entries, _content) if alike else []
    return [c for c in alike if _volumes(c.images, _content) == content]


def _volumes(
    images: Sequence[ScanEntry | Files | None], read: Callable[[Iterable[Path]], list[Any]]
) -> list[tuple[str, list[Any]]]:
    """Return the name of each image's volume and what `read` returns for its files: a file may have several volumes."""
    return sorted((i.part, read(i.paths)) for i in images if i is not None)


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
    elif item is None and scans.items and Records(scans.folder).done(name) is None:
        close = get_close_matches(name, scans.items, 1)
        problem = DataError(
            f"case {name} has a corrected mask, but predict made none of this name, such as {(close or [*scans.items])[0]}",
            expected="the name of a mask of predict",
            remedy="name the mask as that of predict, or remove it",
        )
    elif item is None or item.problem or not is_unchanged(scans.folder, item):
        problem = DataError(
            f"case {name} has a corrected mask, but its scan was changed or moved since predict",
            found=item.problem if item is not None else "no such scan",
            remedy="predict again from the current folder of the scans, or remove the mask",
        )
    elif earlier is not None and not earlier.images and _is_below(config.root, item):
        subject = earlier.subject  # a case of the dataset without mask
    elif earlier is not None:
        problem = DataError(
            f"case {name}: another scan of the dataset has this name",
            remedy="predict from files with another name, or remove the mask",
        )
        name = f"{name} (corrected)"
    else:
        try:
            subject = _subject(name, item, [*cases, *(c for c in testing if c.subject)], config)
        except DataError as error:
            problem = error
    images = () if item is None else _images(item)
    # A corrected prediction would favour the model that made it: the case never validates, nor in inner splits.
    return Case(name, subject, images, Files((mask,)), problem, is_labelled=False)


def _subject(name: str, item: WorkItem, cases: Sequence[Case], config: DataConfig) -> str:
    """Return the subject of a new scan: of cases with one of its files, or by its folder, `data.subject_pattern` or name."""
    if of_file := _subject_with_a_file(item, cases):
        return of_file
    known = {form_of_subject(c.subject): c.subject for c in cases}
    study = _study_of(item, config)
    if config.subject_pattern is None and (study is None or form_of_subject(study) not in known):
        root = (item.root or item.files[0].parent).absolute()
        above = [f.name for p in item.files for f in p.absolute().parents if f.is_relative_to(root)]
        folders = (form_of_subject(escape_name(f)) for f in [*above, *name.split("__")[:-1]])
        if of_folder := next((known[f] for f in folders if f in known), None):
            return of_folder
        if study is None and any(c.subject != c.name for c in cases if c.is_labelled or c.mask is None):
            raise DataError(
                f"case {name}: its subject is unknown, and the dataset has subjects with several cases",
                remedy="set data.subject_pattern, so that no subject is in both training and validation",
            )
    subject = subject_of(config, study or name)
    return known.get(form_of_subject(subject), subject)


def _subject_with_a_file(item: WorkItem, cases: Sequence[Case]) -> str:
    """Return the only subject of the cases that have an image file of a scan, or a copy of one; empty otherwise."""
    with_images = [c for c in cases if _pictures(c)]
    keys = same_file_keys(item.files, [p for c in with_images for p in _pictures(c)])
    ours = {keys[p] for p in item.files}
    found = {c.subject for c in with_images if any(keys[p] in ours for p in _pictures(c))}
    return found.pop() if len(found) == 1 else ""


def _study_of(item: WorkItem, config: DataConfig) -> str | None:
    """Return the study of a scan in a dataset of studies: its folder in the dataset, or else in the searched folder."""
    root = None if config.root is None else local_copy(config.root)
    if root is None or not root.is_dir() or layout_of(config, root) != "studies":
        return None
    path = item.files[0].resolve()
    bases = (b.resolve() for b in (root, item.root) if b is not None)
    base = next((b for b in bases if path.is_relative_to(b)), None)
    return None if base is None else study_folder(path, base)


def _pictures(case: Case) -> list[Path]:
    return [p for files in case.images if files for p in files.paths]


def _is_below(root: str | None, item: WorkItem) -> bool:
    return root is not None and all(p.resolve().is_relative_to(local_copy(root).resolve()) for p in item.files)


def _images(item: WorkItem) -> tuple[Files | None, ...]:
    return tuple(None if e is None else Files(e.paths, e.part) for e in item.entries)


def _files(paths: Iterable[Path]) -> list[Path]:
    """List files; folders are replaced by the files in them."""
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
