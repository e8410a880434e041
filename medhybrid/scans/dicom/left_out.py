"""Detection of skipped slices in drawn masks.

Slices without a contour may lie between two separate lesions, or may have been skipped within one. A mask drawn on every
second slice, or on an image with thicker slices, would be read as stripes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SHARED_PART = 0.5
"""Smallest overlap of two drawings, as a share of the smaller one, for the same part."""

MAX_LEFT_OUT = 2
"""Largest number of skipped slices within a part. A larger gap separates two lesions, if each has several slices."""

MIN_REGULAR = 3
"""Smallest number of slices, or runs of slices, that shows drawing at regular distances."""

Gap = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Runs of drawn slices below and above a gap."""


def find_left_out(mask: NDArray[np.bool_], drawn: Sequence[int]) -> str:
    """Describe slices of a mask that were skipped within a part; empty if no slice was skipped.

    Overlapping drawings belong to one part in three cases: the gap is small, one of them is a single slice, or the gaps
    are regular.

    Parameters
    ----------
    mask : (slice, A, B) bool ndarray
        The mask.
    drawn : sequence of int
        The slices with a drawing, including drawings without a voxel.
    """
    gaps = _shared_gaps(mask, drawn)
    for below, above in gaps:
        if _n_between((below, above)) <= MAX_LEFT_OUT or min(len(below), len(above)) == 1:
            return f"{_n_between((below, above))} without a contour between slices {below[-1] + 1} and {above[0] + 1}"
    n_between, n = _most_common([_n_between(g) for g in gaps])
    if n >= MIN_REGULAR or _are_regular(gaps):
        return f"{n_between} slices without a contour at {n} places"
    return ""


def find_stripes(mask: NDArray[np.bool_]) -> str:
    """Describe regular gaps between overlapping drawings of a mask (slice, A, B); empty without such gaps."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    gaps = _shared_gaps(mask, slices)
    every = int(np.gcd.reduce(np.diff(slices))) if len(slices) >= MIN_REGULAR else 1
    if every > 1 and gaps:
        return f"overlapping pixels on every {every} slices"
    if _are_regular(gaps):
        return f"{_n_between(gaps[0])} slices without pixels at {len(gaps)} places"
    return ""


def _are_regular(gaps: Sequence[Gap]) -> bool:
    """Return True if all gaps have the same length, and all runs between them too."""
    kinds = {(_n_between(g), len(run)) for g in gaps for run in g}
    return len(gaps) >= MIN_REGULAR - 1 and len(kinds) == 1


def _most_common(values: Sequence[int]) -> tuple[int, int]:
    """Return the most common value and its count."""
    return max(Counter(values).items(), key=lambda item: item[1], default=(0, 0))


def _shared_gaps(mask: NDArray[np.bool_], drawn: Sequence[int] | NDArray[np.int64]) -> list[Gap]:
    """Return the gaps between overlapping drawings."""
    slices = np.asarray(drawn, np.int64)
    gaps = []
    for below, above in pairwise(np.split(slices, np.flatnonzero(np.diff(slices) > 1) + 1)):
        a, b = mask[below[-1]], mask[above[0]]
        n_shared = int((a & b).sum())
        if n_shared and n_shared >= SHARED_PART * min(a.sum(), b.sum()):
            gaps.append((below, above))
    return gaps


def _n_between(gap: Gap) -> int:
    return int(gap[1][0] - gap[0][-1]) - 1
