"""`medhybrid inspect`: scans of a folder, with the reason for each that cannot be read, and the summary of a dataset."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from medhybrid.draft import Draft, draft_study
from medhybrid.errors import DataError, ScanError, item_error
from medhybrid.geometry import orientation_code
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.reader import read_entry

SHOWN = 12
"""Number of labels in the summary of a dataset."""


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


def recognise_dataset(path: Path) -> Draft | None:
    """Return the draft of a study for the folder of a dataset; None for scans without reference masks."""
    if not path.is_dir():
        return None
    try:
        return draft_study(path)
    except DataError:
        return None


def describe_dataset(draft: Draft) -> list[tuple[str, str]]:
    """Return rows that summarise a dataset: property and value."""
    labels = [
        f"{'+'.join(map(str, label.values))} {label.name}"
        + (f" ({label.median_ml:.3g} ml in {label.n_cases} of {draft.n_sampled})" if label.n_cases else "")
        for label in draft.labels
    ]
    shown = labels[:SHOWN] + ([f"and {len(labels) - SHOWN} more"] if len(labels) > SHOWN else [])
    rows = [
        ("layout", f"{draft.layout} ({draft.source})"),
        ("cases", f"{draft.n_cases}, of which {draft.n_sampled} were read for this summary"),
        ("subjects", draft.subject_reason),
        ("channels", ", ".join(f"{c.name} ({c.modality}{', optional' * c.is_optional})" for c in draft.channels)),
        ("labels", ", ".join(shown)),
        ("median spacing mm", " x ".join(f"{s:.3g}" for s in draft.median_spacing_mm)),
        ("median shape", " x ".join(map(str, draft.median_shape))),
    ]
    return [(name, value) for name, value in rows if value] + [("remark", r) for r in draft.remarks]


def inspect(path: str | Path, *, read: bool = True, without: Collection[Path] = ()) -> tuple[list[Inspection], int]:
    """List every scan under `path`, and count the other files.

    Parameters
    ----------
    without : collection of Path
        Resolved paths of files that are not listed, such as reference masks.
    read : bool
        Read each scan completely, which finds damaged files; otherwise read headers only.
    """
    found = discover(Path(path))
    rows = []
    for entry in found.entries:
        if without and all(p.resolve() in without for p in entry.paths):
            continue
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
