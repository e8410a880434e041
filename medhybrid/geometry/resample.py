"""Resampling between grids that share their axes: one small matrix per axis.

A prepared grid has the directions of its scan's axes, so that resampling is separable: along each axis the values at the
new positions are a weighted sum of the old ones. When an axis gets coarser the weights widen to a triangle over the new
voxel (antialiasing); when it gets finer they are linear interpolation. Beyond the outermost centres the edge value holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError
from medhybrid.geometry.affine import Grid, apply_affine

Float32Array = NDArray[np.float32]

MAX_OFF_AXIS_VOXEL = 1e-3
"""Largest cross-talk between axes, in voxels over the whole grid, at which two grids count as sharing their axes."""

SLAB_VOXELS = 8_000_000
"""Voxels of the source that are resampled at once."""


def respace(source: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid with another spacing that covers the same box (outer voxel edges, not centres).

    The shape is rounded, so the last voxel may reach beyond the box by less than half a voxel; the centre is kept.
    """
    old = np.array(source.spacing_mm)
    new = np.array(spacing_mm, float)
    extent = np.array(source.shape) * old
    shape = np.maximum(np.rint(extent / new), 1).astype(int)
    scale = new / old
    affine = source.affine.copy()
    affine[:3, :3] *= scale
    # the two boxes share their centre: index of the new first voxel in old voxels
    first = (np.array(source.shape) - 1) / 2 - (shape - 1) / 2 * scale
    affine[:3, 3] = apply_affine(source.affine, first)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def axis_weights(n_source: int, positions: NDArray[np.float64], scale: float) -> Float32Array:
    """Weights `(T, S)` that give values at `positions` (T,), in source voxels, from S source values.

    Parameters
    ----------
    scale : float
        Target spacing over source spacing; above 1 the triangle widens to it.
    """
    width = max(scale, 1.0)
    clipped = np.clip(positions, 0, n_source - 1)
    distance = np.abs(clipped[:, None] - np.arange(n_source)[None, :]) / width
    weights = np.clip(1.0 - distance, 0.0, None)  # (T, S)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def grid_weights(source: Grid, target: Grid) -> tuple[Float32Array, Float32Array, Float32Array]:
    """One matrix `(T, S)` per axis from `source` to `target`.

    Raises
    ------
    GeometryError
        If the axes of the grids do not share their directions.
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    linear = to_source[:3, :3]
    scale = np.diag(linear)
    off_axis = np.abs(linear - np.diag(scale)) * np.array(target.shape)
    if off_axis.max() > MAX_OFF_AXIS_VOXEL or (scale <= 0).any():
        raise GeometryError(
            "grids do not share their axes",
            expected="target = source with other spacing and origin",
            found=f"target to source voxels {np.round(linear, 4).tolist()}",
        )
    return (
        axis_weights(source.shape[0], scale[0] * np.arange(target.shape[0]) + to_source[0, 3], float(scale[0])),
        axis_weights(source.shape[1], scale[1] * np.arange(target.shape[1]) + to_source[1, 3], float(scale[1])),
        axis_weights(source.shape[2], scale[2] * np.arange(target.shape[2]) + to_source[2, 3], float(scale[2])),
    )


def resample_image(array: NDArray[np.generic], source: Grid, target: Grid) -> Float32Array:
    """Values of `array` (C, X, Y, Z) on `target`, (C, X', Y', Z') float32.

    Slab by slab along the first axis, so that no more than the result and a slab is held besides the array.
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
    """Values (C, X, Y, Z) weighted along a spatial axis by (to, from)."""
    if weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights), dtype=np.float32)):
        return values
    return np.moveaxis(np.tensordot(weights, values, axes=(1, axis + 1)), 0, axis + 1)


def resample_labels(labels: NDArray[np.generic], source: Grid, target: Grid, n_labels: int) -> NDArray[np.uint8]:
    """Label map (X, Y, Z) with values 0..n_labels on `target`: the label with the largest resampled share."""
    if source.shape == target.shape and np.allclose(source.affine, target.affine):
        return labels.astype(np.uint8)
    best = np.zeros(target.shape, np.uint8)
    best_share = np.full(target.shape, -1.0, np.float32)
    for value in range(n_labels + 1):
        share = resample_image((labels == value)[None], source, target)[0]
        larger = share > best_share
        best[larger], best_share[larger] = value, share[larger]
    return best
