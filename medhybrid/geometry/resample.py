"""Resampling between grids with the same axis directions, by one small matrix per axis.

The grid of a prepared case has the same axis directions as its scan, so resampling is separable. Along each axis, the new
values are weighted sums of the old ones. Upsampling interpolates linearly. Downsampling widens the weights to a triangle
as wide as the new voxel (antialiasing). Outside the outermost voxel centres, the edge value is used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError
from medhybrid.geometry.affine import Grid, apply_affine

Float32Array = NDArray[np.float32]

MAX_OFF_AXIS_VOXEL = 1e-3
"""Largest shift along a second axis, in voxels over the whole grid, for two grids with the same axis directions."""

SLAB_VOXELS = 8_000_000
"""Number of source voxels that are resampled at once, which limits memory."""


def respace(source: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """Return the grid with another spacing and the same field of view (outer voxel edges, not centres).

    The centre is kept. The shape is rounded, so the field of view may differ by half a new voxel.
    """
    old = np.array(source.spacing_mm)
    new = np.array(spacing_mm, float)
    extent = np.array(source.shape) * old
    shape = np.maximum(np.rint(extent / new), 1).astype(int)
    scale = new / old
    affine = source.affine.copy()
    affine[:3, :3] *= scale
    # both grids have the same centre; `first` is the index of the new first voxel in old voxels
    first = (np.array(source.shape) - 1) / 2 - (shape - 1) / 2 * scale
    affine[:3, 3] = apply_affine(source.affine, first)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def axis_weights(n_source: int, positions: NDArray[np.float64], scale: float) -> Float32Array:
    """Return the weights `(T, S)` that interpolate T target values from S source values.

    Parameters
    ----------
    positions : (T,) ndarray
        Positions of the target values, in source voxels.
    scale : float
        Target spacing divided by source spacing. Above 1, the triangle of weights is this many voxels wide on each side.
    """
    width = max(scale, 1.0)
    clipped = np.clip(positions, 0, n_source - 1)
    distance = np.abs(clipped[:, None] - np.arange(n_source)[None, :]) / width
    weights = np.clip(1.0 - distance, 0.0, None)  # (T, S)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def grid_weights(source: Grid, target: Grid) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return one matrix `(T, S)` per axis for resampling from `source` to `target`.

    Raises
    ------
    GeometryError
        If the grids have different axis directions.
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    linear = to_source[:3, :3]
    scale = np.diag(linear)
    off_axis = np.abs(linear - np.diag(scale)) * np.array(target.shape)
    if off_axis.max() > MAX_OFF_AXIS_VOXEL or (scale <= 0).any():
        raise GeometryError(
            "grids have different axis directions",
            expected="a target grid that differs from the source only in spacing, shape and origin",
            found=f"target to source voxels {np.round(linear, 4).tolist()}",
        )
    return (
        axis_weights(source.shape[0], scale[0] * np.arange(target.shape[0]) + to_source[0, 3], float(scale[0])),
        axis_weights(source.shape[1], scale[1] * np.arange(target.shape[1]) + to_source[1, 3], float(scale[1])),
        axis_weights(source.shape[2], scale[2] * np.arange(target.shape[2]) + to_source[2, 3], float(scale[2])),
    )


def resample_image(array: NDArray[np.generic], source: Grid, target: Grid) -> Float32Array:
    """Resample `array` (C, X, Y, Z) from `source` to `target`, as (C, X', Y', Z') float32.

    Slabs along the first axis are resampled one after the other. Besides the array, only the result and one slab are in
    memory.
    """
    to_x, *across = grid_weights(source, target)
    result = np.empty((len(array), *target.shape), np.float32)
    step = max(1, SLAB_VOXELS // int(np.prod(array.shape[2:])))
    for first in range(0, target.shape[0], step):
        weights = to_x[first : first + step]
        used = np.flatnonzero(weights.any(axis=0))
        near = slice(int(used[0]), int(used[-1]) + 1)
        slab = _weighted(array[:, near].astype(np.float32, copy=False), weights[:, near], 0)
        for axis, matrix in enumerate(across, start=1):
            slab = _weighted(slab, matrix, axis)
        result[:, first : first + step] = slab
    return result


def _weighted(values: Float32Array, weights: Float32Array, axis: int) -> Float32Array:
    """Multiply values (C, X, Y, Z) along a spatial axis by weights (target, source)."""
    if weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights), dtype=np.float32)):
        return values
    return np.moveaxis(np.tensordot(weights, values, axes=(1, axis + 1)), 0, axis + 1)


def resample_labels(labels: NDArray[np.generic], source: Grid, target: Grid, n_labels: int) -> NDArray[np.uint8]:
    """Resample a label map (X, Y, Z) with values 0..n_labels from `source` to `target`.

    Each label is resampled as a separate mask. A voxel gets the label with the largest resampled value.
    """
    if source.shape == target.shape and np.allclose(source.affine, target.affine):
        return labels.astype(np.uint8)
    if n_labels > MANY_LABELS:
        return _resample_many(labels, source, target, n_labels)
    best = np.zeros(target.shape, np.uint8)
    best_share = np.full(target.shape, -1.0, np.float32)
    for value in range(n_labels + 1):
        share = resample_image((labels == value)[None], source, target)[0]
        larger = share > best_share
        best[larger], best_share[larger] = value, share[larger]
    return best


MANY_LABELS = 16
"""Number of labels above which each is resampled within its bounding box only."""


def _resample_many(labels: NDArray[np.generic], source: Grid, target: Grid, n_labels: int) -> NDArray[np.uint8]:
    """Resample a label map with many labels, each within its bounding box."""
    weights = grid_weights(source, target)
    best = np.zeros(target.shape, np.uint8)
    best_share = resample_image((labels == 0)[None], source, target)[0]
    for value in range(1, n_labels + 1):
        inside = labels == value
        used = [np.flatnonzero(inside.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
        if not used[0].size:
            continue
        box = tuple(slice(int(u[0]), int(u[-1]) + 1) for u in used)
        share = inside[box][None].astype(np.float32)
        place = []
        for axis, (matrix, part) in enumerate(zip(weights, box, strict=True)):
            near = matrix[:, part]
            reached = np.flatnonzero(near.any(axis=1))
            rows = slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 0)
            place.append(rows)
            share = _weighted(share, near[rows], axis)
        larger = share[0] > best_share[tuple(place)]
        best[tuple(place)][larger] = value
        best_share[tuple(place)][larger] = share[0][larger]
    return best
