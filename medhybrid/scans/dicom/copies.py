"""Removal of duplicate DICOM instances, and refusal of different files with the same SOPInstanceUID."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medhybrid.errors import SeriesError
from medhybrid.number_text import format_vectors_apart
from medhybrid.scans.dicom.damaged_uids import have_one_uid
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.pixels import read_stored

Load = Callable[[Path], Any]
"""Function that loads the data set of a file."""

VECTORS = {
    "ImagePositionPatient": "position_mm",
    "ImageOrientationPatient": "orientation",
    "PixelSpacing": "spacing_mm",
}
SCALARS = (
    "rows",
    "columns",
    "slope",
    "intercept",
    "is_rescaled",
    "number",
    "frame_of_reference",
    "is_quantity",
    "tile",
)


def without_copies(files: Sequence[tuple[Frame, ...]], load: Load) -> list[Frame]:
    """Return the frames of files without duplicate instances.

    Two files with the same SOPInstanceUID are duplicates if their frames have the same position, scaling and stored values,
    regardless of the encoding. If all slices have one SOPInstanceUID, it is ignored.

    Raises
    ------
    SeriesError
        If two files with the same SOPInstanceUID differ.
    """
    if have_one_uid(files):
        return [f for found in files for f in found]
    kept: dict[str, tuple[Frame, ...]] = {}
    frames: list[Frame] = []
    for found in files:
        uid = found[0].uid if found else ""
        known = kept.get(uid) if uid else None
        if known is None:
            kept[uid] = found
            frames += found
        elif not _same_bytes(found[0].path, known[0].path):
            _refuse_difference(known, found, load)
    return frames


def _same_bytes(a: Path, b: Path) -> bool:
    return os.path.getsize(a) == os.path.getsize(b) and a.read_bytes() == b.read_bytes()


def _refuse_difference(known: Sequence[Frame], found: Sequence[Frame], load: Load) -> None:
    difference = _compare_headers(known, found) or _compare_values(known, found, load)
    if difference:
        raise SeriesError(
            f"{known[0].path.name} and {found[0].path.name} have the same SOPInstanceUID, but differ",
            code="duplicate_slice",
            path=found[0].path,
            expected="equal content for the same SOPInstanceUID",
            found=difference,
            remedy="remove one of the files, or export the series again",
        )


def _compare_headers(known: Sequence[Frame], found: Sequence[Frame]) -> str:
    if len(known) != len(found):
        return f"{len(known)} and {len(found)} frames"
    for a, b in zip(known, found, strict=True):
        for name, field in VECTORS.items():
            one, other = getattr(a, field), getattr(b, field)
            if one != other:
                first, second = format_vectors_apart([one, other])
                return f"{name} ({first}) and ({second})"
        for field in SCALARS:
            if getattr(a, field) != getattr(b, field):
                hides = field == "frame_of_reference"
                return f"another {field}" if hides else f"{field} {getattr(a, field)} and {getattr(b, field)}"
        traits = [t for t in a.traits if not _is_same_text(a.traits[t], b.traits.get(t, ""))]
        if traits:
            return f"another {traits[0]}"
    return ""


def _is_same_text(one: str, other: str) -> bool:
    """Return True if two values are equal as text or as numbers (120000 and 120000.0)."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


def _compare_values(known: Sequence[Frame], found: Sequence[Frame], load: Load) -> str:
    one, other = load(known[0].path), load(found[0].path)
    for a, b in zip(known, found, strict=True):
        first, second = read_stored(a, one), read_stored(b, other)
        are_nan = (first != first) & (second != second)
        n_differing = int(((first != second) & ~are_nan).sum())
        if n_differing:
            return f"{n_differing} of {a.rows * a.columns} values of {b.name} differ"
    return ""
