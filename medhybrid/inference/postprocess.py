"""Component rules: removal of connected components by number or volume, if the plan has such rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CONNECTIVITY = np.ones((3, 3, 3), bool)


def apply_component_rules(
    labels: NDArray[np.uint8],
    *,
    structures: Mapping[str, Sequence[int]],
    keep_largest: Sequence[str],
    min_component_ml: float,
    voxel_ml: float,
) -> NDArray[np.uint8]:
    """Keep only the largest component of some structures, and remove components below a volume.

    A component that is removed from a region is removed from the regions inside it, too. Where it was inside another region,
    that region stays. Regions are treated in their order.

    Parameters
    ----------
    labels : (X, Y, Z) uint8 ndarray
        Class indices.
    structures : mapping
        Labels with their class index, or regions with those of all their classes.
    keep_largest : sequence of str
        Structures of which only the largest component is kept.
    min_component_ml : float
        Components of any structure with a smaller volume are removed; 0 removes none.
    voxel_ml : float
        Volume of a voxel.
    """
    if not keep_largest and min_component_ml <= 0:
        return labels
    out = labels.copy()
    boxes = ndimage.find_objects(labels, max(c for classes in structures.values() for c in classes))
    for name, classes in structures.items():
        found = [box for c in classes if (box := boxes[c - 1]) is not None]
        if not found or (name not in keep_largest and min_component_ml <= 0):
            continue
        box = tuple(slice(min(b[a].start for b in found), max(b[a].stop for b in found)) for a in range(3))
        components, n = ndimage.label(_is_one_of(out[box], classes), CONNECTIVITY)
        # slice by slice: bincount converts its input to 8 bytes per voxel
        sizes = np.zeros(n + 1, np.int64)
        for part in components:
            sizes += np.bincount(part.ravel(), minlength=n + 1)
        sizes = sizes[1:]
        keep = sizes * voxel_ml >= min_component_ml
        if name in keep_largest and n:
            keep &= np.arange(n) == sizes.argmax()
        is_removed = ~np.concatenate([[True], keep])[components]
        out[box][is_removed] = _without(classes, structures)[out[box][is_removed]]
    return out


def _is_one_of(labels: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.bool_]:
    """Return where a label map (X, Y, Z) has one of some classes; unlike `np.isin`, without large temporary arrays."""
    inside: NDArray[np.bool_] = np.asarray(labels == classes[0])
    for c in classes[1:]:
        inside |= labels == c
    return inside


def _without(removed: Sequence[int], structures: Mapping[str, Sequence[int]]) -> NDArray[np.uint8]:
    """Return the class of each class (256,) without a structure of some classes: that of the structures that stay, or 0."""
    stays = {name: set(classes) for name, classes in structures.items() if not set(classes) <= set(removed)}
    all_classes = sorted({c for classes in structures.values() for c in classes})
    inside = {c: frozenset(n for n, classes in structures.items() if c in classes) for c in all_classes}
    table = np.arange(256, dtype=np.uint8)
    for c in removed:
        wanted = frozenset(n for n, classes in stays.items() if c in classes)
        table[c] = next((other for other in all_classes if wanted and inside[other] == wanted), 0)
    return table
