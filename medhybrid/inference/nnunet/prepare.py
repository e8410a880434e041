"""nnU-Net's preprocessing: crop to the non-zero region, normalise, resample, in this order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.data.plan import Plan
from medhybrid.data.prepare import PreparedImage, refuse_not_finite
from medhybrid.errors import DataError
from medhybrid.geometry import Grid, Turn, turn_to_ras
from medhybrid.inference.nnunet.resample import axis_matrices, new_shape, resample_channel
from medhybrid.inference.nnunet.rules import Channel, NnUNetRules
from medhybrid.scans import Scan
from medhybrid.scans.raster_size import size_beside

Float32Array = NDArray[np.float32]

Mask = NDArray[np.bool_]

AS_STORED = Turn((0, 1, 2), (False, False, False))

MIN_DEVIATION = 1e-8
"""Lowest standard deviation that values are divided by."""


PIXEL_MM = (1.0, 1.0, 999.0)
"""Voxel size that nnU-Net gives a PNG: slices are too far apart for a window across them."""

UNKNOWN_MM = (1.0, 1.0, 1.0)
"""Voxel size that nnU-Net gives a TIFF without a file beside it."""


@dataclass(frozen=True, slots=True)
class NnUNetImage(PreparedImage):
    """Prepared image of an nnU-Net model; see `PreparedImage`.

    Attributes
    ----------
    box : (3,) tuple of slice
        Region of `turned` that was cropped; the rest of the mask is background.
    to_crop : 3 ndarrays (T, S)
        For each axis, the resampling of logits from `grid` to the cropped region.
    """

    box: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    to_crop: tuple[Float32Array, Float32Array, Float32Array] = (np.eye(1, dtype=np.float32),) * 3


def grid_for_nnunet(scan: Scan, rules: NnUNetRules) -> Grid:
    """Return the grid of a scan with the voxel size that nnU-Net's reader gives it."""
    grid = scan.grid
    if rules.voxel_size == "scan" or (rules.voxel_size == "beside" and scan.source.kind != "raster"):
        return grid
    size = PIXEL_MM if rules.voxel_size == "pixels" else size_beside(scan.source.paths[0]) or UNKNOWN_MM
    affine = grid.affine.copy()
    affine[:3, :3] *= np.array(size) / np.array(grid.spacing_mm)
    return Grid(grid.shape, affine)


def prepare_for_nnunet(array: NDArray[np.generic], grid: Grid, plan: Plan, rules: NnUNetRules) -> NnUNetImage:
    """Prepare an image (C, X, Y, Z) for an imported model.

    Raises
    ------
    DataError
        If the number of channels differs from the model's, or a value is NaN or infinite, or outside 0 to 255 for a channel of
        a colour image.
    """
    if array.shape[0] != len(rules.channels):
        raise DataError(
            "the number of channels differs between scan and model",
            expected=f"{len(rules.channels)} ({', '.join(plan.channels)})",
            found=str(array.shape[0]),
            remedy="assign the channels by their names or numbers (case_0000, case_0001), or use another model",
        )
    refuse_not_finite(array)
    turn = turn_to_ras(grid.affine) if rules.orientation == "RAS" else AS_STORED
    turned = turn.grid(grid)
    values = turn.apply(array)
    inside = nonzero_region(values)
    box = bounding_box(inside)
    cropped = turned.box(box)
    spacing = cropped.spacing_mm
    target_mm = spacing_for(spacing, plan, rules)
    shape = new_shape(cropped.shape, spacing, target_mm) if not rules.images.is_off else cropped.shape
    image = np.empty((len(values), *shape), np.float32)
    for i, rule in enumerate(rules.channels):
        scaled = normalise(values[(i, *box)].astype(np.float32), inside[box], rule)
        image[i] = resample_channel(scaled, shape, spacing, target_mm, rules.images)
    return NnUNetImage(
        image=image,
        grid=_stretched(cropped, shape),
        turned=turned,
        turn=turn,
        box=box,
        to_crop=axis_matrices(shape, cropped.shape, target_mm, spacing, rules.logits),
    )


def spacing_for(spacing_mm: tuple[float, float, float], plan: Plan, rules: NnUNetRules) -> tuple[float, float, float]:
    """Return the network's spacing for a scan: that of the plan, but the scan's own across the slices of a 2-D model."""
    x, y, z = (
        own if axis == rules.slice_axis else planned
        for axis, (own, planned) in enumerate(zip(spacing_mm, plan.spacing_mm, strict=True))
    )
    return x, y, z


def largest_shape(scan: Grid, plan: Plan, rules: NnUNetRules) -> tuple[int, int, int]:
    """Return the shape of a scan on the network's grid, if no border of it is cropped."""
    grid = (turn_to_ras(scan.affine) if rules.orientation == "RAS" else AS_STORED).grid(scan)
    spacing = grid.spacing_mm
    x, y, z = grid.shape
    return (x, y, z) if rules.images.is_off else new_shape((x, y, z), spacing, spacing_for(spacing, plan, rules))


def nonzero_region(values: NDArray[np.generic]) -> Mask:
    """Return the voxels (X, Y, Z) where any channel of values (C, X, Y, Z) is not 0, with holes filled."""
    inside: Mask = (values != 0).any(axis=0)
    filled: Mask = ndimage.binary_fill_holes(inside)
    return filled


def bounding_box(inside: Mask) -> tuple[slice, slice, slice]:
    """Return the box around a mask (X, Y, Z); the whole if it is empty."""
    found = []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, inside.shape[axis]))
    return found[0], found[1], found[2]


def normalise(values: Float32Array, inside: Mask, rule: Channel) -> Float32Array:
    """Scale a channel (X, Y, Z) in place, and return it.

    Raises
    ------
    DataError
        If a value of a colour image is not from 0 to 255.
    """
    if rule.scheme == "ZScoreNormalization":
        if rule.in_mask:
            if not inside.any():  # an empty image
                return values
            chosen = values[inside]
            values[inside] = (chosen - chosen.mean()) / max(float(chosen.std()), MIN_DEVIATION)
            return values
        mean, deviation = values.mean(), float(values.std())
        values -= mean
        values /= max(deviation, MIN_DEVIATION)
    elif rule.scheme == "CTNormalization":
        np.clip(values, rule.low, rule.high, out=values)
        values -= rule.mean
        values /= max(rule.deviation, MIN_DEVIATION)
    elif rule.scheme == "RescaleTo01Normalization":
        values -= values.min()
        values /= max(float(values.max()), MIN_DEVIATION)
    elif rule.scheme == "RGBTo01Normalization":
        if values.min() < 0 or values.max() > 255:
            raise DataError(
                "the scan is not a colour image, which the model needs",
                expected="values from 0 to 255",
                found=f"{values.min():g} to {values.max():g}",
            )
        values /= 255.0
    return values


def _stretched(grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """Return the grid of another shape with the same outer voxel edges."""
    scale = np.array(grid.shape) / np.array(shape)
    affine = grid.affine.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] += grid.affine[:3, :3] @ ((scale - 1) / 2)
    return Grid(shape, affine)
