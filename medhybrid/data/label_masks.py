"""Reading of masks with a file for each label: `segmentations/liver.nii.gz`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import round_labels
from medhybrid.data.layouts import Files
from medhybrid.data.segments import SegmentRules, match_names, merge
from medhybrid.errors import DataError
from medhybrid.geometry import Grid, corner_distance_mm, extend_to, match_axes
from medhybrid.scans import Scan
from medhybrid.scans.raster import is_pixel_grid
from medhybrid.scans.reader import read_label_scan
from medhybrid.scans.slicer_segments import segments_of_nrrd

MAX_GAP_MM = 0.01
"""Tolerance between the corners of the masks of one case, in mm."""


def has_label_files(mask: Files, rules: SegmentRules) -> bool:
    """Return whether a mask has a file for each label: several files, or one with the name of a label.

    Another folder with one file is the file itself, as macOS may unpack `mask.nii.gz`.
    """
    if len(mask.names) == 1:
        with suppress(DataError):
            return bool(match_names(mask.names, rules, case=""))
        return False
    return bool(mask.names)


def read_label_files(mask: Files, image: Scan, rules: SegmentRules, *, case: str) -> tuple[NDArray[np.generic], Grid]:
    """Read a mask with a file for each label as a label map (X, Y, Z) with the axes of an image; return its grid, too.

    The files are matched to labels by their names, as the segments of other masks. Voxels above 0 belong to the label.

    Raises
    ------
    DataError
        If the names do not match the labels, a file has several values, their grids differ, or labels overlap and
        `rules.overlaps` is ``refuse``.
    ScanError
        If a file cannot be read.
    """
    files = dict(zip(mask.names, mask.paths, strict=True))
    chosen = match_names(mask.names, rules, case=case)
    masks: dict[str, NDArray[np.bool_]] = {}
    first: Grid | None = None
    for name in sorted({n for names in chosen.values() for n in names}):
        scan = read_label_scan(files[name], case=case)
        if scan.source.kind == "raster" and is_pixel_grid(image):
            scan = replace(scan, affine=image.affine)  # the file has no position: its pixels are those of the image
        values = np.unique(array) if (array := round_labels(scan.array)).size else np.zeros(1)
        if len(scan.array) != 1 or np.count_nonzero(values) > 1 or values.min() < 0:
            raise DataError(
                f"case {case}: {files[name].name} is not the mask of one label",
                expected="0 and one other value",
                found=", ".join(str(v) for v in values[:6]) if len(scan.array) == 1 else f"{len(scan.array)} channels",
                remedy="write each label to a file of its own, or all of them to one file with a value each",
            )
        voxels, its = match_axes(array[0] > 0, scan.grid, image.grid)
        if segments_of_nrrd(files[name]):  # 3D Slicer saves only the bounding box of the segments
            voxels, its = extend_to(voxels, its, image.grid)
        first = first or its
        gap_mm = corner_distance_mm(its, first) if its.shape == first.shape else float("inf")
        if gap_mm > MAX_GAP_MM:
            raise DataError(
                f"case {case}: the masks of its labels have different grids",
                expected=f"{first.shape} voxels at the same position",
                found=f"{its.shape} in {files[name].name}"
                + (f", {gap_mm:.3g} mm apart" if np.isfinite(gap_mm) else ""),
                remedy="resample the masks to the grid of the image",
            )
        masks[name] = np.asarray(voxels, bool)
    assert first is not None
    return merge(masks, chosen, first.shape, rules, case=case), first
