"""Slices without a contour or pixel between drawn ones: left out within a part, or between parts that lie apart.

A mask that was drawn on some slices of its image only, or on an image of thicker slices, would be read as stripes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SHARED_PART = 0.5
"""Drawings that share so much of the smaller one are of one part, if the slices between them are few or regular."""

MAX_LEFT_OUT = 2
"""More slices than these between two drawings that share a place part two lesions, if each has several slices."""

MIN_REGULAR = 3
"""So many slices, or runs of slices, show that they were drawn at regular distances."""

Gap = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The runs of drawn slices below and above slices without a drawing."""


def find_left_out(mask: NDArray[np.bool_], drawn: Sequence[int]) -> str:
    """Describe slices of a mask (slice, A, B) that were left out within a part; empty where there are none.

    Drawings above each other belong to one part if few slices are between them, one of them stands alone, or such gaps
    are regular.

    Parameters
    ----------
    drawn : sequence of int
        The slices with a drawing, also those where it holds no voxel.
    """
    gaps = _shared_gaps(mask, drawn)
    for below, above in gaps:
        if _n_between((below, above)) <= MAX_LEFT_OUT or min(len(below), len(above)) == 1:
            return f"{_n_between((below, above))} without one between slices {below[-1] + 1} and {above[0] + 1}"
    n_between, n = _most_common([_n_between(g) for g in gaps])
    if n >= MIN_REGULAR or _are_regular(gaps):
        return f"{n_between} without one at {n} places"
    return ""


def find_stripes(mask: NDArray[np.bool_]) -> str:
    """Describe regular gaps between drawings above each other of a mask (slice, A, B); empty where there are none."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    gaps = _shared_gaps(mask, slices)
    every = int(np.gcd.reduce(np.diff(slices))) if len(slices) >= MIN_REGULAR else 1
    if every > 1 and gaps:
        return f"pixels above each other at every {every} slices"
    if _are_regular(gaps):
        return f"{_n_between(gaps[0])} without pixels at {len(gaps)} places"
    return ""


def _are_regular(gaps: Sequence[Gap]) -> bool:
    """Whether all gaps are equal, between runs of equally many slices."""
    kinds = {(_n_between(g), len(run)) for g in gaps for run in g}
    return len(gaps) >= MIN_REGULAR - 1 and len(kinds) == 1


def _most_common(values: Sequence[int]) -> tuple[int, int]:
    """The most common value, and how often it stands there."""
    return max(Counter(values).items(), key=lambda item: item[1], default=(0, 0))


def _shared_gaps(mask: NDArray[np.bool_], drawn: Sequence[int] | NDArray[np.int64]) -> list[Gap]:
    """The gaps between drawings that share a place."""
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
