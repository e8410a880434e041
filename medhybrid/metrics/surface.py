"""Distances between the surfaces of two masks.

The surface of a mask consists of its voxels with a face on the outside (6-neighbourhood; outside the grid is outside the
mask). On a single slice, it is the border within the slice.

Distances are between centres of surface voxels, in mm. The percentile is computed over both directions together.
MONAI's `compute_hausdorff_distance` returns the larger of the two directions' percentiles, which is higher in most cases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from medhybrid.metrics.overlap import Mask, check_same_shape

MARGIN = 2
"""Margin in voxels of the box that is cut out around both masks."""


Axes = tuple[float, float, float] | NDArray[np.float64]
"""Spacing in mm along each axis, or the vectors (3, 3) of one voxel along each axis as columns, for a sheared grid."""


def surface_distances_mm(prediction: Mask, reference: Mask, axes: Axes) -> NDArray[np.float64]:
    """Compute the distance from each surface voxel of one mask to the nearest of the other, in both directions.

    Parameters
    ----------
    prediction, reference : (X, Y, Z) bool ndarray
        Not empty.

    Returns
    -------
    (N,) ndarray
        Distances of the prediction's surface voxels, then those of the reference's, in mm.
    """
    check_same_shape(prediction, reference)
    box = _box_of(prediction | reference)
    a, b = _surface(prediction[box], prediction.shape), _surface(reference[box], reference.shape)
    if isinstance(axes, np.ndarray):
        at_a, at_b = (np.argwhere(m) @ axes.T for m in (a, b))
        return np.concatenate([cKDTree(at_b).query(at_a)[0], cKDTree(at_a).query(at_b)[0]])
    to_b = ndimage.distance_transform_edt(~b, axes)[a]
    to_a = ndimage.distance_transform_edt(~a, axes)[b]
    return np.concatenate([to_b, to_a])


def hd95_mm(prediction: Mask, reference: Mask, axes: Axes) -> float:
    """Compute the 95th percentile of the surface distances of both directions together, in mm.

    It is 0 if both masks are empty, and the grid's diagonal if only one is.
    """
    n_empty = int(not prediction.any()) + int(not reference.any())
    if n_empty:
        spacing_mm = np.linalg.norm(axes, axis=0) if isinstance(axes, np.ndarray) else np.array(axes)
        diagonal = float(np.linalg.norm(np.array(reference.shape) * spacing_mm))
        return 0.0 if n_empty == 2 else diagonal
    return float(np.percentile(surface_distances_mm(prediction, reference, axes), 95))


ROUNDING_MM = 1e-4
"""Added to the tolerance: spacings come from affines in float32, so that a spacing of 1 mm may be slightly larger."""


def surface_dice(prediction: Mask, reference: Mask, axes: Axes, tolerance_mm: float = 1.0) -> float:
    """Compute the share of surface voxels of both masks within `tolerance_mm` of the other surface.

    It is 1 if both masks are empty, and 0 if only one is.

    References
    ----------
    Nikolov et al. (2021), J Med Internet Res 23(7), doi:10.2196/26151, with surface voxels instead of surface area.
    """
    n_empty = int(not prediction.any()) + int(not reference.any())
    if n_empty:
        return float(n_empty == 2)
    return float((surface_distances_mm(prediction, reference, axes) <= tolerance_mm + ROUNDING_MM).mean())


def _surface(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return the surface voxels of a cut of a mask with `shape`; it is padded by one voxel along axes of several."""
    along = [int(n > 1) for n in shape] if max(shape) > 1 else [1] * mask.ndim
    mask = np.pad(mask, [(n, n) for n in along])
    neighbours = ndimage.generate_binary_structure(mask.ndim, 1)
    for axis, several in enumerate(along):
        if not several:
            neighbours = neighbours.take([1], axis=axis)  # nothing is outside of a slice
    inner: Mask = ndimage.binary_erosion(mask, neighbours, border_value=0)
    return mask & ~inner


def _box_of(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box around a mask, with a margin."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        where = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(int(where[0]) - MARGIN, 0), int(where[-1]) + MARGIN + 1))
    return tuple(box)
