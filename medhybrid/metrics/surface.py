"""Distances between the surfaces of two masks.

The surface of a mask is its voxels with a face on the outside (6-neighbourhood; the grid's border counts as outside).
Distances run between centres of surface voxels, in mm. Both directions are pooled before the percentile is taken; MONAI's
`compute_hausdorff_distance` takes the larger of the two directions' percentiles instead, and so mostly reads higher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.metrics.overlap import Mask, check_same_shape

MARGIN = 2
"""Voxels kept around both masks when the box is cut out."""


def surface_distances_mm(
    prediction: Mask, reference: Mask, spacing_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Distances from each surface voxel of one mask to the nearest of the other, both directions together.

    Parameters
    ----------
    prediction, reference : (X, Y, Z) bool ndarray
        Neither empty.
    """
    check_same_shape(prediction, reference)
    box = _box_of(prediction | reference)
    a, b = _surface(np.pad(prediction[box], 1)), _surface(np.pad(reference[box], 1))
    to_b = ndimage.distance_transform_edt(~b, spacing_mm)[a]
    to_a = ndimage.distance_transform_edt(~a, spacing_mm)[b]
    return np.concatenate([to_b, to_a])


def hd95_mm(prediction: Mask, reference: Mask, spacing_mm: tuple[float, float, float]) -> float:
    """95th percentile of the pooled surface distances.

    0 when both are empty; the diagonal of the grid when one is.
    """
    n_empty = int(not prediction.any()) + int(not reference.any())
    if n_empty:
        diagonal = float(np.linalg.norm(np.array(reference.shape) * np.array(spacing_mm)))
        return 0.0 if n_empty == 2 else diagonal
    return float(np.percentile(surface_distances_mm(prediction, reference, spacing_mm), 95))


ROUNDING_MM = 1e-4
"""Spacings come from affines in float32: a voxel of 1 mm may be a little more."""


def surface_dice(
    prediction: Mask, reference: Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float = 1.0
) -> float:
    """Share of both surfaces' voxels that lie within `tolerance_mm` of the other; 1 when both are empty, 0 when one is.

    References
    ----------
    Nikolov et al. (2021), J Med Internet Res 23(7), doi:10.2196/26151, by surface voxels instead of surface area.
    """
    n_empty = int(not prediction.any()) + int(not reference.any())
    if n_empty:
        return float(n_empty == 2)
    return float((surface_distances_mm(prediction, reference, spacing_mm) <= tolerance_mm + ROUNDING_MM).mean())


def _surface(mask: Mask) -> Mask:
    inner: Mask = ndimage.binary_erosion(mask, border_value=0)
    return mask & ~inner


def _box_of(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around a mask, with a margin."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        where = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(int(where[0]) - MARGIN, 0), int(where[-1]) + MARGIN + 1))
    return tuple(box)
