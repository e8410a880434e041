"""Places of the labels in the scans: lesions lie anywhere, organs where they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.data.sides import find_sides
from medhybrid.geometry import Affine, turn_to_ras

MIN_CASES = 8
"""Fewer cases do not show how places vary."""

MIN_OF_SIDES = 3
"""Fewer cases do not show that two labels always lie on opposite sides."""

MIN_OF_LABELS, MIN_OF_SCAN = 0.35, 0.08
"""Least standard deviation of the centre of labels that vary in place, relative to their extent, and to that of the scan.

The first is 0.48 to 0.55 along the three axes for gliomas in the head, and at most 0.19 for hippocampi, hearts and vertebrae;
the second is 0.12 to 0.15, and at most 0.06. It leaves out small organs, whose places vary with the position of the patient."""

MIN_AXES = 2
"""Number of axes along which both hold: scans of a body may begin and end anywhere along one."""


MIN_APART, MAX_ASKEW = 0.1, 0.06
"""Least distance of two sides from left to right, and largest distance along the other axes, relative to the scan."""

ALIKE = 1.6
"""Largest ratio of the volumes of two sides."""

MAX_VALUES, LARGEST_VALUE = 40, 4095
"""Largest number of values of a mask whose places are compared, and largest value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Centre of all labels of a case relative to the scan (0 to 1), and their extent relative to it, along RAS axes.

    Attributes
    ----------
    of_values : dict
        Value of the mask to its centre, and its number of voxels; empty for masks of many values.
    """

    centre: tuple[float, float, float]
    extent: tuple[float, float, float]
    of_values: dict[int, tuple[tuple[float, float, float], int]] = field(default_factory=dict)


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
    return Place((centre[0], centre[1], centre[2]), (extent[0], extent[1], extent[2]), _of_values(mask, affine))


def _of_values(mask: NDArray[Any], affine: Affine) -> dict[int, tuple[tuple[float, float, float], int]]:
    if mask.dtype.kind not in "iu" or not mask.size or int(mask.max()) > LARGEST_VALUE:
        return {}
    turned = turn_to_ras(affine).apply(mask)
    boxes = {value: box for value, box in enumerate(ndimage.find_objects(turned), start=1) if box is not None}
    found = {}
    for value, box in boxes.items() if len(boxes) <= MAX_VALUES else ():
        inside = turned[box] == value
        sides = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
        n = int(sides[0].sum())
        x, y, z = (
            float((counts * (np.arange(len(counts)) + box[axis].start + 0.5)).sum()) / n / turned.shape[axis]
            for axis, counts in enumerate(sides)
        )
        found[value] = ((x, y, z), n)
    return found


def opposite_sides(places: Sequence[Place], labels: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, str], ...]:
    """Return pairs of labels that lie on opposite sides in each case, are of like size, and whose names do not tell sides.

    Two sides of a structure, such as both kidneys, lie beside each other: mirroring would exchange them.
    """
    single = {values[0]: name for name, values in labels.items() if len(values) == 1}
    sides = find_sides(list(labels))
    if sides.pairs or sides.obstacle:
        return ()
    pairs = []
    for a, b in combinations(single, 2):
        both = [(p.of_values[a], p.of_values[b]) for p in places if a in p.of_values and b in p.of_values]
        if len(both) < MIN_OF_SIDES:
            continue
        steps = np.array([np.subtract(one[0], other[0]) for one, other in both])
        ratio = np.median([one[1] / other[1] for one, other in both])
        is_beside = (steps[:, 0] > 0).all() or (steps[:, 0] < 0).all()
        x, y, z = np.median(np.abs(steps), axis=0)
        if is_beside and x >= MIN_APART and max(y, z) <= MAX_ASKEW and 1 / ALIKE <= ratio <= ALIKE:
            right_first = steps[0, 0] > 0
            pairs.append((single[a], single[b]) if right_first else (single[b], single[a]))
    return tuple(pairs)


def do_places_vary(places: Sequence[Place]) -> bool:
    """Return whether labels lie at other places in each case, as lesions do."""
    if len(places) < MIN_CASES:
        return False
    deviation = np.std([p.centre for p in places], axis=0)
    extent = np.median([p.extent for p in places], axis=0)
    return int(((deviation >= MIN_OF_LABELS * extent) & (deviation >= MIN_OF_SCAN)).sum()) >= MIN_AXES
