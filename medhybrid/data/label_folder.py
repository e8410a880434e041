"""Masks of a case in one folder, with a file for each label: `segmentations/liver.nii.gz`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.label_values import round_labels
from medhybrid.data.segments import SegmentRules, match_names, merge
from medhybrid.errors import DataError
from medhybrid.geometry import Grid, corner_distance_mm, extend_to, match_axes
from medhybrid.scans.reader import read_label_scan
from medhybrid.scans.slicer_segments import segments_of_nrrd
from medhybrid.scans.walk import visible_files

MAX_GAP_MM = 0.01
"""Tolerance between the corners of the masks of one case, in mm."""


OTHER_SUFFIXES = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml")
"""Suffixes of files that describe the masks. Files with other suffixes may be DICOM."""


def label_files(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by name, without `.seg` of 3D Slicer; empty for a folder that is one DICOM series."""
    listed = [p for p in visible_files(folder) if p.is_file()] if folder.is_dir() else []
    files = [p for p in listed if not p.name.lower().endswith(OTHER_SUFFIXES)]
    if not all(IMAGE_SUFFIX.search(p.name) for p in files):
        return {}
    names = {p: IMAGE_SUFFIX.sub("", p.name).removesuffix(".seg") for p in files}
    return {names[p]: p for p in sorted(files, key=lambda p: (names[p], p.name))}


def is_label_folder(folder: Path, rules: SegmentRules) -> bool:
    """Return whether a folder has a mask file for each label: several files, or one with the name of a label.

    Another folder with one file is the file itself, as macOS may unpack `mask.nii.gz`.
    """
    files = label_files(folder)
    if len(files) == 1:
        with suppress(DataError):
            return bool(match_names(list(files), rules, case=""))
    return len(files) > 1


def read_label_folder(folder: Path, grid: Grid, rules: SegmentRules, *, case: str) -> tuple[NDArray[np.generic], Grid]:
    """Read a folder of masks as a label map (X, Y, Z) with the axes of an image's grid, and return the grid of the masks.

    The files are matched to labels by their names, as the segments of other masks. Voxels above 0 belong to the label.

    Raises
    ------
    DataError
        If the names do not match the labels, a file has several values, their grids differ, or labels overlap and
        `rules.overlaps` is ``refuse``.
    ScanError
        If a file cannot be read.
    """
    files = label_files(folder)
    chosen = match_names(list(files), rules, case=case)
    masks: dict[str, NDArray[np.bool_]] = {}
    first: Grid | None = None
    for name in sorted({n for names in chosen.values() for n in names}):
        scan = read_label_scan(files[name], case=case)
        values = np.unique(array) if (array := round_labels(scan.array)).size else np.zeros(1)
        if len(scan.array) != 1 or np.count_nonzero(values) > 1 or values.min() < 0:
            raise DataError(
                f"case {case}: {files[name].name} is not the mask of one label",
                expected="0 and one other value",
                found=", ".join(str(v) for v in values[:6]) if len(scan.array) == 1 else f"{len(scan.array)} channels",
                remedy="write each label to a file of its own, or all of them to one file with a value each",
            )
        mask, its = match_axes(array[0] > 0, scan.grid, grid)
        if segments_of_nrrd(files[name]):  # 3D Slicer saves only the bounding box of the segments
            mask, its = extend_to(mask, its, grid)
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
        masks[name] = np.asarray(mask, bool)
    assert first is not None
    return merge(masks, chosen, first.shape, rules, case=case), first
