"""Masks as files: those of a folder by case, and one on the grid of its scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import round_labels
from medhybrid.data.segments import SegmentRules, label_map_of
from medhybrid.errors import DataError, ScanError
from medhybrid.geometry import Grid, corner_distance_mm, match_axes
from medhybrid.scans.reader import read_scan

MAX_GAP_MM = 0.01
"""A mask whose corners lie further from a grid's is not on it."""

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")


def read_mask(path: Path, labels: Mapping[str, int]) -> tuple[NDArray[np.generic], Grid]:
    """Read a label map (X, Y, Z) with the values of labels, and its grid; segments of 3D Slicer are read by their names.

    Raises
    ------
    ScanError
        If it cannot be read, or has several values a voxel.
    DataError
        If the names of its segments are not those of the labels.
    """
    mask = read_scan(path)
    array = label_map_of(path, mask.array, SegmentRules(labels), case=mask.case)
    if len(array) != 1:
        raise ScanError(f"{path.name} is no mask", expected="one value a voxel", found=f"{len(array)} of them")
    return round_labels(array[0]), mask.grid


def mask_on_grid(path: Path, grid: Grid, labels: Mapping[str, int]) -> NDArray[np.generic] | None:
    """Read a mask (X, Y, Z) with the axes of `grid`; None where it lies elsewhere. Errors as `read_mask`."""
    turned, its = match_axes(*read_mask(path, labels), grid)
    return turned if its.shape == grid.shape and corner_distance_mm(its, grid) <= MAX_GAP_MM else None


def masks_in(folder: Path, *, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """The masks of a folder by case; raises `DataError` where it is none, or a case has two."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
        if suffix is None or path.name.startswith("."):
            continue
        case = path.name[: -len(suffix)]
        if case in found:
            raise DataError(
                f"{folder} has two masks of {case}",
                expected="one",
                found=f"{found[case].name}, {path.name}",
                remedy="leave the one that counts",
            )
        found[case] = path
    return found
