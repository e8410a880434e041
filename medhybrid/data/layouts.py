"""Dataset layouts: which files belong to which case. The images themselves are not opened here.

A layout turns a folder into a list of `Case`. To add one, write a function `(DataConfig, Path) -> list[Case]` and add it
to `LAYOUTS`.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.channels import TABLE as CHANNEL_TABLE
from medhybrid.data.channels import match_channels, matches, read_table
from medhybrid.errors import DataError
from medhybrid.remote import local_copy
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.context import TABLE as CONTEXT_TABLE
from medhybrid.scans.dicom.references import KINDS

logger = logging.getLogger(__name__)

Paths = tuple[Path, ...]

NO_LISTS = (CHANNEL_TABLE, CONTEXT_TABLE)
"""Tables in a dataset's folder that say something of scans, and do not list the cases."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one scan, and which volume of them where they hold several."""

    paths: Paths
    part: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One scan and its reference mask, as files.

    Attributes
    ----------
    images : tuple of Files or None
        One entry a channel, None where it is missing; or a single entry for a file that holds all channels.
    mask : Files, optional
        The reference mask.
    subject : str
        Cases of one subject never stand on both sides of a split.
    problem : DataError, optional
        Why files of this case cannot be told apart; it is left out by name.
    is_labelled : bool
        Whether the dataset has a mask of it, also where masks are not asked for: only such cases can validate.
    """

    name: str
    subject: str
    images: tuple[Files | None, ...]
    mask: Files | None
    problem: DataError | None = None
    is_labelled: bool = True

    @property
    def files(self) -> Paths:
        """Every file of the case, in order."""
        return tuple(p for files in (*self.images, self.mask) if files for p in files.paths)


def list_cases(config: DataConfig) -> list[Case]:
    """The cases of a dataset, sorted by name.

    Raises
    ------
    DataError
        If the folder does not have the layout, or holds no case.
    """
    if config.root is None:
        raise DataError("data.root is not set", remedy="give the dataset's folder: data.root=/path/to/dataset")
    root = local_copy(config.root)
    if not root.is_dir():
        raise DataError(f"dataset folder {root} does not exist", remedy="check data.root")
    layout = _recognise(root) if config.layout == "auto" else config.layout
    if config.labelled:
        cases = sorted(LAYOUTS[layout](config, root), key=lambda c: c.name)
    else:
        listed = UNLABELLED.get(layout, LAYOUTS[layout])(config, root)
        cases = sorted((replace(c, mask=None) for c in listed), key=lambda c: c.name)
    if not cases:
        raise DataError(f"{root} holds no case in the {layout} layout", remedy="see docs/data.md for the layouts")
    names = [c.name for c in cases]
    if len(set(names)) != len(names):
        doubled = sorted({n for n in names if names.count(n) > 1})
        raise DataError("case names are not unique", found=", ".join(doubled[:5]))
    return cases


def _recognise(root: Path) -> str:
    if (root / "dataset.json").is_file():
        return "decathlon" if "training" in _read_json(root / "dataset.json") else "nnunet"
    if _tables(root):
        return "csv"
    if (root / "imagesTr").is_dir():
        return "nnunet"
    return "studies"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON", found=str(error)) from error


def subject_of(config: DataConfig, case: str) -> str:
    """The subject of a case, by `data.subject_pattern`."""
    if config.subject_pattern is None:
        return case
    match = re.search(config.subject_pattern, case)
    if match is None:
        raise DataError(f"case {case}: data.subject_pattern does not match", expected=config.subject_pattern)
    return match.group(1) if match.groups() else match.group(0)


def _strip(name: str) -> str:
    return re.sub(r"\.(nii\.gz|nii|nrrd|mha|mhd)$", "", name)


def _decathlon(config: DataConfig, root: Path) -> list[Case]:
    listed = _read_json(root / "dataset.json").get("training")
    if not isinstance(listed, list):
        raise DataError(f"{root / 'dataset.json'} has no list of training cases")
    cases = []
    for entry in listed:
        if not isinstance(entry, dict) or not entry.get("image"):
            raise DataError(
                f"{root / 'dataset.json'}: a training case names no image",
                expected='{"image": ..., "label": ...}',
                found=str(entry)[:100],
            )
        name = _strip(Path(entry["image"]).name)
        image, mask = (Files((_inside(root, entry[key]),)) if entry.get(key) else None for key in ("image", "label"))
        if mask is None and config.labelled:
            raise DataError(f"{root / 'dataset.json'} names no label of {name}", remedy="add it, or take the entry out")
        cases.append(Case(name, subject_of(config, name), (image,), mask, is_labelled=mask is not None))
    return cases


def _inside(root: Path, relative: str) -> Path:
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{relative} lies outside the dataset", expected=f"a path below {root}")
    return path


def _nnunet(config: DataConfig, root: Path) -> list[Case]:
    n_channels = len(config.channels)
    masks = {_strip(p.name): p for p in (root / "labelsTr").glob("*") if p.is_file() and not p.name.startswith(".")}
    images = {_strip(p.name): p for p in (root / "imagesTr").glob("*") if not p.name.startswith(".")}
    names = list(masks) if config.labelled else sorted({re.sub(r"_\d{4}$", "", name) for name in images} | {*masks})
    cases = []
    for name in names:
        files = [images.get(f"{name}_{i:04d}") for i in range(n_channels)]
        mask = Files((masks[name],)) if name in masks else None
        channels = tuple(Files((p,)) if p else None for p in files)
        cases.append(Case(name, subject_of(config, name), channels, mask, is_labelled=mask is not None))
    return cases


def _csv(config: DataConfig, root: Path) -> list[Case]:
    tables = _tables(root)
    if len(tables) != 1:
        raise DataError(f"{root} must hold one CSV table", expected="1", found=str(len(tables)))
    with tables[0].open(newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        needed = ["case", *(["mask"] if config.labelled else []), *(c.name for c in config.channels if not c.optional)]
        if absent := [c for c in needed if c not in columns]:
            raise DataError(f"{tables[0].name} lacks columns", expected=", ".join(needed), found=", ".join(columns))
        del absent
        rows = list(reader)
    cases = []
    for row in rows:
        images = tuple(_csv_files(root, row.get(c.name)) for c in config.channels)
        subject = row.get("subject") or subject_of(config, row["case"])
        mask = _csv_files(root, row.get("mask"))
        cases.append(Case(row["case"], subject, images, mask, is_labelled=mask is not None))
    return cases


def _tables(root: Path) -> list[Path]:
    """CSV tables that may list the cases."""
    return sorted(p for p in root.glob("*.csv") if p.name not in NO_LISTS)


def _csv_files(root: Path, cell: str | None) -> Files | None:
    """A cell names a file, or a folder with one DICOM series; relative paths start at the table."""
    return Files((root / cell,)) if cell else None


def _studies(config: DataConfig, root: Path) -> list[Case]:
    table = read_table(root)
    by_study: dict[str, list[ScanEntry]] = {}
    for entry in discover(root, with_archives=False).entries:
        by_study.setdefault(_study_folder(entry, root), []).append(entry)
    cases = []
    for study, entries in by_study.items():
        masks = [e for e in entries if matches(e, config.mask_pattern)] or [e for e in entries if e.modality in KINDS]
        images = [e for e in entries if e not in masks and not e.problem and not e.left_aside]
        subject = subject_of(config, study)
        wanted = [(c.name, c.optional) for c in config.channels]
        try:
            mask = _only_mask(masks, config.mask_pattern, study)
            matched = match_channels(images, wanted, config.channel_map, case=study, table=table)
        except DataError as error:
            cases.append(Case(study, subject, (), None, problem=error, is_labelled=bool(masks)))
            continue
        cases.append(Case(study, subject, tuple(_files(m.entry) for m in matched), _files(mask)))
    return cases


def _scans(config: DataConfig, root: Path) -> list[Case]:
    """Every scan that holds all channels is a case of its own; the others are put together by study.

    A study that has a mask and no image that can be read is listed with this problem: the folds are made of what has masks.
    """
    masks: list[ScanEntry] = []
    images: list[ScanEntry] = []
    for entry in discover(root, with_archives=False).entries:
        is_mask = entry.modality in KINDS or matches(entry, config.mask_pattern)
        if is_mask or not (entry.problem or entry.left_aside):
            (masks if is_mask else images).append(entry)
        elif entry.problem:
            logger.warning("%s is left out: %s", entry.name, entry.problem)
    n_channels = len(config.channels)
    is_whole = [n_channels == 1 or entry.n_channels == n_channels for entry in images]
    base = _below_which_they_differ(images, root)
    cases = []
    for entry in (e for e, whole in zip(images, is_whole, strict=True) if whole):
        name = entry.name.replace("/", "_")
        subject = subject_of(config, name) if config.subject_pattern else _study_folder(entry, base)
        cases.append(Case(name, subject, (_files(entry),), None))
    cases += _studies_of_scans(config, root, [e for e, whole in zip(images, is_whole, strict=True) if not whole])
    studies = {_study_folder(entry, base): entry for entry in masks}
    labelled = {study: subject for study, e in studies.items() if (subject := _subject_of_mask(config, e, study))}
    cases = [replace(c, is_labelled=c.subject in labelled.values()) for c in cases]
    present = {c.subject for c in cases}
    problem = DataError("the study has a mask and no image that can be read", remedy="medhybrid inspect says why")
    absent = {study: subject for study, subject in labelled.items() if subject not in present}
    return cases + [Case(study, subject, (), None, problem=problem) for study, subject in absent.items()]


def _subject_of_mask(config: DataConfig, entry: ScanEntry, study: str) -> str:
    """As of the scans beside it; empty for a mask that belongs to none."""
    for name in (study, entry.name.replace("/", "_")):
        with suppress(DataError):
            return subject_of(config, name)
    return ""


def _below_which_they_differ(entries: Sequence[ScanEntry], root: Path) -> Path:
    """A folder that holds every scan says nothing of subjects."""
    folders = {entry.paths[0].parent for entry in entries}
    return folders.pop() if len(folders) == 1 else root


def _studies_of_scans(config: DataConfig, root: Path, entries: Sequence[ScanEntry]) -> list[Case]:
    by_study: dict[str, list[ScanEntry]] = {}
    for entry in entries:
        by_study.setdefault(_study_folder(entry, root), []).append(entry)
    wanted, table, cases = [(c.name, c.optional) for c in config.channels], read_table(root), []
    for study, images in by_study.items():
        subject = subject_of(config, study)
        try:
            matched = match_channels(images, wanted, config.channel_map, case=study, table=table)
        except DataError as error:
            cases.append(Case(study, subject, (), None, problem=error))
            continue
        cases.append(Case(study, subject, tuple(_files(m.entry) for m in matched), None))
    return cases


def _files(entry: ScanEntry | None) -> Files | None:
    return None if entry is None else Files(entry.paths, entry.part)


def _only_mask(masks: Sequence[ScanEntry], pattern: str, study: str) -> ScanEntry:
    if len(masks) != 1:
        raise DataError(
            f"study {study}: {'several masks match' if masks else 'no mask, SEG or RTSTRUCT matches'} {pattern}",
            expected="one mask",
            found=str(len(masks)),
            remedy="set data.mask_pattern",
        )
    return masks[0]


def _study_folder(entry: ScanEntry, root: Path) -> str:
    path = entry.paths[0]
    parts = path.relative_to(root if path.is_relative_to(root) else path.parents[1]).parts
    return parts[0] if len(parts) > 1 else _strip(parts[0])


LAYOUTS: dict[str, Callable[[DataConfig, Path], list[Case]]] = {
    "decathlon": _decathlon,
    "nnunet": _nnunet,
    "csv": _csv,
    "studies": _studies,
}

UNLABELLED: dict[str, Callable[[DataConfig, Path], list[Case]]] = {"studies": _scans}
"""How cases are listed where masks are not asked for, if not as above."""
