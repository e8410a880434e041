"""Table of cases for any CSV table with columns of files, whatever their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts.case import FLAT_SUFFIX
from medhybrid.data.layouts.table import find_tables
from medhybrid.draft.pairs import MASK_WORDS
from medhybrid.errors import DataError
from medhybrid.names import name_from_path, printable_path
from medhybrid.tables import Table, read_table

CASE_WORDS = ("case", "case_id", "caseid", "id", "name", "scan", "image_id", "study", "uid")
SUBJECT_WORDS = (
    "subject",
    "subject_id",
    "subjectid",
    "patient",
    "patient_id",
    "patientid",
    "participant",
    "participant_id",
    "pid",
)


@dataclass(frozen=True, slots=True)
class CaseTable:
    """Lines of a table of cases with absolute paths; no lines if the dataset's table can be used as it is."""

    source: str
    channels: tuple[str, ...]
    lines: list[list[str]]
    optional: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()


def table_of_cases(root: Path) -> CaseTable:
    """Return the cases of the folder's table.

    Raises
    ------
    DataError
        If no table has columns with an image and a mask for each line, or several have.
    """
    found = []
    for path in find_tables(root):
        table = read_table(path)
        columns = _file_columns(table, path.parent)
        masks = [c for c in columns if _is_mask(c)]
        if len(masks) == 1 and len(columns) > 1:
            found.append((path, table, masks[0], [c for c in columns if c not in masks]))
    if len(found) != 1:
        raise DataError(
            f"{printable_path(root)} has {'several tables' if found else 'no table'} of images and masks",
            expected="one CSV table with a column of masks (mask, label or seg in its name) and columns of images",
            found=", ".join(printable_path(p.name) for p in find_tables(root)) or "none",
            remedy="name its columns case, mask and one per channel",
        )
    return _lines_of(root, *found[0])


def _lines_of(root: Path, path: Path, table: Table, mask: str, images: Sequence[str]) -> CaseTable:
    case = next((c for w in CASE_WORDS if (c := table.column(w)) is not None), None)
    subject = next((c for w in SUBJECT_WORDS if (c := table.column(w)) is not None), None)
    optional = frozenset(c for c in images if any(not row[c] for _, row in table.rows))
    optional = optional if len(optional) < len(images) else frozenset(images[1:])
    if case == "case" and mask == "mask" and subject in (None, "subject"):
        return CaseTable(path.name, tuple(images), [], optional)
    names = [row[case] for _, row in table.rows] if case else []
    if len(set(names)) != len(table.rows) or not all(names):
        names = [_name_of(row, images) for _, row in table.rows]
    if len(set(names)) != len(names):
        names = [f"{n}_{i}" for i, n in enumerate(names, start=1)]
    lines = [["case", "subject", "mask", *images]]
    left_out = 0
    for name, (_, row) in zip(names, table.rows, strict=True):
        if not row[mask] or not any(row[c] for c in images):
            left_out += 1
            continue
        files = [str(path.parent / row[c]) if row[c] else "" for c in (mask, *images)]
        lines.append([name, (row[subject] if subject else "") or name, *files])
    remarks = (f"{left_out} lines without an image or a mask",) if left_out else ()
    return CaseTable(path.name, tuple(images), lines, optional, remarks)


def _name_of(row: dict[str, str], images: Sequence[str]) -> str:
    path = Path(next((row[c] for c in images if row[c]), "case").replace("\\", "/"))
    return name_from_path(Path(IMAGE_SUFFIX.sub("", FLAT_SUFFIX.sub("", path.name))))


def _file_columns(table: Table, folder: Path) -> list[str]:
    """Return the columns whose cells are files or folders, for at least half of the lines."""
    found = []
    for column in table.columns:
        cells = [row[column] for _, row in table.rows if column and row.get(column)]
        if cells and sum(_is_file(folder, c) for c in cells) >= len(cells) / 2 and len(cells) >= len(table.rows) / 5:
            found.append(column)
    return found


def _is_file(folder: Path, cell: str) -> bool:
    if "\0" in cell or len(cell) > 4_000:
        return False
    has_suffix = IMAGE_SUFFIX.search(cell) or FLAT_SUFFIX.search(cell) or "/" in cell or "\\" in cell
    return bool(has_suffix) and ((folder / cell).exists() or (folder / cell.replace("\\", "/")).exists())


def _is_mask(column: str) -> bool:
    return any(w in MASK_WORDS for w in re.findall(r"[a-z]+", column.lower()))
