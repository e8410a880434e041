"""Choice of component rules by their measured effect on the masks of validation cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.inference.postprocess import apply_component_rules
from medhybrid.metrics import Interval, dice, mean_interval

NO_GAIN = Interval(0.0, 0.0, 0.0)
VOLUMES_ML = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Values of `min_component_ml` that are tried."""

MIN_CASES = 6
"""Least number of cases: with fewer, no paired test is significant, and the interval of a single case has no width."""

MOST_TOGETHER = 3
"""Largest number of structures of which only the largest component is kept together."""

FEW = 8
"""With more structures, they are tried one by one: the number of combinations would be too large."""


@dataclass(frozen=True, slots=True)
class JudgedCase:
    """Validation case: prediction without rules, and reference, both (X, Y, Z) with class indices.

    Several predictions with the same `name` belong to one case, which counts once. Without a name, each is a case. The
    reference may have voxels of unknown label (`UNKNOWN`), which do not count.

    Attributes
    ----------
    annotated : tuple of str, optional
        Structures that the reference has; None for all of them. The others are not scored.
    """

    prediction: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    voxel_ml: float
    name: str = ""
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ComponentRules:
    """Component rules, and their gain in mean Dice over no rules, paired by case."""

    keep_largest: tuple[str, ...] = ()
    min_component_ml: float = 0.0
    gain: Interval = NO_GAIN


def choose_rules(cases: Sequence[JudgedCase], structures: Mapping[str, Sequence[int]]) -> ComponentRules:
    """Return the rules with the largest mean gain among those whose whole interval of the gain is above 0.

    If no rules have such a gain, or with fewer than `MIN_CASES` cases, the result has no rules.

    Parameters
    ----------
    structures : mapping
        Labels with their class index, or regions with those of all their classes.
    """
    names_of_cases = np.array([c.name or f"/{i}" for i, c in enumerate(cases)])
    of_case = [names_of_cases == name for name in dict.fromkeys(names_of_cases)]
    if len(of_case) < MIN_CASES:
        return ComponentRules()
    base = np.array([_mean_dice(c.prediction, c, structures) for c in cases])
    best = ComponentRules()
    most = min(len(structures), MOST_TOGETHER if len(structures) <= FEW else 1)
    subsets = chain.from_iterable(combinations(structures, n) for n in range(most + 1))
    for keep in subsets:
        for volume in VOLUMES_ML:
            if not keep and not volume:
                continue
            gains = _with_rules(cases, structures, keep, volume) - base
            gain = mean_interval([float(gains[same].mean()) for same in of_case])
            if gain.low > 0 and gain.mean > best.gain.mean:
                best = ComponentRules(keep, volume, gain)
    return best


def _with_rules(
    cases: Sequence[JudgedCase], structures: Mapping[str, Sequence[int]], keep: tuple[str, ...], volume: float
) -> NDArray[np.float64]:
    values = []
    for c in cases:
        cleaned = apply_component_rules(
            c.prediction, structures=structures, keep_largest=keep, min_component_ml=volume, voxel_ml=c.voxel_ml
        )
        values.append(_mean_dice(cleaned, c, structures))
    return np.array(values)


def _mean_dice(prediction: NDArray[np.uint8], case: JudgedCase, structures: Mapping[str, Sequence[int]]) -> float:
    """Return the mean Dice over the structures that are in either mask; 1 if both masks are empty."""
    prediction = np.where(case.reference == UNKNOWN, 0, prediction)
    pairs = [
        (np.isin(prediction, classes), np.isin(case.reference, classes))
        for name, classes in structures.items()
        if case.annotated is None or name in case.annotated
    ]
    held = [dice(p, r) for p, r in pairs if p.any() or r.any()]
    return float(np.mean(held)) if held else 1.0
