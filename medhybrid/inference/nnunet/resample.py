"""nnU-Net's resampling, as one matrix per axis.

nnU-Net resamples with splines of scipy, which are separable and linear in the values. The matrix of an axis has the response
of scipy to each unit impulse, with the prefilter and the borders of scipy. After cubic resampling, values are limited to the
range of the source values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.inference.nnunet.rules import Resampling

Float32Array = NDArray[np.float32]

Size = tuple[int, int, int]


def new_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Size:
    """Return the shape of an image after resampling to another spacing."""
    x, y, z = (round(old / new * n) for n, old, new in zip(shape, spacing_mm, target_mm, strict=True))
    return max(x, 1), max(y, 1), max(z, 1)


def separate_axis(rule: Resampling, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> int | None:
    """Return the axis across the slices if these are resampled separately, otherwise None.

    They are where one spacing is much larger than another, before or after resampling, and one axis alone has it.
    """
    if rule.separate is False:
        return None
    deciding = next((s for s in (spacing_mm, target_mm) if rule.separate or max(s) / min(s) > rule.threshold), None)
    if deciding is None:
        return None
    coarse = [axis for axis, s in enumerate(deciding) if s == max(deciding)]
    return coarse[0] if len(coarse) == 1 else None


def axis_matrices(
    shape: Size, target: Size, spacing_mm: Sequence[float], target_mm: Sequence[float], rule: Resampling
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return one matrix (T, S) per axis that resamples values from a shape to another.

    Parameters
    ----------
    spacing_mm, target_mm : (3,) sequence of float
        Spacings of both, which decide whether slices are resampled separately.
    """
    across = separate_axis(rule, spacing_mm, target_mm)
    orders = [rule.order_across if axis == across else rule.order for axis in range(3)]
    x, y, z = (
        axis_matrix(n, m, order, is_across=axis == across)
        for axis, (n, m, order) in enumerate(zip(shape, target, orders, strict=True))
    )
    return x, y, z


@lru_cache(maxsize=32)
def axis_matrix(n: int, target: int, order: int, *, is_across: bool = False) -> Float32Array:
    """Return the matrix (T, S) that resamples `n` values to `target` with a spline of a degree.

    Parameters
    ----------
    is_across : bool
        The axis is resampled by interpolation at points, as nnU-Net does across slices, instead of scipy's zoom.
    """
    if n == target:
        return np.eye(n, dtype=np.float32)
    impulses = np.eye(n)
    if is_across:
        points = n / target * (np.arange(target) + 0.5) - 0.5
        rows = [ndimage.map_coordinates(one, points[None], order=order, mode="nearest") for one in impulses]
    else:
        rows = [ndimage.zoom(one, target / n, order=order, mode="nearest", grid_mode=True) for one in impulses]
    matrix = np.stack(rows, axis=1).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def resample_channel(
    values: Float32Array, target: Size, spacing_mm: Sequence[float], target_mm: Sequence[float], rule: Resampling
) -> Float32Array:
    """Resample a channel (X, Y, Z) to a shape, as nnU-Net resamples images."""
    x, y, z = values.shape
    if rule.is_off or (x, y, z) == target:
        return values
    matrices = axis_matrices((x, y, z), target, spacing_mm, target_mm, rule)
    across = separate_axis(rule, spacing_mm, target_mm)
    within = [axis for axis in range(3) if axis != across]
    over = tuple(within) if across is not None else None
    low, high = values.min(axis=over, keepdims=True), values.max(axis=over, keepdims=True)
    result = values
    for axis in within:
        result = _along(result, matrices[axis], axis)
    if rule.order > 1:
        result = np.clip(result, low, high, out=result if result is not values else None)
    return result if across is None else _along(result, matrices[across], across)


def _along(values: Float32Array, matrix: Float32Array, axis: int) -> Float32Array:
    """Multiply values (X, Y, Z) along an axis by a matrix (T, S)."""
    if matrix.shape[0] == matrix.shape[1]:
        return values
    return np.ascontiguousarray(np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis))
