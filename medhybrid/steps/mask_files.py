"""Masks as files: those of a folder by case, and one on the grid of its scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import round_labels
from medhybrid.errors import DataError, ScanError
from medhybrid.geometry import Grid, corner_distance_mm, match_axes
from medhybrid.scans.reader import read_scan

MAX_GAP_MM = 0.01
"""A mask whose corners lie further from a grid's is not on it."""

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")


def mask_on_grid(path: Path, grid: Grid) -> NDArray[np.generic] | None:
    """A mask (X, Y, Z) with the axes of `grid`; None where it lies elsewhere. Raises `ScanError`."""
    mask = read_scan(path)
    if len(mask.array) != 1:
        raise ScanError(f"{path.name} is no mask", expected="one value a voxel", found=f"{len(mask.array)} of them")
    turned, its = match_axes(round_labels(mask.array[0]), mask.grid, grid)
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
