"""Single slices of CT, MR and others as two-dimensional images, and refusal of a slice that is a part of something larger.

A header lacks the number of slices of its series. A slice counts as a whole series if it is the only one: there is no other
file of the series in its folder, and no series of several slices in its study. Beside volumes, single slices are scouts,
monitoring images, or what is left of an incomplete copy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.geometry import LPS_FROM_RAS
from medhybrid.scans.dicom.attributes import text
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.headers import load_dataset
from medhybrid.scans.dicom.stack import Stack

NOTE = "a series of one slice is read as a two-dimensional image"

NO_THICKNESS = "its header has no SliceThickness; 1 mm is assumed"

REMEDY = "use the complete series; name a single slice that is an image by itself alone, in a separate folder"


def single_slice_stack(frame: Frame) -> Stack:
    """Return the stack of a series of one slice, whose third axis is the slice's normal with its thickness."""
    u, _, v = np.linalg.svd(np.reshape(frame.orientation, (2, 3)), full_matrices=False)
    row, column = u @ v  # the nearest pair of unit vectors at right angles; cosines may be rounded
    row_mm, column_mm = frame.spacing_mm
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * column_mm, column * row_mm
    lps[:3, 2] = np.cross(row, column) * (frame.thickness_mm or 1.0)
    lps[:3, 3] = frame.position_mm
    notes = (NOTE,) if frame.thickness_mm else (NOTE, NO_THICKNESS)
    return Stack((frame,), LPS_FROM_RAS @ lps, None, notes)


def single_slice_error(series: str, frame: Frame, found: str) -> SeriesError:
    """Return the error for a single slice that is a part of something larger."""
    return SeriesError(
        f"{series}: a single slice ({frame.name})",
        code="single_slice",
        series=series,
        path=frame.path,
        expected="a series of several slices, or of one slice without volumes beside it",
        found=found,
        remedy=REMEDY,
    )


def find_other_slice(paths: Sequence[Path]) -> str:
    """Return the name of another file of a series in the folder of its only file; otherwise an empty text.

    A copy of the file is not another slice.
    """
    if len({*paths}) != 1:
        return ""
    path = paths[0]
    header = load_dataset(path, tags=("SeriesInstanceUID", "SOPInstanceUID"))
    series, instance = text(header, "SeriesInstanceUID"), text(header, "SOPInstanceUID")
    members = _instances_in(path.parent, path.parent.stat().st_mtime_ns).get(series, ())
    return next((name for name, uid in members if uid != instance), "")


@lru_cache(maxsize=4)
def _instances_in(folder: Path, _changed_ns: int) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the names and SOPInstanceUIDs of the DICOM files of a folder by SeriesInstanceUID."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    with os.scandir(folder) as entries:
        files = sorted(Path(e.path) for e in entries if e.is_file() and not e.name.startswith("."))
    for path in files:
        try:
            header = load_dataset(path, tags=("SeriesInstanceUID", "SOPInstanceUID"))
        except SeriesError:  # a damaged file has its own error where it is read
            continue
        if header is not None:
            series = text(header, "SeriesInstanceUID")
            found[series] = (*found.get(series, ()), (path.name, text(header, "SOPInstanceUID")))
    return found
