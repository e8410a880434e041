"""Overlap and volume of two masks on the same grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError

Mask = NDArray[np.bool_]


def check_same_shape(prediction: Mask, reference: Mask) -> None:
    """Raise `GeometryError` if two masks have different shapes."""
    if prediction.shape != reference.shape:
        raise GeometryError(
            "prediction and reference differ in shape", expected=str(reference.shape), found=str(prediction.shape)
        )


def dice(prediction: Mask, reference: Mask) -> float:
    """Compute the Dice coefficient of two masks, in [0, 1]; 1 if both are empty, 0 if only one is.

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
    """Compute the volume of a mask in ml."""
    return float(mask.sum()) * voxel_ml


def volume_error_ml(prediction: Mask, reference: Mask, voxel_ml: float) -> float:
    """Compute the difference of volumes (prediction - reference) in ml."""
    return volume_ml(prediction, voxel_ml) - volume_ml(reference, voxel_ml)


def volume_error_percent(prediction: Mask, reference: Mask) -> float:
    """Compute the difference of volumes in percent of the reference; NaN if the reference is empty."""
    n = int(reference.sum())
    return 100 * (int(prediction.sum()) - n) / n if n else float("nan")
