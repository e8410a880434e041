"""Cohen's kappa, by worked examples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.metrics.agreement import cohen_kappa


def test_a_worked_example() -> None:
    # 50 grant proposals: both yes 20, both no 15, first alone 5, second alone 10; kappa (0.7 - 0.5) / 0.5
    answers = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    kappa = cohen_kappa(answers)
    assert kappa.value == pytest.approx(0.4)
    assert kappa.agreed == 0.7
    assert kappa.low < 0.4 < kappa.high


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=30))
def test_equal_answers_are_complete_agreement(answers: list[str]) -> None:
    kappa = cohen_kappa([(a, a) for a in answers])
    assert math.isnan(kappa.value) if len(set(answers)) == 1 else kappa.value == pytest.approx(1)
    assert kappa.agreed == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_the_order_of_the_observers_is_of_no_effect(answers: list[tuple[str, str]]) -> None:
    one, other = cohen_kappa(answers).value, cohen_kappa([(b, a) for a, b in answers]).value
    assert one == pytest.approx(other, nan_ok=True)
