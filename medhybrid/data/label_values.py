"""Values of label maps in files: integers, or close to integers after a rescale slope or a conversion."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MAX_ROUNDING = 1e-3
"""Largest difference from an integer that is rounded."""


def round_labels(mask: NDArray[np.generic]) -> NDArray[np.generic]:
    """Round values of a label map that are close to an integer; return integers if this holds for all values."""
    if mask.dtype.kind != "f":
        return mask
    nearest = np.rint(mask)
    is_near = np.abs(mask - nearest) <= MAX_ROUNDING
    rounded = np.where(is_near, nearest, mask)
    if not is_near.all() or not rounded.size:
        return rounded
    least, most = float(rounded.min()), float(rounded.max())
    kind = next(
        (k for k in (np.uint8, np.int16, np.int32) if np.iinfo(k).min <= least and most <= np.iinfo(k).max), None
    )
    return rounded if kind is None else rounded.astype(kind)


def unknown_values(mask: NDArray[np.generic], labels: Iterable[int], *, shown: int = 8) -> list[str]:
    """Return the values of a label map that are neither 0 nor a label, as text with all digits; at most `shown` of them."""
    known = [0, *labels]
    return [str(v) for v in np.unique(mask) if v not in known][:shown]
