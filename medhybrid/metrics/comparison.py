"""Means with intervals, and differences paired by case: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one is than another, paired by case.

    Attributes
    ----------
    interval : Interval
        Of the mean difference.
    p : float
        Of Wilcoxon's signed-rank test, two-sided; 1 where nothing differs.
    n_better, n_worse : int
        Cases.
    """

    interval: Interval
    p: float
    n_better: int
    n_worse: int

    @property
    def is_shown(self) -> bool:
        """Whether interval and test agree that there is one: few cases show nothing, however alike they are."""
        return self.p < 1 - LEVEL and not self.interval.low <= 0 <= self.interval.high


def mean_interval(values: Sequence[float] | NDArray[np.floating], *, seed: int = 0) -> Interval:
    """Mean of the cases and its percentile bootstrap interval.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    values = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(0, len(values), (N_RESAMPLES, len(values)))
    means = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Ours less theirs, case by case.

    Raises
    ------
    ValueError
        If the numbers of cases differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} cases against {len(theirs)}")
    from scipy.stats import wilcoxon  # a second of import that a prediction does not need

    gaps = np.asarray(ours, float) - np.asarray(theirs, float)
    p = float(wilcoxon(gaps).pvalue) if gaps.any() else 1.0
    return Difference(mean_interval(gaps), p, int((gaps > 0).sum()), int((gaps < 0).sum()))
