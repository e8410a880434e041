"""Choice of component rules by their measured effect on the masks of validation cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from medhybrid.inference.postprocess import apply_component_rules
from medhybrid.metrics import Interval, dice, mean_interval

NO_GAIN = Interval(0.0, 0.0, 0.0)
VOLUMES_ML = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Values of `min_component_ml` that are tried."""

MIN_CASES = 6
"""Least number of cases: with fewer, no paired test is significant, and the interval of a single case has no width."""


@dataclass(frozen=True, slots=True)
class JudgedCase:
    """Validation case: prediction without rules, and reference, both (X, Y, Z) with class indices.

    Several predictions with the same `name` belong to one case, which counts once. Without a name, each is a case.
    """

    prediction: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    voxel_ml: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class ComponentRules:
    """Component rules, and their gain in mean Dice over no rules, paired by case."""

    keep_largest: tuple[str, ...] = ()
    min_component_ml: float = 0.0
    gain: Interval = NO_GAIN


def choose_rules(cases: Sequence[JudgedCase], names: Sequence[str]) -> ComponentRules:
    """Return the rules with the largest mean gain among those whose whole interval of the gain is above 0.

    If no rules have such a gain, or with fewer than `MIN_CASES` cases, the result has no rules.

    Parameters
    ----------
    names : sequence of str
        Labels; `names[i]` has value i + 1.
    """
    names_of_cases = np.array([c.name or f"/{i}" for i, c in enumerate(cases)])
    of_case = [names_of_cases == name for name in dict.fromkeys(names_of_cases)]
    if len(of_case) < MIN_CASES:
        return ComponentRules()
    base = np.array([_mean_dice(c.prediction, c.reference, len(names)) for c in cases])
    best = ComponentRules()
    subsets = chain.from_iterable(combinations(names, n) for n in range(min(len(names), 3) + 1))
    for keep in subsets:
        for volume in VOLUMES_ML:
            if not keep and not volume:
                continue
            gains = _with_rules(cases, names, keep, volume) - base
            gain = mean_interval([float(gains[same].mean()) for same in of_case])
            if gain.low > 0 and gain.mean > best.gain.mean:
                best = ComponentRules(keep, volume, gain)
    return best


def _with_rules(
    cases: Sequence[JudgedCase], names: Sequence[str], keep: tuple[str, ...], volume: float
) -> NDArray[np.float64]:
    values = []
    for c in cases:
        cleaned = apply_component_rules(
            c.prediction, names=names, keep_largest=keep, min_component_ml=volume, voxel_ml=c.voxel_ml
        )
        values.append(_mean_dice(cleaned, c.reference, len(names)))
    return np.array(values)


def _mean_dice(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], n_labels: int) -> float:
    """Return the mean Dice over the labels that are in either mask; 1 if both masks are empty."""
    pairs = [(prediction == v, reference == v) for v in range(1, n_labels + 1)]
    held = [dice(p, r) for p, r in pairs if p.any() or r.any()]
    return float(np.mean(held)) if held else 1.0
