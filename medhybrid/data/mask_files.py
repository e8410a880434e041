"""Reading of mask files, and listing of the masks in a folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_masks import read_label_files
from medhybrid.data.label_values import round_labels
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.data.layouts.label_files import files_of_mask
from medhybrid.data.segments import SegmentRules, label_map_of
from medhybrid.errors import DataError, ScanError
from medhybrid.geometry import Grid, corner_distance_mm, extend_to, match_axes, spacing_mm
from medhybrid.names import printable_path
from medhybrid.scans.image_files import read_geometry
from medhybrid.scans.raster import SUFFIXES as RASTER_SUFFIXES
from medhybrid.scans.raster import is_raster
from medhybrid.scans.reader import read_label_scan
from medhybrid.scans.slicer_segments import segments_of_nrrd

MAX_GAP_MM = 0.01
"""Tolerance between the corners of a mask and of its grid, in mm."""

MAX_TURN = 1e-3
"""Largest difference between direction cosines of two grids."""

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", *RASTER_SUFFIXES)


def read_mask(path: Path, rules: SegmentRules) -> tuple[NDArray[np.generic], Grid]:
    """Read a label map (X, Y, Z) and its grid; segments of 3D Slicer, and files in a folder, are matched to labels by name.

    Raises
    ------
    ScanError
        If it cannot be read, or has several values for each voxel.
    DataError
        If the names of its segments differ from those of the labels.
    """
    if path.is_dir():
        files = files_of_mask(path)
        return read_label_files(files, read_label_scan(files.paths[0]), rules, case=path.name)
    mask = read_label_scan(path)
    array = label_map_of(path, mask.array, rules, case=mask.case)
    if len(array) != 1:
        raise ScanError(f"{path.name} is not a mask", expected="one value for each voxel", found=f"{len(array)} values")
    return round_labels(array[0]), mask.grid


def mask_on_grid(
    path: Path, grid: Grid, rules: SegmentRules, *, max_gap_mm: float = MAX_GAP_MM
) -> NDArray[np.generic] | None:
    """Read a mask (X, Y, Z) with the axes of `grid`; None if it has another grid. Raises as `read_mask`.

    Parameters
    ----------
    max_gap_mm : float
        Largest distance between corresponding corners of both grids.
    """
    mask, its = read_mask(path, rules)
    if is_raster(path):  # it states no position; its pixels count by column, row and page
        return mask if mask.shape == grid.shape else None
    turned, its = match_axes(mask, its, grid)
    if segments_of_nrrd(path):  # 3D Slicer saves only the extent of the segments
        turned, its = extend_to(turned, its, grid)
    return turned if its.shape == grid.shape and corner_distance_mm(its, grid) <= max_gap_mm else None


def stated_grid(path: Path, grid: Grid) -> Grid:
    """Return the grid of a mask with the voxels of an image file's `grid`, since that may lack the pixel size.

    The same grid is returned if the mask has another shape or other directions.
    """
    try:
        shape, affine = read_geometry(path)
    except ScanError:
        return grid
    directions = affine[:3, :3] / np.array(spacing_mm(affine))
    is_same = np.allclose(directions, grid.affine[:3, :3] / np.array(grid.spacing_mm), atol=MAX_TURN)
    return Grid(grid.shape, affine) if is_same and shape[:3] == grid.shape else grid


def list_masks(
    folder: Path, *, suffixes: Sequence[str] = SUFFIXES, labels: Collection[str] = ()
) -> tuple[dict[str, Path], dict[str, str]]:
    """List the masks in a folder by case, and the cases that have two masks, with the message for each.

    Names are compared in one Unicode form, since file systems and archives write accented letters in two ways.

    Parameters
    ----------
    labels : collection of str
        Names of labels: a folder with a file of such a name, itself or in its only folder, is the mask of a case, too.
    """
    if not folder.is_dir():
        raise DataError(f"{printable_path(folder)} is not a folder of masks")
    by_case: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
        if labels and suffix is None and (inside := folder_of_labels(path, labels)):
            by_case.setdefault(unicodedata.normalize("NFC", path.name), []).append(inside)
        if suffix is not None and not path.name.startswith("."):
            by_case.setdefault(unicodedata.normalize("NFC", path.name[: -len(suffix)]), []).append(path)
    found = {case: paths[0] for case, paths in by_case.items() if len(paths) == 1}
    doubled = {
        case: f"{printable_path(folder)} has two masks of {case}: {', '.join(printable_path(p.name) for p in paths)}"
        for case, paths in by_case.items()
        if len(paths) > 1
    }
    return found, doubled


def folder_of_labels(folder: Path, labels: Collection[str]) -> Path | None:
    """Return the folder, or the only one in it, that has a mask file with the name of a label; None without one."""
    if folder.name.startswith(".") or not folder.is_dir():
        return None
    wanted = {joined_words(n) for n in labels}
    below: list[Path] = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    places = [folder, *(below if len(below) == 1 else [])]
    for place in places:
        if any(joined_words(name) in wanted for name in files_of_mask(place).names):
            return place
    return None
