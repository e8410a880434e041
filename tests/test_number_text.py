"""Numbers in messages: different numbers have different texts."""

import math

from hypothesis import given
from hypothesis import strategies as st

from medhybrid.number_text import format_apart, format_vectors_apart

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(FINITE, min_size=1, max_size=5))
def test_different_numbers_have_different_texts(values: list[float]) -> None:
    texts = format_apart(values)

    assert len(set(texts)) == len({float(v) for v in values})
    assert all(math.isclose(float(t), v, rel_tol=1e-2, abs_tol=1e-3) for t, v in zip(texts, values, strict=True))


def test_numbers_have_only_the_digits_needed_to_differ() -> None:
    assert format_apart([1, 2.5]) == ["1.000", "2.500"]
    assert format_apart([0.9765625, 0.976563]) == ["0.976562", "0.976563"]
    assert format_apart([0.00004]) == ["0.00004"]
    assert format_apart([14.0, 14.0], decimals=2) == ["14.00", "14.00"]


def test_components_of_vectors_have_enough_digits_to_differ() -> None:
    assert format_vectors_apart([(1, 0.97656), (1, 0.97657)], joint=" x ") == ["1.000 x 0.97656", "1.000 x 0.97657"]
