"""Component rules: removal of connected components by number or volume, if the plan has such rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CONNECTIVITY = np.ones((3, 3, 3), bool)


def apply_component_rules(
    labels: NDArray[np.uint8],
    *,
    names: Sequence[str],
    keep_largest: Sequence[str],
    min_component_ml: float,
    voxel_ml: float,
) -> NDArray[np.uint8]:
    """Keep only the largest component of some labels, and remove components below a volume.

    Parameters
    ----------
    labels : (X, Y, Z) uint8 ndarray
        Class indices; `names[i]` has value i + 1.
    keep_largest : sequence of str
        Labels of which only the largest component is kept.
    min_component_ml : float
        Components of any label with a smaller volume are removed; 0 removes none.
    voxel_ml : float
        Volume of a voxel.
    """
    if not keep_largest and min_component_ml <= 0:
        return labels
    out = labels.copy()
    boxes = ndimage.find_objects(labels, len(names))
    for value, (name, box) in enumerate(zip(names, boxes, strict=True), start=1):
        if box is None:
            continue
        components, n = ndimage.label(labels[box] == value, CONNECTIVITY)
        # slice by slice: bincount converts its input to 8 bytes per voxel
        sizes = np.zeros(n + 1, np.int64)
        for part in components:
            sizes += np.bincount(part.ravel(), minlength=n + 1)
        sizes = sizes[1:]
        keep = sizes * voxel_ml >= min_component_ml
        if name in keep_largest:
            keep &= np.arange(n) == sizes.argmax()
        out[box][~np.concatenate([[True], keep])[components]] = 0
    return out
