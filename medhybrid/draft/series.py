"""DICOM series and masks in other arrangements than one folder for each study: several visits, or deeper folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.data.layouts.drawn_on import drawn_on
from medhybrid.data.layouts.label_files import cell_of
from medhybrid.draft.subjects import subjects_of_units
from medhybrid.names import name_from_path
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.dicom.patient import one_for_each_patient
from medhybrid.scans.dicom.references import KINDS


@dataclass(frozen=True, slots=True)
class Unit:
    """Folder with a single mask, and the image series in it."""

    folder: Path
    mask: ScanEntry
    images: tuple[ScanEntry, ...]


def series_folders(root: Path) -> list[Path]:
    """Return the folders, relative to `root`, that contain the files of one DICOM image series, and of no other series."""
    entries = [e for e in discover(root, with_archives=False).entries if e.kind == "dicom"]
    images = [e for e in entries if not (e.problem or e.skip_reason or e.modality in KINDS)]
    n_series = Counter(folder for e in entries for folder in {p.parent for p in e.paths})
    folders = [{p.parent for p in e.paths} for e in images]
    return sorted(f.relative_to(root) for found in folders if len(found) == 1 for f in found if n_series[f] == 1)


def find_units(root: Path, masks: Sequence[ScanEntry], images: Sequence[ScanEntry]) -> list[Unit]:
    """Return, for each mask, the largest folder below `root` that contains no other mask, with the images in it.

    A mask without such a folder gets the image that it alone refers to, as one of two CTs of a patient. Others are omitted.
    """
    n_masks = Counter(folder for m in masks for folder in _folders(m, root))
    found = []
    for mask in masks:
        folder = next((f for f in _folders(mask, root) if n_masks[f] == 1), None)
        inside = [] if folder is None else [i for i in images if folder in _folders(i, root)]
        if folder is not None and inside:
            found.append(Unit(folder, mask, tuple(inside)))
    paired = {u.mask.paths[0] for u in found}
    drawn = {m.paths[0]: drawn_on(m, images) for m in masks if m.paths[0] not in paired}
    n_drawn = Counter(i.paths[0] for of_mask in drawn.values() for i in of_mask)
    for mask in masks:
        of_mask = drawn.get(mask.paths[0], [])
        if len(of_mask) == 1 and n_drawn[of_mask[0].paths[0]] == 1:
            found.append(Unit(of_mask[0].paths[0].parent, mask, tuple(of_mask)))
    return found


def lines_of(units: Sequence[Unit], patterns: Mapping[str, str], entries: Sequence[ScanEntry]) -> list[list[str]]:
    """Return the lines of a table with a case for each unit that has one series for each channel, in a separate folder.

    Parameters
    ----------
    patterns : mapping
        Channel to the description of its series; `*` takes the only series of a unit, or the one that the mask refers to.
    entries : sequence of ScanEntry
        All series of the dataset.
    """
    base = Path(os.path.commonpath([u.folder.parent for u in units]))
    alone = {folder for folder, n in Counter(e.paths[0].parent for e in entries).items() if n == 1}
    lines = [["case", "subject", "mask", *patterns]]
    same = one_for_each_patient(u.images[0].patient for u in units)
    patients = [same[u.images[0].patient] for u in units]
    subjects = subjects_of_units([u.folder.relative_to(base) for u in units], patients)
    for unit, subject in zip(units, subjects, strict=True):
        series = [_of_channel(unit, wanted) for wanted in patterns.values()]
        if all(len(found) == 1 and found[0].paths[0].parent in alone for found in series):
            below = unit.folder.relative_to(base)
            folders = [str(found[0].paths[0].parent) for found in series]
            lines.append([name_from_path(below), name_from_path(subject), cell_of(unit.mask.paths), *folders])
    return lines


def _of_channel(unit: Unit, wanted: str) -> list[ScanEntry]:
    if wanted == "*" and len(unit.images) > 1:
        return drawn_on(unit.mask, unit.images)
    return [e for e in unit.images if wanted in ("*", e.description.strip())]


def _folders(entry: ScanEntry, root: Path) -> list[Path]:
    """Return the folders below `root` that contain a series, the largest first."""
    return [p for p in reversed(entry.paths[0].parents) if p != root and p.is_relative_to(root)]
