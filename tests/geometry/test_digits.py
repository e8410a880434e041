"""Numbers that differ are printed so that the difference is seen."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.geometry import format_apart


@given(a=st.floats(0.01, 1000), steps=st.integers(1, 1000))
def test_numbers_that_differ_never_look_alike(a: float, steps: int) -> None:
    b = a
    for _ in range(steps):
        b = float(np.nextafter(b, 2000))

    first, second = format_apart([1.0, a], [1.0, b])

    assert first != second


def test_no_more_digits_than_it_takes() -> None:
    assert format_apart([0.9, 2.5], [0.9, 2.51]) == ("0.9 x 2.5", "0.9 x 2.51")
    assert format_apart([1.0], [1.0000001]) == ("1", "1.0000001")
