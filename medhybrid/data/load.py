"""Loading of the image channels and the reference mask of a case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.label_masks import has_label_files, read_label_files
from medhybrid.data.label_values import round_labels
from medhybrid.data.layouts import Case, Files
from medhybrid.data.layouts.joined_masks import references_of
from medhybrid.data.segments import SegmentRules, label_map_of, read_label_map
from medhybrid.errors import DataError
from medhybrid.geometry import extend_to, match_axes
from medhybrid.remote import place_of_copy
from medhybrid.scans import Scan
from medhybrid.scans.raster import fit_colours, is_pixel_grid
from medhybrid.scans.reader import read_label_scan, read_scan, stack_channels
from medhybrid.scans.slicer_segments import segments_of_nrrd


def load_image(case: Case, data: DataConfig, options: ScansConfig) -> Scan:
    """Load the image of a case with all channels; missing channels are filled with zeros."""
    channels = [c.name for c in data.channels]
    if len(case.images) == 1 and case.images[0] is not None:
        scan = fit_colours(_read(case.images[0], case.name, options), len(channels))
        names = tuple(channels) if len(channels) == len(scan.array) else scan.channels
        return replace(scan.named(case.name, names), searched=dataset_root(data))
    scans = [None if files is None else fit_colours(_read(files, case.name, options), 1) for files in case.images]
    return replace(stack_channels(scans, channels, case=case.name, options=options), searched=dataset_root(data))


def dataset_root(data: DataConfig) -> Path | None:
    """Return the local folder of the dataset, the topmost one searched for metadata tables; None without `data.context`."""
    return place_of_copy(data.root) if data.root and data.context else None


def load_mask(case: Case, image: Scan, data: DataConfig, options: ScansConfig) -> Scan:
    """Load the reference mask of a case, in the image's axis order.

    It is an image file, a DICOM SEG or RTSTRUCT (or several with different segments), or an image file for each label.

    For a dataset without masks (`data.labelled` is false), the mask is empty.

    Raises
    ------
    DataError
        If the case has no mask, or the mask cannot be used.
    """
    if not data.labelled:
        return Scan(np.zeros((1, *image.grid.shape), np.uint8), image.affine, image.source, case.name, ("",))
    if case.mask is None:
        raise DataError(f"case {case.name} has no reference mask")
    if references := references_of(case.mask, case.name):
        array = read_label_map(references, image, data, case=case.name)
        return Scan(array[None], image.affine, image.source, case.name, ("",))
    path = case.mask.paths[0]
    rules = SegmentRules.of(data)
    if has_label_files(case.mask, rules):
        array, grid = read_label_files(case.mask, image, rules, case=case.name)
        return Scan(array[None], grid.affine, image.source, case.name, ("",))
    paths = case.mask.paths
    mask = read_label_scan(paths[0] if len(paths) == 1 else paths, case=case.name, part=case.mask.part, options=options)
    if mask.source.kind == "raster" and is_pixel_grid(image):
        mask = replace(mask, affine=image.affine)  # the file has no position: its pixels are those of the image
    array = label_map_of(path, mask.array, rules, case=case.name)
    if len(array) != 1:
        raise DataError(f"case {case.name}: mask has several channels", expected="1", found=str(len(array)))
    # the mask's file may have the same voxels in another axis order
    array, grid = match_axes(round_labels(array), mask.grid, image.grid)
    if segments_of_nrrd(path):  # 3D Slicer saves only the bounding box of the segments
        array, grid = extend_to(array, grid, image.grid)
    return replace(mask, array=array, affine=grid.affine, channels=("",))


def _read(files: Files, name: str, options: ScansConfig) -> Scan:
    paths = files.paths
    return read_scan(paths[0] if len(paths) == 1 else paths, case=name, part=files.part, options=options)


__all__ = ["dataset_root", "load_image", "load_mask"]
