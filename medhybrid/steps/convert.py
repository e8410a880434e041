"""`medhybrid convert`: conversion of scans to NIfTI files, with acquisition parameters and a table of refused files.

OUT/<volume>.nii.gz    rescaled values as float32, one file for each volume
OUT/<volume>.json      acquisition parameters (echo time, sequence, spacing), without patient data
OUT/table.csv          a row for each volume, with state, code and reason

Files in OUT that this command did not write, or wrote for another scan, are kept: the new volume gets another name.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medhybrid.config import ScansConfig
from medhybrid.errors import MedHybridError, ScanError, item_error
from medhybrid.files import read_cell, write_atomically
from medhybrid.geometry import orientation_code
from medhybrid.kept_tables import write_kept_table
from medhybrid.names import printable_path
from medhybrid.owned import CONVERTED, WrittenFiles, claim_folder
from medhybrid.progress import Reporter, Silent
from medhybrid.scans import BURNED_IN, Scan, ScanEntry, discover, is_in_millimetres, write_nifti
from medhybrid.scans.reader import read_entry, read_scan

logger = logging.getLogger(__name__)

COLUMNS = ["volume", "state", "code", "shape", "reason"]
NOT_OURS = " exists that medhybrid did not write"


@dataclass(frozen=True, slots=True)
class Converted:
    """Result of one volume: `state` is ``written``, ``refused`` or ``skipped`` (not a scan)."""

    name: str
    state: str
    code: str
    reason: str
    shape: tuple[int, ...] = ()


def convert(
    scans: str | Path, *, out: str | Path, options: ScansConfig | None = None, reporter: Reporter | None = None
) -> list[Converted]:
    """Convert every volume under `scans` to NIfTI in `out`; unreadable ones are refused, with the reason.

    Raises
    ------
    ScanError
        If `scans` does not exist.
    OutputError
        If `out` cannot be written, or has a table that this command did not write.
    """
    reporter, out = reporter or Silent(), Path(out)
    if not Path(scans).exists():
        raise ScanError(f"{printable_path(scans)} does not exist", remedy="check the path")
    claim_folder(out, CONVERTED, remedy="choose another folder for --out")
    found = discover(Path(scans), converted_in=out)
    rows, wanted = [], {e.name for e in found.entries}
    reporter.begin("converting", len(found.entries))
    with WrittenFiles(out) as written:
        for n, entry in enumerate(found.entries, start=1):
            row = _convert_one(entry, out, options, written, wanted)
            rows.append(row)
            reporter.advance(n, row.name)
        reporter.end()
        if renamed := [r.name for r, e in zip(rows, found.entries, strict=True) if r.name != e.name]:
            logger.warning(
                "%d volumes were renamed, since their names are taken: %s", len(renamed), ", ".join(renamed[:5])
            )
        names = {r.name for r in rows if r.state == "written"}
        if left := _left_of_series(found.entries, names, written):
            logger.warning(
                "%d volumes of an earlier call are of series that have other volumes now: %s. Remove these files from %s",
                len(left),
                ", ".join(f"{n}.nii.gz" for n in left[:5]),
                printable_path(out),
            )
        _write_table(out / "table.csv", rows, _earlier_rows(out / "table.csv", names, written))
    return rows


def _left_of_series(entries: Sequence[ScanEntry], names: Collection[str], written: WrittenFiles) -> list[str]:
    """Return earlier volumes of the series of this call, which it did not write: the series has more or fewer volumes now."""
    known = {e.name.removesuffix(f"__{e.part}") for e in entries if e.kind == "dicom" and e.name in names}
    earlier = [n for n in written.names if n not in names and (n in known or n.partition("__")[0] in known)]
    return [n for n in earlier if written.is_ours(f"{n}.nii.gz")]


def _convert_one(
    entry: ScanEntry, out: Path, options: ScansConfig | None, written: WrittenFiles, wanted: Collection[str]
) -> Converted:
    if entry.skip_reason:
        return Converted(entry.name, "skipped", "", entry.skip_reason)
    if entry.problem:
        return Converted(entry.name, "refused", entry.code, entry.problem)
    try:
        scan = read_entry(entry, entry.name, options)
        notes = [*scan.notes, *([entry.note] if entry.note else []), *([BURNED_IN] if entry.is_burned_in else [])]
        places = [f"{place}{entry.part}" for place in entry.places]
        same = partial(_is_written, scan)
        name = written.name_for(entry.name, (".nii.gz", ".json"), places, is_same=same, others=wanted)
        if name != entry.name:
            is_ours = written.is_ours(f"{entry.name}.nii.gz")
            why = "the folder has another scan" if is_ours else "a file"
            notes.append(f"written as {name}: {why} named {entry.name}{'' if is_ours else NOT_OURS}")
        array = scan.array[0] if len(scan.array) == 1 else scan.array
        like = scan.source if is_in_millimetres(scan.source) else None
        write_nifti(out / f"{name}.nii.gz", array, scan.affine, like=like)
        written.add(f"{name}.nii.gz", places)
        description = _describe(entry, replace(scan, notes=tuple(notes)))
        write_atomically(out / f"{name}.json", json.dumps(description, indent=1))
        written.add(f"{name}.json")
    except Exception as error:
        problem = item_error(error, f"{entry.name} cannot be converted", ScanError)
        return Converted(entry.name, "refused", getattr(problem, "code", ""), str(problem))
    return Converted(name, "written", "", "; ".join(notes), scan.array.shape[1:])


def _describe(entry: ScanEntry, scan: Scan) -> dict[str, object]:
    return {
        **entry.acquisition,
        "volume": entry.part,
        "shape": list(scan.array.shape[1:]),
        "spacing_mm": [round(s, 6) for s in scan.grid.spacing_mm],
        "orientation": orientation_code(scan.affine),
        "n_files": len(entry.paths),
        "notes": list(scan.notes),
    }


def _is_written(scan: Scan, path: Path) -> bool:
    """Return whether an existing file has the values and the affine of a scan."""
    try:
        there = read_scan(path)
    except MedHybridError:
        return False
    if there.array.shape != scan.array.shape or not np.allclose(there.affine, scan.affine, atol=1e-3):
        return False
    return np.array_equal(there.array, scan.array, equal_nan=True)


def _earlier_rows(path: Path, names: Collection[str], written: WrittenFiles) -> list[list[str]]:
    """Return the rows of a table for volumes that earlier calls wrote and that are unchanged."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [[read_cell(cell) for cell in cells] for cells in csv.reader(file)][1:]
    except (OSError, csv.Error):
        return []
    rows = [r for r in rows if len(r) == len(COLUMNS) and r[1] == "written" and r[0] not in names]
    return [r for r in rows if written.is_ours(f"{r[0]}.nii.gz")]


def _write_table(path: Path, rows: list[Converted], earlier: list[list[str]]) -> None:
    cells = [[r.name, r.state, r.code, " x ".join(map(str, r.shape)), r.reason] for r in rows]
    write_kept_table(path, [COLUMNS, *sorted([*cells, *earlier])])
