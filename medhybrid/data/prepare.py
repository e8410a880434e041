"""From a scan to the network's grid and intensity scale: the same code for training data and for new scans.

Pure functions; `data.transforms` has them as MONAI transforms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.checks import copied_channels
from medhybrid.data.outliers import replace_outliers
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.errors import DataError
from medhybrid.geometry import Grid, Turn, resample_image, resample_labels, respace, turn_to_ras

TISSUE_SHARE = 0.1
"""Voxels above this share of the range from the minimum to the 99.5th percentile count as tissue, the rest as air."""

MAX_SCALED = 12.0
"""Scaled intensities are cut here: a few bright voxels (vessels, metal) must not squeeze the rest."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as the network sees it, and the way back.

    Attributes
    ----------
    image : (C, X, Y, Z) float32 ndarray
        On `grid`; 0 is air or blank, one unit is a standard deviation of tissue.
    grid : Grid
        The network's grid: RAS axes order, the plan's spacing.
    turned : Grid
        The scan's grid after turning to RAS.
    turn : Turn
        From the scan's axes to RAS.
    n_outliers : int
        Voxels whose values were replaced before scaling.
    """

    image: NDArray[np.float32]
    grid: Grid
    turned: Grid
    turn: Turn
    n_outliers: int = 0


def prepare_image(array: NDArray[np.generic], grid: Grid, plan: Plan) -> PreparedImage:
    """Turn to RAS, resample to the plan's spacing, scale intensities.

    Parameters
    ----------
    array : (C, X, Y, Z) ndarray
        Values of a scan.
    grid : Grid
        Where they are.

    Raises
    ------
    DataError
        If the number of channels is not the plan's, or a value is no number: it would spread over the whole picture.
    """
    if array.shape[0] != len(plan.channels):
        raise DataError(
            "scan has another number of channels than the model",
            expected=f"{len(plan.channels)} ({', '.join(plan.channels)})",
            found=str(array.shape[0]),
            remedy="give the channels by data.channel_map, or another model",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            "scan holds values that are no numbers",
            expected="finite values",
            found=f"{int((~np.isfinite(array)).sum())} voxels",
            remedy="export it again, or replace them",
        )
    turn = turn_to_ras(grid.affine)
    turned = turn.grid(grid)
    target = respace(turned, plan.spacing_mm)
    blank = blank_channels(array, plan)
    array, n_outliers = _without_outliers(array, plan, blank)
    image = resample_image(turn.apply(array), turned, target)  # (C, X, Y, Z) -> (C, X', Y', Z')
    for i, rule in enumerate(plan.normalisation):
        image[i] = 0 if i in blank else normalise(image[i], rule)
    return PreparedImage(image, target, turned, turn, n_outliers)


def _without_outliers(array: NDArray[np.generic], plan: Plan, blank: set[int]) -> tuple[NDArray[np.generic], int]:
    """Return an image (C, X, Y, Z) without outliers in the channels that are scaled by their own values, and their number."""
    cleaned, total = array, 0
    for i, rule in enumerate(plan.normalisation):
        if i in blank or rule.rule == "clip_and_scale":  # which cuts them
            continue
        channel, n_outliers = replace_outliers(array[i])
        if n_outliers:
            cleaned = array.copy() if cleaned is array else cleaned
            cleaned[i] = channel
            total += n_outliers
    return cleaned, total


def prepare_labels(mask: NDArray[np.generic], prepared: PreparedImage, plan: Plan) -> NDArray[np.uint8]:
    """A reference (X, Y, Z) with inside values on the scan's axes, brought to the prepared image's grid."""
    return resample_labels(prepared.turn.apply(mask), prepared.turned, prepared.grid, plan.n_labels)


def blank_channels(array: NDArray[np.generic], plan: Plan) -> set[int]:
    """Optional channels without content of their own: constant, or a copy of another channel."""
    optional = {i for i, n in enumerate(plan.normalisation) if n.optional}
    blank = {i for i in optional if array[i].min() == array[i].max()}
    if plan.blank_copied_channels and optional:
        for a, b in copied_channels(array):
            blank |= {b} & optional or {a} & optional
    return blank


def normalise(values: NDArray[np.float32], rule: Normalisation) -> NDArray[np.float32]:
    """Scale one channel (X, Y, Z) so that 0 is its lowest value and 1 a standard deviation of tissue."""
    if rule.rule == "clip_and_scale":
        scaled = (np.clip(values, rule.low, rule.high) - rule.low) / rule.deviation
        return scaled.astype(np.float32)
    low = float(values.min())
    tissue = values
    if rule.rule == "zscore_foreground":
        high = float(np.percentile(values, 99.5))
        tissue = values[values > low + TISSUE_SHARE * (high - low)]
    deviation = float(tissue.std()) if tissue.size else 0.0
    scaled = (values - low) / (deviation or 1.0)
    return np.asarray(np.minimum(scaled, MAX_SCALED), np.float32)


def inside_labels(mask: NDArray[np.generic], labels: Mapping[str, int]) -> NDArray[np.uint8]:
    """File values to 1..n in the order of `labels`."""
    out = np.zeros(mask.shape, np.uint8)
    for inside, value in enumerate(labels.values(), start=1):
        out[mask == value] = inside
    return out


def outside_labels(inside: NDArray[np.generic], labels: Mapping[str, int]) -> NDArray[np.generic]:
    """1..n back to file values, in the smallest unsigned type that holds them."""
    dtype = np.min_scalar_type(max(labels.values()))
    table = np.array([0, *labels.values()], dtype)
    outside: NDArray[np.generic] = table[inside]
    return outside
