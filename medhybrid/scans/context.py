"""Metadata of a scan for metadata conditioning: from its grid, its DICOM header or side file, and `context.csv`.

The fields are those of `READERS`. None of them identifies a patient. Other columns of the table are refused, other
attributes of headers are not read. A field without a value is absent.

The table `context.csv` is in the scan's folder or in a folder above it, up to the searched folder. Its column `case` holds the
case's name, the scan's file name without suffix, or the name of a folder above the scan. Its other columns are fields. A value
in the table takes precedence over the header's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medhybrid.errors import DataError, ScanError
from medhybrid.files import check_file
from medhybrid.scans.context_values import READERS, cannot_be_read, with_decimal_point
from medhybrid.scans.dicom.headers import load_dataset, read_acquisition
from medhybrid.scans.scan import Scan
from medhybrid.tables import read_table

TABLE = "context.csv"

CONTEXT_VERSION = "context 2"
"""Version of the rules for reading tables. Metadata read with another version is read again."""


PATIENT_TAGS = {"age_years": "PatientAge", "sex": "PatientSex"}


def read_context(scan: Scan, fields: Sequence[str]) -> dict[str, float]:
    """Return the known metadata fields of a scan as numbers.

    Raises
    ------
    ScanError
        If `context.csv` cannot be read or has unknown columns.
    """
    if not fields:
        return {}
    spacing = scan.grid.spacing_mm
    given = {"pixel_mm": min(spacing), "slice_mm": max(spacing), **_given(scan, fields)}
    values = {field: READERS[field](given[field]) for field in fields if field in given}
    return {field: value for field, value in values.items() if value is not None}


def _given(scan: Scan, fields: Sequence[str]) -> dict[str, Any]:
    """Return the unconverted values of header, side file and table."""
    return {**_of_header(scan, fields), **_of_table(scan)}


def unread_context(scan: Scan, fields: Sequence[str]) -> tuple[str, ...]:
    """Return messages for fields with a value that cannot be converted. Raises the errors of `read_context`."""
    given = _given(scan, fields) if fields else {}
    return tuple(
        f"{field} has a value that cannot be read: it is treated as absent"
        for field in fields
        if cannot_be_read(field, given.get(field))
    )


def context_files(paths: Iterable[Path], root: Path | None = None) -> tuple[Path, ...]:
    """Return the existing side files and tables with metadata of these scans.

    If one of them changes, the metadata must be read again.

    Parameters
    ----------
    root : Path, optional
        The searched folder. Tables are looked for up to this folder.
    """
    near: set[Path] = set()
    for path in paths:
        file = path / "slice" if path.is_dir() else path  # a folder stands for all files of a series
        near |= {_side_file(file), *_tables(file, root)}
    return tuple(sorted(p for p in near if p.is_file()))


def _side_file(path: Path) -> Path:
    return path.with_name(_stem(path) + ".json")


def _tables(path: Path, root: Path | None) -> list[Path]:
    """Return the possible paths of a file's table, the nearest first."""
    return [folder / TABLE for folder in _folders(path, root)]


def _folders(path: Path, root: Path | None) -> list[Path]:
    """Return the folder of a file, its parent, and all further parents up to the searched folder."""
    above = list(path.absolute().parents)
    if root is None or root.absolute() not in above:
        return above[:2]
    return above[: max(above.index(root.absolute()) + 1, 2)]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _of_header(scan: Scan, fields: Sequence[str]) -> Mapping[str, Any]:
    """Return metadata from the DICOM header of the first file, or from the side file that `convert` writes for NIfTI."""
    paths = scan.source.paths
    if not paths:
        return {}
    if scan.source.kind != "dicom":
        return _of_side_file(paths[0])
    asked = {field: tag for field, tag in PATIENT_TAGS.items() if field in fields}
    header = load_dataset(paths[0], tags=list(asked.values())) if asked else {}
    patient = {field: str(header.get(tag, "")) for field, tag in asked.items()}
    acquisition = read_acquisition(paths[0])
    return {**acquisition, **scan.source.acquisition, **patient}


