"""Intervals and paired differences, compared with simple cases and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from medhybrid.metrics import mean_interval, paired_difference


def test_the_interval_agrees_with_scipys_percentile_bootstrap(rng: np.random.Generator) -> None:
    values = rng.beta(8, 2, 44)

    ours = mean_interval(values)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval

    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_a_small_gain_on_every_case_is_significant(rng: np.random.Generator) -> None:
    base = rng.beta(8, 2, 44)

    gain = paired_difference(base + 0.01 + rng.normal(0, 0.002, 44), base)
    nothing = paired_difference(base, base)

    assert gain.interval.low > 0.008
    assert gain.p < 1e-6
    assert gain.n_better == 44
    assert (nothing.p, nothing.n_better, nothing.n_worse) == (1.0, 0, 0)


def test_different_numbers_of_cases_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="found 3 and 2"):
        paired_difference([1, 2, 3], [1, 2])
