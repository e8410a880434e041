"""`medhybrid inspect`: list of the scans in a folder, with the reason for each that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import ScanError, item_error
from medhybrid.geometry import orientation_code
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.reader import read_entry


@dataclass(frozen=True, slots=True)
class Inspection:
    """Geometry, notes and problem of one scan; `problem` is empty if the scan was read."""

    entry: ScanEntry
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    notes: tuple[str, ...]
    problem: str
    is_scan: bool


def inspect(path: str | Path, *, read: bool = True) -> tuple[list[Inspection], int]:
    """List every scan under `path`, and count the other files.

    Parameters
    ----------
    read : bool
        Read each scan completely, which finds damaged files; otherwise read headers only.
    """
    found = discover(Path(path))
    rows = []
    for entry in found.entries:
        shape, spacing, orientation = entry.shape, entry.spacing_mm, entry.orientation
        notes: tuple[str, ...] = ()
        problem, is_scan = entry.problem or entry.skip_reason, not entry.skip_reason
        if read and not problem:
            try:
                scan = read_entry(entry, entry.name)
                shape = scan.array.shape[1:] + ((len(scan.array),) if len(scan.array) > 1 else ())
                spacing, orientation = scan.grid.spacing_mm, orientation_code(scan.affine)
                notes = (*scan.notes, *([entry.note] if entry.note else []))
            except Exception as error:
                problem = str(item_error(error, f"{entry.name} cannot be read", ScanError))
        rows.append(Inspection(entry, shape, spacing, orientation, notes, problem, is_scan))
    return rows, found.n_skipped