def _of_side_file(path: Path) -> Mapping[str, Any]:
    try:
        check_file(_side_file(path))
        values = json.loads(_side_file(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in values.items() if k in READERS} if isinstance(values, dict) else {}


def _of_table(scan: Scan) -> Mapping[str, str]:
    if not scan.source.paths:
        return {}
    path = scan.source.paths[0].absolute()
    for file in _tables(path, scan.searched):
        if file.is_file():
            table = _read_table(file, file.stat().st_mtime_ns)
            names = _names_in_table(path, scan.case, scan.searched)
            row = next((table[name] for name in names if name in table), {})
            return {field: text for field, text in row.items() if text.strip()}
    return {}


def _names_in_table(path: Path, case: str, root: Path | None) -> tuple[str, ...]:
    """Return the names that a scan may have in `context.csv`, in order of precedence.

    The case's name comes first: a file may have the name of another case. The case's name may be a keyed hash that the table
    does not have. Then the file's name counts, also without the channel number of nnU-Net.
    """
    stem = _stem(path)
    folders = [f.name for f in _folders(path, root)] if root is not None else []
    own = [f for f in folders[:-1] if f] if len(folders) > 2 else [path.parent.name]
    return tuple(unicodedata.normalize("NFC", n) for n in (case, stem, re.sub(r"_\d{4}$", "", stem), *own))


@dataclass(frozen=True, slots=True)
class ContextRemark:
    """Problem in a `context.csv`, with the affected names and a remedy."""

    table: Path
    message: str
    names: tuple[str, ...]
    remedy: str


def remarks_on_context(
    scans: Iterable[tuple[str, Iterable[Path]]], fields: Sequence[str], root: Path | None = None
) -> list[ContextRemark]:
    """Return remarks on unused rows, ambiguous names and unreadable values in each `context.csv`.

    A table that cannot be read has no remark: it is reported as a problem of its cases.
    """
    names: dict[Path, dict[str, tuple[str, ...]]] = {}
    for case, paths in scans:
        for path in paths:
            file = (path / "slice" if path.is_dir() else path).absolute()
            for table in _tables(file, root):
                known = names.setdefault(table, {})
                known[case] = (*known.get(case, ()), *_names_in_table(file, case, root))
    found = []
    for table, by_case in names.items():
        if table.is_file():
            with suppress(OSError, ScanError):
                found += _remarks(table, _read_table(table, table.stat().st_mtime_ns), by_case, fields)
    return found


def _remarks(
    table: Path, rows: Mapping[str, Mapping[str, str]], by_case: Mapping[str, tuple[str, ...]], fields: Sequence[str]
) -> list[ContextRemark]:
    known = {name for names in by_case.values() for name in names}
    unused = tuple(name for name in rows if name not in known)
    said = {case: [rows[n] for n in names if n in rows] for case, names in by_case.items()}
    doubtful = tuple(case for case, of_case in said.items() if any(row != of_case[0] for row in of_case))
    unread = tuple(
        f"{name} ({f})" for name, row in rows.items() for f in fields if f in row and cannot_be_read(f, row[f])
    )
    remarks = (
        (
            unused,
            f"{len(unused)} rows of {TABLE} match no case",
            "use the name of the image's file without its suffix, or the name of its folder",
        ),
        (
            doubtful,
            f"{len(doubtful)} cases match two different rows of {TABLE}: by their name, and by the name of a file or folder; "
            "the row with the case's name is used",
            "use only the names of the cases",
        ),
        (
            unread,
            f"{len(unread)} values of {TABLE} cannot be read, and are treated as absent",
            "write a number with a point, with or without its unit, and F or M as sex",
        ),
    )
    return [ContextRemark(table, message, found, remedy) for found, message, remedy in remarks if found]


@lru_cache(maxsize=16)
def _read_table(path: Path, _changed: int) -> dict[str, dict[str, str]]:
    """Return the rows of a `context.csv` by case; raises `ScanError`."""
    try:
        table = read_table(path)
    except DataError as error:
        raise ScanError(error.what, expected=error.expected, found=error.found, remedy=error.remedy) from error
    columns = [c for c in table.columns if c]
    unknown = [c for c in columns if c not in ("case", *READERS)]
    if "case" not in columns or unknown:
        raise ScanError(
            f"{path.name} cannot be used: "
            + (f"unknown columns {', '.join(unknown)}" if unknown else "the column case is missing"),
            expected="case, and any of " + ", ".join(READERS),
            remedy="remove other columns; data that identify a patient are not allowed here",
        )
    found: dict[str, dict[str, str]] = {}
    for line, row in table.rows:
        if "" in row:
            raise ScanError(
                f"{path.name}: line {line} has more cells than the header has columns", remedy="correct the table"
            )
        name = unicodedata.normalize("NFC", row["case"])
        if name in found:
            raise ScanError(f"{path.name}: line {line} is a second row of the same case", remedy="remove one of them")
        found[name] = {k: with_decimal_point(v, table.separator) for k, v in row.items() if k != "case"}
    return found
