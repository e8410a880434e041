"""Spacing, strides and patch of a candidate plan, from the sizes in the fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]

ANISOTROPY_AT_STRIDE = 2.0
MIN_TOKENS_PER_AXIS = 4
"""Attention along an axis needs several tokens. Moreover, with a single one along Z, torch 2.13 computes strided convolutions
in bf16 wrongly on CPUs."""

MAX_TOKENS = 2_048
"""Tokens of a patch, above which another level is added: attention grows with their square."""

COARSENING = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.4, 8.0)
"""Factors on the finest spacing of the scans that are considered."""

MARGIN = 1.25
"""A patch should be as large as the labels with this margin, before it may grow to the whole scan."""


def coarsened(native: Spacing, factor: float, extent: Spacing | None = None) -> Spacing:
    """Return a spacing whose finest axes are coarsened; an axis that is coarser already keeps its spacing.

    So does an axis along which `extent` has a single slice.
    """
    several = [extent is None or not is_single(e, s) for e, s in zip(extent or native, native, strict=True)]
    several = several if any(several) else [True] * 3
    finest = min(s for s, n in zip(native, several, strict=True) if n) * factor
    x, y, z = (_rounded(max(s, finest) if n else s) for s, n in zip(native, several, strict=True))
    return x, y, z


def _rounded(spacing: float) -> float:
    """Round a spacing in mm to four decimals, or to four digits for microscopic pixels."""
    return round(spacing, 4) if spacing >= 0.1 else float(f"{spacing:.4g}")


def is_single(extent_mm: float, spacing_mm: float) -> bool:
    """Return whether scans have a single slice along an axis, by their median extent and spacing."""
    return extent_mm < MAX_SINGLE * spacing_mm


MAX_SINGLE = 1.5
"""Median extent of scans of a single slice, in voxels; other scans among them may have several."""


def choose_kernels(spacing: Spacing, patch: Sequence[int], strides: Sequence[Triple]) -> tuple[Triple, ...]:
    """Return the size of the convolutions at each level: 3 or 1 along each axis; empty if all are 3.

    It is 1 along an axis with one slice, and along one that is coarser than `ANISOTROPY_AT_STRIDE` times the finest before the
    level's stride. The coarsest level joins neighbouring slices in any case.
    """
    current, several = np.array(spacing, float), np.array(patch) > 1
    finest = several if several.any() else ~several
    kernels = []
    for level, stride in enumerate(strides):
        is_coarse = (current > ANISOTROPY_AT_STRIDE * current[finest].min()) & (level < len(strides) - 1)
        x, y, z = (int(n) for n in np.where(several & ~is_coarse, 3, 1))
        kernels.append((x, y, z))
        current = current * stride
    return () if all(n == 3 for kernel in kernels for n in kernel) else tuple(kernels)


def choose_strides(spacing: Spacing, shape: Sequence[float], n_levels: int) -> tuple[Triple, ...]:
    """Return the stride of each level: every axis is halved, unless it is too coarse or too short.

    An axis is too coarse while its spacing is above `ANISOTROPY_AT_STRIDE` times the finest one, and too short if halving
    leaves fewer than `MIN_TOKENS_PER_AXIS` tokens.
    """
    current, size = np.array(spacing, float), np.array(shape, float)
    # an axis of one voxel is never halved: its spacing must not prevent halving of the others
    several = size > 1 if (size > 1).any() else size > 0
    strides = []
    for _ in range(n_levels):
        coarse = current > ANISOTROPY_AT_STRIDE * current[several].min()
        small = size / 2 < MIN_TOKENS_PER_AXIS
        stride = np.where(coarse | small, 1, 2)
        strides.append((int(stride[0]), int(stride[1]), int(stride[2])))
        current, size = current * stride, size / stride
    return tuple(strides)


def choose_patch(target: np.ndarray, whole: np.ndarray, strides: Sequence[Triple], max_voxels: int) -> Triple:
    """Return a patch of at most `max_voxels`, in multiples of the total stride.

    It grows in proportion to `target` (the labels with a margin) until it covers it, then towards `whole` (the median scan).
    A halved axis has at least `MIN_TOKENS_PER_AXIS` tokens.

    Parameters
    ----------
    target, whole : (3,) ndarray
        Sizes in voxels; `target` is not larger than `whole`.
    """
    total = np.prod(np.array(strides), axis=0)
    low, high = 0.0, 2.0
    best = fit_patch(_size(target, whole, 0.0), total)
    for _ in range(24):
        middle = (low + high) / 2
        patch = fit_patch(_size(target, whole, middle), total)
        if int(np.prod(patch)) <= max_voxels:
            low, best = middle, patch
        else:
            high = middle
    full = fit_patch(whole, total)
    return full if int(np.prod(full)) <= max_voxels else best


def _size(target: np.ndarray, whole: np.ndarray, share: float) -> np.ndarray:
    """Return a size in voxels: a share of `target` up to 1, and from there to 2 on the way from `target` to `whole`."""
    if share <= 1:
        return np.asarray(target * share)
    return np.asarray(target * (whole / target) ** (share - 1))


def fit_patch(size: np.ndarray, total: np.ndarray) -> Triple:
    """Return a size in voxels as multiples of the total stride, with enough tokens along halved axes."""
    least = np.where(total > 1, MIN_TOKENS_PER_AXIS, 1)
    steps = np.maximum(np.round(size / total + 0.25), least)
    x, y, z = (int(v) for v in steps * total)
    return x, y, z


def coverage_of(extent_mm: np.ndarray, wanted_mm: np.ndarray) -> float:
    """Return the share of a wanted extent (3,) in mm that an extent (3,) covers."""
    return float(np.prod(np.minimum(1.0, extent_mm / wanted_mm)))
