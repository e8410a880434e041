"""Unlabelled scans are ranked by uncertainty and by their distance to the scans ranked before them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medhybrid.review.label_order import label_order


def test_a_less_uncertain_scan_of_another_kind_comes_before_a_second_one_of_the_same_kind() -> None:
    uncertainty = np.array([0.9, 0.85, 0.4])
    features = np.array([[0.0, 0], [0.01, 0], [5, 5]])

    order, distances = label_order(uncertainty, features)

    assert order == [0, 2, 1]
    assert distances[1] > 100 * distances[2] > 0


def test_without_features_the_most_uncertain_is_first() -> None:
    order, distances = label_order(np.array([0.1, 0.5, 0.3]), np.zeros((3, 0)))

    assert order == [1, 2, 0]
    assert distances[1:] == [0, 0]


NUMBERS = st.floats(-100, 100)


@given(
    st.integers(0, 8).flatmap(
        lambda n: st.tuples(arrays(float, n, elements=st.floats(0, 1)), arrays(float, (n, 3), elements=NUMBERS))
    )
)
def test_every_scan_is_ranked_once_and_units_of_features_do_not_count(case: tuple[np.ndarray, np.ndarray]) -> None:
    uncertainty, features = case

    order, distances = label_order(uncertainty, features)
    scaled, _ = label_order(uncertainty, features * 8)

    assert sorted(order) == list(range(len(uncertainty)))
    assert len(distances) == len(order)
    assert scaled == order
    if len(order):
        assert uncertainty[order[0]] == uncertainty.max()
