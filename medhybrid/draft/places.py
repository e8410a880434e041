"""Places of the labels in the scans: lesions lie anywhere, organs where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry import Affine, turn_to_ras

MIN_CASES = 8
"""Fewer cases do not show how places vary."""

MIN_OF_LABELS, MIN_OF_SCAN = 0.35, 0.08
"""Least standard deviation of the centre of labels that vary in place, relative to their extent, and to that of the scan.

The first is 0.48 to 0.55 along the three axes for gliomas in the head, and at most 0.19 for hippocampi, hearts and vertebrae;
the second is 0.12 to 0.15, and at most 0.06. It leaves out small organs, whose places vary with the position of the patient."""

MIN_AXES = 2
"""Number of axes along which both hold: scans of a body may begin and end anywhere along one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Centre of all labels of a case relative to the scan (0 to 1), and their extent relative to it, along RAS axes."""

    centre: tuple[float, float, float]
    extent: tuple[float, float, float]


def place_of(mask: NDArray[np.generic], affine: Affine) -> Place | None:
    """Return the place of the labels of a mask (X, Y, Z); None without labels."""
    inside = turn_to_ras(affine).apply(mask != 0)
    centre, extent = [], []
    for axis in range(3):
        counts = inside.sum(axis=tuple(a for a in range(3) if a != axis))
        found = np.flatnonzero(counts)
        if not found.size:
            return None
        centre.append(float((counts * (np.arange(len(counts)) + 0.5)).sum() / counts.sum() / len(counts)))
        extent.append(float(found[-1] - found[0] + 1) / len(counts))
    return Place((centre[0], centre[1], centre[2]), (extent[0], extent[1], extent[2]))


def do_places_vary(places: Sequence[Place]) -> bool:
    """Return whether labels lie at other places in each case, as lesions do."""
    if len(places) < MIN_CASES:
        return False
    deviation = np.std([p.centre for p in places], axis=0)
    extent = np.median([p.extent for p in places], axis=0)
    return int(((deviation >= MIN_OF_LABELS * extent) & (deviation >= MIN_OF_SCAN)).sum()) >= MIN_AXES
