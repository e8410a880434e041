"""Means with confidence intervals, and differences paired by case: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between two results, paired by case.

    Attributes
    ----------
    interval : Interval
        Mean difference, with its interval.
    p : float
        p-value of Wilcoxon's signed-rank test, two-sided; 1 if no case differs.
    n_better, n_worse : int
        Number of cases with a positive and with a negative difference.
    """

    interval: Interval
    p: float
    n_better: int
    n_worse: int

    @property
    def is_shown(self) -> bool:
        """Return whether the difference is significant: by the test, and by an interval that excludes 0.

        Both are needed: with few cases, the interval alone excludes 0 too easily.
        """
        return self.p < 1 - LEVEL and not self.interval.low <= 0 <= self.interval.high


def mean_interval(values: Sequence[float] | NDArray[np.floating], *, seed: int = 0) -> Interval:
    """Compute the mean over cases, with its percentile bootstrap interval.

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
    """Compute the difference (ours - theirs), paired by case.

    Raises
    ------
    ValueError
        If the numbers of cases differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"a paired difference needs the same cases; found {len(ours)} and {len(theirs)}")
    from scipy.stats import wilcoxon  # imported here: it takes a second, and a prediction does not need it

    gaps = np.asarray(ours, float) - np.asarray(theirs, float)
    p = float(wilcoxon(gaps).pvalue) if gaps.any() else 1.0
    return Difference(mean_interval(gaps), p, int((gaps > 0).sum()), int((gaps < 0).sum()))
