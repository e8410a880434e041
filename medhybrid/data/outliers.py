"""Outliers in images: padding such as -32768, defective voxels, metal. They must not affect the scaling of intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.even_sample import sample_step

Values = NDArray[Any]
"""Array of any numeric type."""

MIN_GAP_BELOW, MIN_GAP_ABOVE = 3.0, 5.0
"""A value is an outlier if the gap to the next value exceeds this multiple of the range of the others. The multiple is larger
above, because small bright objects are real more often than values far below zero."""

TRIMMED = (1.0, 99.0)
"""Percentiles for the first estimate of the range without outliers."""

N_EXTREMES = 64
"""Largest number of outlier voxels at each end, in addition to one padding value with any number of voxels."""

PADDED_SHARE = 0.005
"""Share of voxels from which on an extreme value counts as padding. Resampling may have blended its border with the image."""

MAX_FILL = -500.0
"""Up to this value, an integer around an image without other negative values is a fill value, such as CT's -1024 in MR."""

FILL_BORDER = 0.05
"""Negative values closer to 0 than this share of the fill value belong to the image: noise, overshoot of interpolation."""

FILL_REST = 0.5
"""Percentile of the image below which negative values are the remainder of blending with the fill value."""

BLENDED_SHARE = 0.1
"""Largest share of voxels between fill value and image, from blending; there must not be more of them than filled voxels."""

LEAST_BLEND = 1 / 32
"""Share of an upper padding value above which values are blended with it; lower values belong to the image."""

HIGH_PADDING = (32767, 65535, 2**31 - 1, 2**32 - 1)
MIN_BEYOND = 1e9
"""Padding at the upper end has a value of `HIGH_PADDING`, or one from `MIN_BEYOND` on. With another value, more than
`N_EXTREMES` bright voxels are an object."""

SAMPLED_VOXELS = 65_536

NEARLY_ALL = 0.995
"""Share of voxels with the same value from which on an image counts as nearly constant."""


def is_nearly_constant(values: Values) -> bool:
    """Return whether (nearly) all voxels of an image have the same value, in an even sample of them."""
    sample = values.reshape(-1)[:: sample_step(values.shape, SAMPLED_VOXELS)]
    _, counts = np.unique(sample, return_counts=True)
    return bool(counts.max() >= NEARLY_ALL * sample.size)


def replace_outliers(values: Values) -> tuple[Values, int]:
    """Replace outliers in an image by the nearest value that is not an outlier.

    At the lower end, only negative values can be outliers, because a background of 0 may be far below the tissue.

    Parameters
    ----------
    values : (X, Y, Z) ndarray
        One channel as it was read, with finite values.

    Returns
    -------
    values : (X, Y, Z) ndarray
        The same array if it has no outliers.
    n_outliers : int
        Number of replaced voxels.
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
    is_padded = float(low) < 0 and _is_padding(sample, low)  # the blended border of padding widens the range
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
    """Return whether an extreme value fills a part of the image instead of a few voxels."""
    return bool(np.mean(sample == extreme) >= PADDED_SHARE)


def _is_filling(sample: Values, low: Any) -> bool:
    """Return whether the lowest value is a fill value around an image without negative values."""
    if not (float(low) <= MAX_FILL and float(low).is_integer() and _is_padding(sample, low)):
        return False
    inside = np.mean(sample >= FILL_BORDER * float(low))
    between = np.mean((sample > low) & (sample < FILL_BORDER * float(low)))
    return bool(between <= min(BLENDED_SHARE, inside / 5, np.mean(sample == low)))


def _without_filling(values: Values, low: Any) -> tuple[Values, int]:
    """Replace the fill value, and values blended with it, by the lowest value of the image; also return their number."""
    is_filled = values < FILL_BORDER * float(low)
    inside = values[~is_filled]
    least = max(float(inside.min()), min(0.0, float(np.percentile(inside, FILL_REST))))
    return np.clip(values, values.dtype.type(least), None), int(np.count_nonzero(is_filled))


def _end_of_blend(ordered: Values, min_gap: float, end: Any, *, beyond: float) -> Any:
    """Return the lowest value of the image above padding that resampling has blended with the image at its border.

    Parameters
    ----------
    ordered : (N,) ndarray
        Sample in ascending order, without the extreme values.
    end : scalar
        Value to return if no values are blended.
    beyond : float
        Upper limit of blended values.
    """
    gaps = np.diff(ordered.astype(np.float64))
    ranges = float(ordered[-1]) - ordered[1:].astype(np.float64)
    is_border = (gaps > min_gap * ranges) & (ordered[:-1] < beyond)
    is_border[len(ordered) // 2 :] = False  # near the other end, every gap is large compared with the remaining range
    if not is_border.any():
        return end
    return ordered[1:][np.flatnonzero(is_border)[-1]]


def _end_of_rest(inner: Values, extreme: Any, other_end: float, *, sign: int) -> Any:
    """Return the first value, counted from one end, that is not an outlier.

    Parameters
    ----------
    inner : (N,) ndarray
        All values except the lowest and the highest.
    extreme : scalar
        Lowest value with `sign` 1, highest with -1.
    other_end : float
        Opposite end of the range without outliers.
    """
    n = min(N_EXTREMES, inner.size // 2)  # near the other end, every gap is large compared with the remaining range
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
