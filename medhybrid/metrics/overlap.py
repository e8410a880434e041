"""Overlap and volume of two masks on one grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError

Mask = NDArray[np.bool_]


def check_same_shape(prediction: Mask, reference: Mask) -> None:
    """Raise `GeometryError` unless both masks have one shape."""
    if prediction.shape != reference.shape:
        raise GeometryError("masks differ in shape", expected=str(reference.shape), found=str(prediction.shape))


def dice(prediction: Mask, reference: Mask) -> float:
    """Overlap of two masks, in [0, 1]; 1 when both are empty, 0 when one is.

    Parameters
    ----------
    prediction, reference : (X, Y, Z) bool ndarray

    References
    ----------
    Dice (1945), Ecology 26(3), doi:10.2307/1932409.
    """
    check_same_shape(prediction, reference)
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else 1.0


def volume_ml(mask: Mask, voxel_ml: float) -> float:
    """Volume of a mask."""
    return float(mask.sum()) * voxel_ml


def volume_error_ml(prediction: Mask, reference: Mask, voxel_ml: float) -> float:
    """Predicted minus reference volume."""
    return volume_ml(prediction, voxel_ml) - volume_ml(reference, voxel_ml)


def volume_error_percent(prediction: Mask, reference: Mask) -> float:
    """Volume error relative to the reference; not a number where the reference is empty."""
    n = int(reference.sum())
    return 100 * (int(prediction.sum()) - n) / n if n else float("nan")
