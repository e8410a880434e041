"""`medhybrid convert`: DICOM series to NIfTI files, each with how it was acquired, and a table of what was refused.

OUT/<volume>.nii.gz    values as float32 (rescaled), one file a volume
OUT/<volume>.json      acquisition: echo time, sequence, spacing; nothing that identifies a patient
OUT/table.csv          a row for everything that was found: state, code, reason

A file of OUT that this command did not write stays as it is: the volume gets another name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from medhybrid.config import ScansConfig
from medhybrid.errors import ScanError, item_error
from medhybrid.files import write_atomically
from medhybrid.geometry import orientation_code
from medhybrid.kept_tables import write_kept_table
from medhybrid.names import printable_path
from medhybrid.owned import CONVERTED, WrittenFiles, claim_folder
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
        If `scans` does not exist.
    OutputError
        If `out` cannot be written to, or holds a table that this command did not write.
    """
    reporter, out = reporter or Silent(), Path(out)
    if not Path(scans).exists():
        raise ScanError(f"{printable_path(scans)} does not exist", remedy="check the path")
    claim_folder(out, CONVERTED, remedy="choose another folder for --out")
    found = discover(Path(scans), converted_in=out)
    rows = []
    reporter.begin("converting", len(found.entries))
    with WrittenFiles(out) as written:
        for n, entry in enumerate(found.entries, start=1):
            row = _convert_one(entry, out, options, written)
            rows.append(row)
            reporter.advance(n, row.name)
        reporter.end()
        _write_table(out / "table.csv", rows)
    return rows


def _convert_one(entry: ScanEntry, out: Path, options: ScansConfig | None, written: WrittenFiles) -> Converted:
    if entry.left_aside:
        return Converted(entry.name, "left aside", "", entry.left_aside)
    if entry.problem:
        return Converted(entry.name, "refused", entry.code, entry.problem)
    try:
        scan = read_entry(entry, entry.name, options)
        notes = [*scan.notes, *([entry.note] if entry.note else []), *([BURNED_IN] if entry.is_burned_in else [])]
        name = written.free_name(entry.name, (".nii.gz", ".json"))
        if name != entry.name:
            notes.append(f"written as {name}: a file named {entry.name} is there that medhybrid did not write")
        array = scan.array[0] if len(scan.array) == 1 else scan.array
        like = scan.source if is_in_millimetres(scan.source) else None
        write_nifti(out / f"{name}.nii.gz", array, scan.affine, like=like)
        written.add(f"{name}.nii.gz")
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


def _write_table(path: Path, rows: list[Converted]) -> None:
    cells = [[r.name, r.state, r.code, " x ".join(map(str, r.shape)), r.reason] for r in rows]
    write_kept_table(path, [["volume", "state", "code", "shape", "reason"], *cells])
