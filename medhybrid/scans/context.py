"""What scanner and study say besides the picture: from the scan's grid, its DICOM header or side file, and `context.csv`.

Only the fields of `READERS` exist; none identifies a patient, and everything else is refused or not looked at. A field that
nobody gives is absent.

context.csv, in the scan's folder or the one above, has a column `case` (the scan's file name without suffix, or its folder's
name) and columns of these names; a value there comes before a header's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.errors import DataError, ScanError
from medhybrid.files import check_file
from medhybrid.scans.contrast import has_contrast_agent
from medhybrid.scans.dicom.headers import load_dataset, read_acquisition
from medhybrid.scans.scan import Scan
from medhybrid.tables import read_table

TABLE = "context.csv"


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _sex(value: Any) -> float | None:
    """F is 0, M is 1; others are absent."""
    return {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}.get(str(value).strip().lower())


def _age(value: Any) -> float | None:
    """Years, also of DICOM's form: 045Y, 018M, 012W, 005D."""
    if met := re.fullmatch(r"(\d{1,3})([YMWD])", str(value).strip().upper()):
        return int(met[1]) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[met[2]]
    return _number(value)


def _contrast(value: Any) -> float | None:
    """1 with an agent, 0 without; see `has_contrast_agent`."""
    has_agent = has_contrast_agent(value)
    return None if has_agent is None else float(has_agent)


READERS: dict[str, Callable[[Any], float | None]] = {
    "pixel_mm": _number,
    "slice_mm": _number,
    "field_strength_t": _number,
    "echo_time_ms": _number,
    "repetition_time_ms": _number,
    "inversion_time_ms": _number,
    "contrast_agent": _contrast,
    "age_years": _age,
    "sex": _sex,
}
"""Every field there is, and how its text becomes a number."""

PATIENT_TAGS = {"age_years": "PatientAge", "sex": "PatientSex"}


def read_context(scan: Scan, fields: Sequence[str]) -> dict[str, float]:
    """The fields that are known of a scan.

    Raises
    ------
    ScanError
        If `context.csv` has columns that are no field.
    """
    if not fields:
        return {}
    spacing = scan.grid.spacing_mm
    given: dict[str, Any] = {"pixel_mm": min(spacing), "slice_mm": max(spacing)}
    given |= {**_of_header(scan, fields), **_of_table(scan)}
    values = {field: READERS[field](given[field]) for field in fields if field in given}
    return {field: value for field, value in values.items() if value is not None}


def context_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Side files and tables that say something of these scans: where one changes, so may what is known of a scan."""
    near: set[Path] = set()
    for path in paths:
        file = path / "slice" if path.is_dir() else path  # a folder stands for the files of a series
        near |= {_side_file(file), *_tables(file)}
    return tuple(sorted(p for p in near if p.is_file()))


def _side_file(path: Path) -> Path:
    return path.with_name(_stem(path) + ".json")


def _tables(path: Path) -> tuple[Path, Path]:
    folder = path.absolute().parent
    return folder / TABLE, folder.parent / TABLE


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _of_header(scan: Scan, fields: Sequence[str]) -> Mapping[str, Any]:
    """From the DICOM header of the first file, or the side file that `convert` writes beside a NIfTI file."""
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
        values = json.loads(_side_file(path).read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in values.items() if k in READERS} if isinstance(values, dict) else {}


def _of_table(scan: Scan) -> Mapping[str, str]:
    if not scan.source.paths:
        return {}
    path = scan.source.paths[0].absolute()
    for file in _tables(path):
        if file.is_file():
            table = _read_table(file, file.stat().st_mtime_ns)
            row = next((table[name] for name in _names_in_table(path, scan.case) if name in table), {})
            return {field: text for field, text in row.items() if text.strip()}
    return {}


def _names_in_table(path: Path, case: str) -> tuple[str, ...]:
    """Names by which a scan may stand in `context.csv`.

    A case may go by a name of its own here (a keyed hash): the file's, less nnU-Net's number, is that of the table.
    """
    stem = _stem(path)
    return stem, case, re.sub(r"_\d{4}$", "", stem), path.parent.name


def unused_context(scans: Iterable[tuple[str, Iterable[Path]]]) -> dict[Path, list[str]]:
    """Return the rows of each `context.csv` that name none of these scans (case and files); what cannot be read is left out."""
    names: dict[Path, set[str]] = {}
    for case, paths in scans:
        for path in paths:
            file = (path / "slice" if path.is_dir() else path).absolute()
            for table in _tables(file):
                names.setdefault(table, set()).update(_names_in_table(file, case))
    unused: dict[Path, list[str]] = {}
    for table, known in names.items():
        if table.is_file():
            with suppress(OSError, ScanError):
                rows = [name for name in _read_table(table, table.stat().st_mtime_ns) if name not in known]
                unused |= {table: rows} if rows else {}
    return unused


@lru_cache(maxsize=16)
def _read_table(path: Path, _changed: int) -> dict[str, dict[str, str]]:
    """Read `context.csv` by case; raises `ScanError`."""
    try:
        table = read_table(path)
    except DataError as error:
        raise ScanError(error.what, expected=error.expected, found=error.found, remedy=error.remedy) from error
    columns = [c for c in table.columns if c]
    unknown = [c for c in columns if c not in ("case", *READERS)]
    if "case" not in columns or unknown:
        raise ScanError(
            f"{path.name} cannot be used: "
            + (f"{', '.join(unknown)} are no fields" if unknown else "it has no column case"),
            expected="case, and any of " + ", ".join(READERS),
            remedy="leave other columns out; what identifies a patient must not stand here",
        )
    found: dict[str, dict[str, str]] = {}
    for line, row in table.rows:
        if "" in row:
            raise ScanError(
                f"{path.name}: line {line} has more cells than there are columns", remedy="correct the table"
            )
        if row["case"] in found:
            raise ScanError(f"{path.name}: line {line} is a second one of its case", remedy="remove one of them")
        found[row["case"]] = {k: v for k, v in row.items() if k != "case"}
    return found
