"""Values far from all others: padding such as -32768, a broken voxel, metal. They must not decide how an image is scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.even_sample import sample_step

Values = NDArray[Any]
"""An array of numbers of any type."""

MIN_GAP_BELOW, MIN_GAP_ABOVE = 3.0, 5.0
"""A value is an outlier if nothing lies between it and the others over this many times the range of the others. Small bright
objects are real more often than values far below zero."""

TRIMMED = (1.0, 99.0)
"""Percentiles that the range of the others is first estimated by."""

N_EXTREMES = 64
"""Single outliers that are looked for at each end, besides one padding value that any number of voxels may have."""

PADDED_SHARE = 0.005
"""Share of the voxels from which an extreme value is padding, whose border with the image may be blended."""

MAX_FILL = -500.0
"""A whole number below this outside an image without other negative values is a filling, such as -1024 of CT in an MR scan."""

FILL_BORDER = 0.05
"""Values nearer to 0 than this part of the filling belong to the image: noise, and what interpolation overshoots."""

FILL_REST = 0.5
"""Percentile of the image below which negative values are what is left of the blend."""

BLENDED_SHARE = 0.1
"""Share of the voxels that may lie between, where the filling was blended with the image; no more than are filled."""

LEAST_BLEND = 1 / 32
"""Part of a padding at the upper end that a value has which was blended with it; lesser ones are of the image."""

HIGH_PADDING = (32767, 65535, 2**31 - 1, 2**32 - 1)
MIN_BEYOND = 1e9
"""Values that may be padding at the upper end; more voxels of another value there are an object."""

SAMPLED_VOXELS = 65_536

NEARLY_ALL = 0.995
"""An image in which this share of the voxels has one value is as good as blank."""


def is_nearly_constant(values: Values) -> bool:
    """Whether (nearly) all voxels of an image have one value, by an even sample of them."""
    sample = values.reshape(-1)[:: sample_step(values.shape, SAMPLED_VOXELS)]
    _, counts = np.unique(sample, return_counts=True)
    return bool(counts.max() >= NEARLY_ALL * sample.size)


def replace_outliers(values: Values) -> tuple[Values, int]:
    """Return an image in which outliers have the nearest value that is none, and their number.

    At the lower end only negative values can be outliers: a background of 0 may lie far below the tissue. An image without
    outliers is returned as it is.

    Parameters
    ----------
    values : (X, Y, Z) ndarray
        One channel as it was read; finite.
    """
    low, high = values.min(), values.max()
    sample = values.reshape(-1)[:: sample_step(values.shape, SAMPLED_VOXELS)]
    core = sample[(sample > low) & (sample < high)]
    if not core.size:
        return values, 0
    if _is_filling(sample, low):
        values, n_filled = _without_filling(values, low)
        rest, n_others = replace_outliers(values)
        return rest, n_filled + n_others
    core_low, core_high = (float(v) for v in np.percentile(core, TRIMMED))
    core_range = core_high - core_low
    is_padded = float(low) < 0 and _is_padding(sample, low)  # whose blended border widens the range
    may_be_low = is_padded or (float(low) < 0 and core_low - float(low) > MIN_GAP_BELOW * core_range)
    is_topped = int(high) in HIGH_PADDING and _is_padding(sample, high)
    may_be_high = is_topped or float(high) - core_high > MIN_GAP_ABOVE * core_range
    if not (may_be_low or may_be_high):
        return values, 0
    inner = values[(values > low) & (values < high)]
    least = _end_of_rest(inner, low, core_high, sign=1) if may_be_low else low
    most = _end_of_rest(inner, high, core_low, sign=-1) if may_be_high else high
    if may_be_low and _is_padding(sample, low):
        least = max(least, _end_of_blend(np.sort(core), MIN_GAP_BELOW, least, beyond=0.0))
    if may_be_high and int(high) in HIGH_PADDING and _is_padding(sample, high):
        beyond = -float(high) * LEAST_BLEND
        most = min(most, -_end_of_blend(np.sort(-core.astype(np.float64)), MIN_GAP_ABOVE, -float(most), beyond=beyond))
    if int(high) not in HIGH_PADDING and float(high) < MIN_BEYOND and np.count_nonzero(values > most) > N_EXTREMES:
        most = high
    n_outliers = int(np.count_nonzero((values < least) | (values > most)))
    return (np.clip(values, least, most), n_outliers) if n_outliers else (values, 0)


def _is_padding(sample: Values, extreme: Any) -> bool:
    """Whether an extreme value fills a part of the image, and is not that of a few voxels."""
    return bool(np.mean(sample == extreme) >= PADDED_SHARE)


def _is_filling(sample: Values, low: Any) -> bool:
    """Whether the lowest value was filled in around an image that has no negative values of its own."""
    if not (float(low) <= MAX_FILL and float(low).is_integer() and _is_padding(sample, low)):
        return False
    inside = np.mean(sample >= FILL_BORDER * float(low))
    between = np.mean((sample > low) & (sample < FILL_BORDER * float(low)))
    return bool(between <= min(BLENDED_SHARE, inside / 5, np.mean(sample == low)))


def _without_filling(values: Values, low: Any) -> tuple[Values, int]:
    """Give the filling, and what is blended with it, the lowest value of the image; also return their number."""
    is_filled = values < FILL_BORDER * float(low)
    inside = values[~is_filled]
    least = max(float(inside.min()), min(0.0, float(np.percentile(inside, FILL_REST))))
    return np.clip(values, values.dtype.type(least), None), int(np.count_nonzero(is_filled))


def _end_of_blend(ordered: Values, min_gap: float, end: Any, *, beyond: float) -> Any:
    """Return the first value beyond padding that was blended with the image at its border, as resampling does.

    Parameters
    ----------
    ordered : (N,) ndarray
        An ascending sample without the extreme values.
    end : scalar
        Returned if nothing is blended.
    beyond : float
        Only lesser values can be blended.
    """
    gaps = np.diff(ordered.astype(np.float64))
    ranges = float(ordered[-1]) - ordered[1:].astype(np.float64)
    is_border = (gaps > min_gap * ranges) & (ordered[:-1] < beyond)
    is_border[len(ordered) // 2 :] = False  # near the other end every gap is large against what is left
    if not is_border.any():
        return end
    return ordered[1:][np.flatnonzero(is_border)[-1]]


def _end_of_rest(inner: Values, extreme: Any, other_end: float, *, sign: int) -> Any:
    """Return the first value that is no outlier, from one end.

    Parameters
    ----------
    inner : (N,) ndarray
        All values but the lowest and the highest.
    extreme : scalar
        The lowest value, or the highest with `sign` -1.
    other_end : float
        Where the range of the others ends.
    """
    n = min(N_EXTREMES, inner.size // 2)  # near the other end every gap is large against what is left
    if not n:
        return extreme
    ordered = np.partition(inner, n - 1)[:n] if sign > 0 else np.partition(inner, inner.size - n)[-n:]
    line = [extreme, *np.sort(ordered)[::sign]]
    min_gap = MIN_GAP_BELOW if sign > 0 else MIN_GAP_ABOVE
    for outside, inside in zip(line[-2::-1], line[:0:-1], strict=True):  # the innermost gap first
        if abs(float(inside) - float(outside)) > min_gap * abs(other_end - float(inside)):
            is_outlier = sign < 0 or float(outside) < 0
            return inside if is_outlier else extreme
    return extreme
