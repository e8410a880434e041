"""Voxels beyond the scribbles of a case."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.data.fingerprint import UNKNOWN

THICK = 2.0
"""Slices thicker than this, in pixels, were drawn on one by one: the box is that of the plane."""

STROKE, MAX_DENSE = 5, 0.1
"""Width in voxels of squares of known voxels, and the largest share of known voxels in their centres. Above it, areas were
annotated in place of strokes, and structures may lie outside of them."""

Box = tuple[slice, slice, slice]


def fill_beyond(labels: NDArray[np.uint8], spacing_mm: tuple[float, ...], n_labels: int) -> NDArray[np.uint8]:
    """Return labels (X, Y, Z) with background beyond the scribbles, if those of the background enclose the structures.

    Beyond is outside the box around all voxels of known label; of thick slices, in the plane of those with scribbles only.
    Labels are returned unchanged if a label has no scribble, or areas were annotated in place of scribbles.
    """
    known = labels != UNKNOWN
    present = np.bincount(labels[known], minlength=n_labels + 1)[1 : n_labels + 1]
    if not present.all() or not encloses(known, known & (labels > 0), spacing_mm) or not are_thin(known):
        return labels
    plane = tuple(_plane(labels.shape, spacing_mm))
    beyond = np.zeros(labels.shape, bool) | known.any(axis=plane, keepdims=True)  # slices with a scribble
    beyond[_box(known, spacing_mm)] = False
    return np.where(beyond, np.uint8(0), labels)


def are_thin(known: NDArray[np.bool_]) -> bool:
    """Return whether known voxels (X, Y, Z) are strokes: hardly any lies within a square of known voxels along two axes."""
    for across in range(3):
        size = [STROKE] * 3
        size[across] = 1
        if all(n >= s for n, s in zip(known.shape, size, strict=True)):
            inside = ndimage.binary_erosion(known, np.ones(size, bool))
            if inside.sum() > MAX_DENSE * known.sum():
                return False
    return True


def encloses(known: NDArray[np.bool_], structures: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> bool:
    """Return whether background is known beside the box around the structures, on each of its sides.

    Parameters
    ----------
    known, structures : (X, Y, Z) ndarray
        Voxels of known label, and those of them that are not background.
    spacing_mm : tuple of float
        In thick slices, the sides are those in their plane.
    """
    if not structures.any():
        return False
    inner = _box(structures, spacing_mm)
    beside = []
    for axis in _plane(structures.shape, spacing_mm):
        before, after = list(inner), list(inner)
        before[axis], after[axis] = slice(0, inner[axis].start), slice(inner[axis].stop, None)
        beside += [known[tuple(before)].any(), known[tuple(after)].any()]
    return all(beside)


def _box(inside: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> Box:
    """Return the box around voxels; whole along an axis of slices that are thick."""
    box = [slice(0, n) for n in inside.shape]
    for axis in _plane(inside.shape, spacing_mm):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box[axis] = slice(int(found[0]), int(found[-1]) + 1)
    return box[0], box[1], box[2]


def _plane(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> list[int]:
    """Return the axes along which scans have several voxels, which are not thick."""
    axes = [a for a, n in enumerate(shape) if n > 1]
    finest = min((spacing_mm[a] for a in axes), default=0.0)
    return [a for a in axes if spacing_mm[a] <= THICK * finest]
