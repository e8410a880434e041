"""`medhybrid convert`: DICOM series to NIfTI files, each with how it was acquired, and a table of what was refused.

OUT/<volume>.nii.gz    values as float32 (rescaled), one file a volume
OUT/<volume>.json      acquisition: echo time, sequence, spacing; nothing that identifies a patient
OUT/table.csv          a row for everything that was found: state, code, reason
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from medhybrid.config import ScansConfig
from medhybrid.errors import MedHybridError, ScanError
from medhybrid.files import write_atomically
from medhybrid.geometry import orientation_code
from medhybrid.scans import BURNED_IN, Scan, ScanEntry, discover, is_in_millimetres, write_nifti
from medhybrid.scans.reader import read_entry
from medhybrid.steps.progress import Reporter, Silent


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of one entry: `state` is ``written``, ``refused`` or ``left aside``."""

    name: str
    state: str
    code: str
    reason: str
    shape: tuple[int, ...] = ()


def convert(
    scans: str | Path, *, out: str | Path, options: ScansConfig | None = None, reporter: Reporter | None = None
) -> list[Converted]:
    """Write every volume under `scans` to `out`; what cannot be read right is refused with its reason.

    Raises
    ------
    ScanError
        If `scans` does not exist, or `out` cannot be written.
    """
    reporter, out = reporter or Silent(), Path(out)
    found = discover(Path(scans))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScanError(f"{out} cannot be made", found=error.strerror or str(error)) from error
    rows = []
    reporter.begin("converting", len(found.entries))
    for n, entry in enumerate(found.entries, start=1):
        row = _convert_one(entry, out, options)
        rows.append(row)
        reporter.advance(n, row.name)
    reporter.end()
    _write_table(out / "table.csv", rows)
    return rows


def _convert_one(entry: ScanEntry, out: Path, options: ScansConfig | None) -> Converted:
    if entry.left_aside:
        return Converted(entry.name, "left aside", "", entry.left_aside)
    if entry.problem:
        return Converted(entry.name, "refused", entry.code, entry.problem)
    try:
        scan = read_entry(entry, entry.name, options)
        if entry.is_burned_in:
            scan = replace(scan, notes=(*scan.notes, BURNED_IN))
        array = scan.array[0] if len(scan.array) == 1 else scan.array
        like = scan.source if is_in_millimetres(scan.source) else None
        write_nifti(out / f"{entry.name}.nii.gz", array, scan.affine, like=like)
        write_atomically(out / f"{entry.name}.json", json.dumps(_describe(entry, scan), indent=1))
    except MedHybridError as error:
        return Converted(entry.name, "refused", getattr(error, "code", ""), str(error))
    return Converted(entry.name, "written", "", "; ".join(scan.notes), scan.array.shape[1:])


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


def _write_table(path: Path, rows: list[Converted]) -> None:
    pending = path.with_name(f".{os.getpid()}.{path.name}")
    with pending.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["volume", "state", "code", "shape", "reason"])
        for r in rows:
            writer.writerow([r.name, r.state, r.code, " x ".join(map(str, r.shape)), r.reason])
    pending.replace(path)
