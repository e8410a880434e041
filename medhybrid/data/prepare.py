"""Preprocessing of a scan to the network's grid and intensity scale, with the same code for training and prediction.

These are pure functions; `data.transforms` wraps them as MONAI transforms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import DataConfig
from medhybrid.data.checks import copied_channels
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.data.outliers import replace_outliers
from medhybrid.data.plan import Normalisation, Plan
from medhybrid.errors import DataError
from medhybrid.geometry import Grid, Turn, resample_image, resample_labels, respace, turn_to_ras

TISSUE_SHARE = 0.1
"""Voxels above this share of the range from minimum to 99.5th percentile count as tissue, the others as air."""

MAX_SCALED = 12.0
"""Upper limit of scaled intensities: a few bright voxels (vessels, metal) must not dominate the network's input."""


MIN_KNOWN = 0.25
"""Share of a voxel of the network's grid whose label must be known. A scribble of one voxel in width then survives a grid
that is three times coarser."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Input image of the network, with the geometry for mapping a prediction back to the scan.

    Attributes
    ----------
    image : (C, X, Y, Z) float32 ndarray
        Image on `grid`. A value of 0 is air or a blank channel; one unit is a standard deviation of tissue.
    grid : Grid
        Grid of the network: axes in RAS order, with the plan's spacing.
    turned : Grid
        Grid of the scan with axes in RAS order.
    turn : Turn
        Reordering of the scan's axes to RAS.
    n_outliers : int
        Number of voxels with outliers that were replaced before scaling.
    """

    image: NDArray[np.float32]
    grid: Grid
    turned: Grid
    turn: Turn
    n_outliers: int = 0


def prepare_image(array: NDArray[np.generic], grid: Grid, plan: Plan) -> PreparedImage:
    """Prepare an image: reorder its axes to RAS, resample it to the plan's spacing and normalise its intensities.

    Parameters
    ----------
    array : (C, X, Y, Z) ndarray
        Values of a scan.
    grid : Grid
        Grid of the scan.

    Raises
    ------
    DataError
        If the number of channels differs from the plan, or a value is NaN or infinite, which would affect the whole image.
    """
    if array.shape[0] != len(plan.channels):
        raise DataError(
            "the number of channels differs between scan and model",
            expected=f"{len(plan.channels)} ({', '.join(plan.channels)})",
            found=str(array.shape[0]),
            remedy="assign the channels with data.channel_map, or use another model",
        )
    refuse_not_finite(array)
    turn = turn_to_ras(grid.affine)
    turned = turn.grid(grid)
    target = network_grid(turned, plan)
    blank = blank_channels(array, plan)
    array, n_outliers = _without_outliers(array, plan, blank)
    image = resample_image(turn.apply(array), turned, target)  # (C, X, Y, Z) -> (C, X', Y', Z')
    for i, rule in enumerate(plan.normalisation):
        image[i] = 0 if i in blank else normalise(image[i], rule)
    return PreparedImage(image, target, turned, turn, n_outliers)


def refuse_not_finite(array: NDArray[np.generic]) -> None:
    """Raise `DataError` if a value of an image is NaN or infinite."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            "the scan has NaN or infinite values",
            expected="finite values",
            found=f"{int((~np.isfinite(array)).sum())} voxels",
            remedy="export it again, or replace these values",
        )


def network_grid(turned: Grid, plan: Plan) -> Grid:
    """Return the network's grid of a scan with axes in RAS order: the plan's spacing and the scan's field of view.

    A single slice keeps its thickness if the network is two-dimensional: there is nothing to interpolate.
    """
    x, y, z = (
        own if plan.kernels and n == patch == 1 else planned
        for own, planned, n, patch in zip(
            turned.spacing_mm, plan.spacing_mm, turned.shape, plan.patch_size, strict=True
        )
    )
    return respace(turned, (x, y, z))


def _without_outliers(array: NDArray[np.generic], plan: Plan, blank: set[int]) -> tuple[NDArray[np.generic], int]:
    """Replace outliers in the channels of an image (C, X, Y, Z) that are scaled by their own values; count them, too."""
    cleaned, total = array, 0
    for i, rule in enumerate(plan.normalisation):
        if i in blank or rule.rule == "clip_and_scale":  # these values are clipped in `normalise`
            continue
        channel, n_outliers = replace_outliers(array[i])
        if n_outliers:
            cleaned = array.copy() if cleaned is array else cleaned
            cleaned[i] = channel
            total += n_outliers
    return cleaned, total


def prepare_labels(mask: NDArray[np.generic], prepared: PreparedImage, plan: Plan) -> NDArray[np.uint8]:
    """Resample a reference mask (X, Y, Z) with values 1..n or `UNKNOWN` from the scan's grid to the prepared image's grid."""
    turned = prepared.turn.apply(mask)
    known = turned != UNKNOWN
    if known.all():
        return resample_labels(turned, prepared.turned, prepared.grid, plan.n_labels)
    labels = resample_labels(turned, prepared.turned, prepared.grid, plan.n_labels)
    share = resample_image(known[None].astype(np.float32), prepared.turned, prepared.grid)[0]
    labels[share < MIN_KNOWN] = UNKNOWN
    return labels


def blank_channels(array: NDArray[np.generic], plan: Plan) -> set[int]:
    """Return the indices of optional channels to blank: those that are constant or a copy of another channel."""
    optional = {i for i, n in enumerate(plan.normalisation) if n.optional}
    blank = {i for i in optional if array[i].min() == array[i].max()}
    if plan.blank_copied_channels and optional:
        for a, b in copied_channels(array):
            blank |= {b} & optional or {a} & optional
    return blank


def normalise(values: NDArray[np.float32], rule: Normalisation) -> NDArray[np.float32]:
    """Scale a channel (X, Y, Z) so that its lowest value is 0 and one unit is a standard deviation of tissue."""
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
    """Convert a mask's values in files to 1..n, in the order of `labels`."""
    out = np.zeros(mask.shape, np.uint8)
    for inside, value in enumerate(labels.values(), start=1):
        out[mask == value] = inside
    return out


def reference_labels(mask: NDArray[np.generic], data: DataConfig) -> NDArray[np.uint8]:
    """Convert a reference mask's values in files to 1..n, and to `UNKNOWN` for the value of `data.ignore_value`."""
    out = inside_labels(mask, data.labels)
    if data.ignore_value is not None:
        out[mask == data.ignore_value] = UNKNOWN
    return out


def outside_labels(inside: NDArray[np.generic], labels: Mapping[str, int]) -> NDArray[np.generic]:
    """Convert a mask's values 1..n back to the values in files, in the smallest unsigned integer type."""
    dtype = np.min_scalar_type(max(labels.values()))
    table = np.array([0, *labels.values()], dtype)
    outside: NDArray[np.generic] = table[inside]
    return outside
