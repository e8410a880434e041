"""Table of cases for any CSV table with columns of files, whatever their names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.data.channel_words import is_other_mask
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts.entry_keys import SUBJECT_WORDS
from medhybrid.data.layouts.label_files import SEPARATOR, cell_of
from medhybrid.data.layouts.parts import part_of
from medhybrid.data.layouts.table import find_tables, is_blank, split_column, with_split
from medhybrid.draft.long_tables import as_wide
from medhybrid.draft.words import DERIVED_WORDS, DICOM_SUFFIX, MASK_WORDS, words_of
from medhybrid.errors import DataError
from medhybrid.names import name_from_path, printable_path
from medhybrid.scans.raster import is_raster
from medhybrid.tables import Table, read_table

CASE_WORDS = ("case", "caseid", "casename", "id", "name", "scan", "scanid", "imageid", "study", "studyid", "uid")
PERSON_WORDS = frozenset(
    {
        *(
            "patient",
            "subject",
            "participant",
            "person",
            "individual",
            "volunteer",
            "proband",
            "donor",
            "animal",
            "mouse",
        ),
        *("patienten", "patientin", "pat", "probanden", "paciente", "pacientes", "sujet", "sujeto", "paziente"),
    }
)
SOURCE_WORDS = frozenset(
    {"video", "sequence", "seq", "clip", "slide", "wsi", "lesion", "volunteer", "specimen", "block"}
)
"""Words for what several images are of, without the person."""

IDENTIFIER_WORDS = frozenset(
    {"id", "ids", "no", "nr", "num", "number", "nummer", "code", "key", "uid", "name", "index", "dicom", "anon"}
)
"""Words that a column of subjects may have: `PatientNumber`, `dicom_patient_id`, `donor`."""

NO_FILES = "it has no columns of images and masks"
"""Reason why a table of other values lists no cases."""

FoundTable = tuple[Path, Table, str, list[str]]
"""Path of a table, its content, its column of masks, and its columns of images."""


@dataclass(frozen=True, slots=True)
class CaseTable:
    """Lines of a table of cases with absolute paths; no lines if the dataset's table can be used as it is.

    Attributes
    ----------
    subject : str
        Column of the dataset's table with the subjects; empty without one.
    own_lines : list of list of str
        The lines of a table that can be used as it is.
    """

    source: str
    channels: tuple[str, ...]
    lines: list[list[str]]
    optional: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    subject: str = ""
    own_lines: list[list[str]] = field(default_factory=list)


def table_of_cases(root: Path) -> CaseTable:
    """Return the cases of the folder's table.

    Raises
    ------
    DataError
        If no table has columns with an image and a mask for each line, or several have.
    """
    found: list[FoundTable] = []
    testing: list[tuple[Path, Table]] = []
    problem = ""
    headless: list[str] = []
    for path in find_tables(root):
        table = read_table(path)
        columns = _file_columns(table, path.parent)
        if first := [c for c in table.columns if _is_file(path.parent, c)]:
            headless.append(
                f"{printable_path(path.name)} begins with {first[0][:80]}, not with the names of its columns"
            )
            continue
        if len(columns) == 1 and (wide := as_wide(table, columns[0])) is not None:
            table, columns = wide, _file_columns(wide, path.parent)
            path = path.with_name(f"{path.name}, with a line for each file")
        masks = [c for c in columns if _is_mask(c)]
        masks = [c for c in masks if not is_other_mask(c, ())] or masks
        images = [c for c in columns if not _is_mask(c)]
        images = [c for c in images if not _is_result(c)] or images
        volumes = [c for c in images if not _are_rasters(table, c)]
        if volumes and len(volumes) < len(images) and len(masks) == 1 and not _are_rasters(table, masks[0]):
            images = volumes  # the others are previews
        if len(masks) == 1 and images:
            found.append((path, table, masks[0], images))
        elif not masks and images and part_of(path.stem) == "test":
            testing.append((path, table))
        elif masks and images:
            problem = f"{printable_path(path.name)} has the columns {', '.join(masks)} of masks"
    if len(found) > 1:
        found = _joined(found) or found
    if not found and headless:
        raise DataError(
            f"{printable_path(root)} has a table without the names of its columns",
            expected="a first line such as case,image,mask",
            found=headless[0],
            remedy="add this line",
        )
    if len(found) != 1:
        reasons = {p: why_unused(p) for p in find_tables(root)} if not found else {}
        missing = next((f"{printable_path(p.name)}: {why}" for p, why in reasons.items() if why != NO_FILES), "")
        raise DataError(
            f"{printable_path(root)} has {'several tables' if found else 'no table'} of images and masks",
            expected="one CSV table with a column of masks (mask, label or seg in its name) and columns of images",
            found=problem or missing or ", ".join(printable_path(p.name) for p in find_tables(root)) or "none",
            remedy="join them to one table, with a column `split`"
            if found
            else "keep one column of masks"
            if problem
            else "correct the paths: they are relative to the folder of the table, or absolute"
            if missing
            else "name its columns case, mask and one per channel",
        )
    return _lines_of(root, *_with_tests(found[0], testing))


def _with_tests(found: FoundTable, testing: Sequence[tuple[Path, Table]]) -> FoundTable:
    """Return a table with the lines of others, such as `test.csv`, as cases for testing without masks."""
    path, table, mask, images = found
    testing = [(p, t) for p, t in testing if set(images) & set(t.columns)]
    if not testing:
        return found
    table = with_split(table, images, path.name)
    split = split_column(table, images, path.name) or "split"
    columns = (*table.columns, *((split,) if split not in table.columns else ()))
    shared = [c for c in columns if c and c not in (mask, split)]
    rows = [(n, {split: "train"} | row) for n, row in table.rows]
    for _, tests in testing:
        rows += [(n, {c: row.get(c, "") for c in shared} | {mask: "", split: "test"}) for n, row in tests.rows]
    names = ", ".join([path.name, *(printable_path(p.name) for p, _ in testing)])
    return path.with_name(names), Table(columns, tuple(rows), table.separator), mask, images


def lists_files(root: Path) -> bool:
    """Return whether a table of a folder lists files: it has a column of masks, or two columns, of names of image files.

    The files need not exist. Another table has clinical data, for example.
    """
    for path in find_tables(root):
        table = read_table(path)
        columns = [
            c
            for c in table.columns
            if c and any(IMAGE_SUFFIX.search(row[c]) or _is_file(root, row[c]) for _, row in table.rows)
        ]
        if len(columns) > 1 or any(map(_is_mask, columns)):
            return True
    return False


def _joined(found: Sequence[FoundTable]) -> list[FoundTable]:
    """Return one table for those of the parts, such as `train.csv` and `val.csv`, with the part in a column `split`.

    The result is empty if the names are not those of different parts, or the columns differ.
    """
    parts = [part_of(path.stem) for path, *_ in found]
    columns = {table.columns for _, table, *_ in found}
    if None in parts or len(set(parts)) < len(parts) or len(columns) > 1:
        return []
    path, table, mask, images = found[0]
    if split_column(table, images, path.name):
        return []
    rows = [(n, row | {"split": str(part)}) for part, (_, t, *_) in zip(parts, found, strict=True) for n, row in t.rows]
    names = ", ".join(printable_path(p.name) for p, *_ in found)
    return [(path.with_name(names), Table((*table.columns, "split"), tuple(rows), table.separator), mask, images)]


def _lines_of(root: Path, path: Path, table: Table, mask: str, images: Sequence[str]) -> CaseTable:
    table = with_split(table, images, printable_path(path.name))
    case, subject = _column_named(table, CASE_WORDS, [mask, *images]), subject_column(table, [mask, *images])
    fold = table.column("fold")
    split = split_column(table, images, printable_path(path.name))
    if fold and not split and all(part_of(row[fold]) for _, row in table.rows if not is_blank(row[fold])):
        split, fold = fold, None  # words such as train in a column of folds
    optional = frozenset(c for c in images if any(is_blank(row[c]) for _, row in table.rows))
    optional = optional if len(optional) < len(images) else frozenset(images[1:])
    known = [table.column(name) for name in ("case", "mask", "subject")]
    names = [row[case] for _, row in table.rows] if case else []
    has_names = len(set(names)) == len(table.rows) and all(names)
    if not has_names:
        # an identifier of several lines is that of a patient
        subject = subject or (case if 1 < len(set(names)) < len(names) and not any(map(is_blank, names)) else None)
        names = [_name_of(row, images) for _, row in table.rows]
    if len(set(names)) != len(names):
        names = [f"{n}_{i}" for i, n in enumerate(names, start=1)]
    labels = table.column("labels") if mask == table.column("mask") else None  # in others, these may be diagnoses
    kept = {"subject": subject, "fold": fold, "split": split, "labels": None if labels == mask else labels}
    others = {name: column for name, column in kept.items() if column and name not in images}
    lines = [["case", *others, "mask", *images]]
    left_out = 0
    for name, (_, row) in zip(names, table.rows, strict=True):
        is_test = bool(split) and part_of(row[split]) == "test"  # kept without mask, too: its subject must not train
        if (is_blank(row[mask]) and not is_test) or all(is_blank(row[c]) for c in images):
            left_out += 1
            continue
        files = ["" if is_blank(row[c]) else _absolute(path.parent, row[c]) for c in (mask, *images)]
        lines.append([name, *(row[column] for column in others.values()), *files])
    if case is not None and [case, mask, subject] == known and path.is_file():
        return CaseTable(path.name, tuple(images), [], optional, subject=subject or "", own_lines=lines)
    remarks: tuple[str, ...] = (f"{left_out} lines without an image or a mask",) if left_out else ()
    if subject and (n := sum(is_blank(row[subject]) for _, row in table.rows)) not in (0, len(table.rows)):
        remarks += (f"{n} lines without {subject} are skipped, while other lines have one: fill the cells",)
    if unused := [
        c for c in table.columns if c and c not in (case if has_names else subject, mask, *others.values(), *images)
    ]:
        remarks += (f"{len(unused)} columns of {printable_path(path.name)} are not used: {', '.join(unused)[:200]}",)
    return CaseTable(path.name, tuple(images), lines, optional, remarks, subject or "")


def _column_named(table: Table, words: Sequence[str], files: Sequence[str]) -> str | None:
    """Return the first column that has one of some names, apart from columns of files; None without one."""
    plain = {re.sub(r"[\W_]+", "", c.casefold()): c for c in reversed(table.columns) if c and c not in files}
    return next((plain[w] for w in words if w in plain), None)


def subject_column(table: Table, files: Sequence[str]) -> str | None:
    """Return the column of the subjects: one of `SUBJECT_WORDS`, or a word for a person beside words for an identifier."""
    if found := _column_named(table, SUBJECT_WORDS, files):
        return found
    for named in (PERSON_WORDS, SOURCE_WORDS):
        for column in (c for c in table.columns if c and c not in files):
            words = set(words_of(column))
            if words & named and words <= named | IDENTIFIER_WORDS:
                return column
    return None


def _name_of(row: dict[str, str], images: Sequence[str]) -> str:
    path = Path(next((row[c] for c in images if not is_blank(row[c])), "case").replace("\\", "/"))
    return name_from_path(Path(IMAGE_SUFFIX.sub("", path.name)))


def _file_columns(table: Table, folder: Path) -> list[str]:
    """Return the columns whose cells are files or folders, for at least half of the lines."""
    found = []
    for column in table.columns:
        cells = [row[column] for _, row in table.rows if column and not is_blank(row.get(column, ""))]
        if cells and sum(_is_file(folder, c) for c in cells) >= len(cells) / 2 and len(cells) >= len(table.rows) / 5:
            found.append(column)
    return found


def _is_file(folder: Path, cell: str) -> bool:
    if "\0" in cell:
        return False
    if parts := _parts_of(folder, cell):
        return all(_is_file(folder, p) for p in parts)
    path = _path_of(folder, cell)
    if IMAGE_SUFFIX.search(cell) or DICOM_SUFFIX.search(cell):
        return os.path.exists(path)
    return ("/" in cell or "\\" in cell) and os.path.exists(path) and (not path.suffix or os.path.isdir(path))


def _parts_of(folder: Path, cell: str) -> list[str]:
    """Return the DICOM files or folders of a cell that has several, with `;` between; empty for any other cell."""
    parts = [t.strip() for t in cell.split(SEPARATOR) if t.strip()]
    is_one = len(parts) < 2 or os.path.exists(_path_of(folder, cell))
    return (
        [] if is_one or not all(_path_of(folder, p).exists() and not IMAGE_SUFFIX.search(p) for p in parts) else parts
    )


def _are_rasters(table: Table, column: str) -> bool:
    cells = [row[column] for _, row in table.rows if not is_blank(row[column])]
    return bool(cells) and all(is_raster(Path(c)) for c in cells)


def why_unused(path: Path) -> str:
    """Return the reason why a table lists no cases: it has no files, or they do not exist."""
    with suppress(DataError):
        table = read_table(path)
        named = [row[c] for _, row in table.rows for c in table.columns if c and IMAGE_SUFFIX.search(row[c])]
        if named and not any(_is_file(path.parent, cell) for cell in named):
            return f"files such as {printable_path(named[0])} do not exist in its folder"
    return NO_FILES


def _path_of(folder: Path, cell: str) -> Path:
    """Return the path of a cell, which may have the separators of Windows."""
    path = folder / cell
    return path if os.path.exists(path) else folder / cell.replace("\\", "/")


def _absolute(folder: Path, cell: str) -> str:
    return cell_of([_path_of(folder, c) for c in _parts_of(folder, cell) or [cell]])


def _is_result(column: str) -> bool:
    """Return whether a column is that of results of a model, or of masks from preprocessing."""
    return any(w in DERIVED_WORDS for w in re.findall(r"[a-z]+", column.lower())) or is_other_mask(column, ())


def _is_mask(column: str) -> bool:
    return any(w in MASK_WORDS for w in re.findall(r"[a-z]+", column.lower()))
