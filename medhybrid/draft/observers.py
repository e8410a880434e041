"""Masks of one label by several observers, by the overlap of masks that should be of different labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import DataError

ALIKE = ((0.6, 0.05), (0.9, 0.01), (0.98, 0.0))
"""Least Dice of two masks of the same label, with the least share of the smaller one that is outside the other, unlike in
nested labels."""


def masks_alike(masks: Mapping[str, NDArray[np.bool_]]) -> dict[tuple[str, str], float]:
    """Return the Dice of each two masks that may be of the same label: they differ little, and none is in the other."""
    found = {}
    for (a, one), (b, other) in combinations(masks.items(), 2):
        if one.shape != other.shape:
            continue
        volumes, common = (int(one.sum()), int(other.sum())), int((one & other).sum())
        dice, outside = 2 * common / sum(volumes), 1 - common / min(volumes)
        if any(dice >= least and outside >= share for least, share in ALIKE):
            found[a, b] = dice
    return found


def refuse_observers(alike: Sequence[Mapping[tuple[str, str], float]]) -> None:
    """Raise `DataError` if two masks are alike in each of some cases."""
    if pairs := [p for p in alike[0] if all(p in of_case for of_case in alike)] if alike else []:
        (a, b), dice = pairs[0], min(of_case[pairs[0]] for of_case in alike)
        raise DataError(
            "masks with a file for each label have the same label twice",
            expected="masks of different labels",
            found=f"{a} and {b} are nearly the same (Dice {dice:.2f}), as the masks of two observers",
            remedy="list the masks of one observer, or of a consensus, in a table cases.csv with the columns case, mask and "
            "one per channel",
        )
