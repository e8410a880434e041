"""What is read, computed and written at the same time comes out as if it were done one after the other."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.inference.stages import in_stages


@given(items=st.lists(st.integers(), max_size=12), at_once=st.booleans())
def test_every_result_comes_once_and_in_order(items: list[int], at_once: bool) -> None:
    results = in_stages(items, lambda x: [x], lambda x: [*x, "computed"], lambda x: tuple(x), at_once=at_once)

    assert list(results) == [(x, "computed") for x in items]


def test_the_next_is_read_and_the_last_written_while_one_is_computed() -> None:
    events: list[str] = []
    reads, writes = (threading.Event() for _ in range(2))

    def read(x: int) -> int:
        events.append(f"read {x}")
        if x == 2:
            reads.set()
        return x

    def compute(x: int) -> int:
        if x == 1:
            assert reads.wait(10)  # the third is read before the second is computed
            assert writes.wait(10)  # and the first written
        return x

    def write(x: int) -> int:
        writes.set()
        return x

    assert list(in_stages([0, 1, 2, 3], read, compute, write, at_once=True)) == [0, 1, 2, 3]
    assert events == [f"read {x}" for x in range(4)]


@pytest.mark.parametrize(("at_once", "most"), [(False, 1), (True, 3)])
def test_no_more_than_three_are_in_memory(at_once: bool, most: int) -> None:
    alive, peak, lock = 0, 0, threading.Lock()

    def change(n: int) -> None:
        nonlocal alive, peak
        with lock:
            alive += n
            peak = max(peak, alive)

    def read(x: int) -> int:
        change(1)
        return x

    def write(x: int) -> int:
        time.sleep(0.005)  # the slowest: what is before it would pile up
        change(-1)
        return x

    assert list(in_stages(range(10), read, lambda x: x, write, at_once=at_once)) == list(range(10))
    assert peak <= most


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_an_error_of_a_stage_is_raised(stage: str, at_once: bool) -> None:
    def run(name: str, x: int) -> int:
        if name == stage and x == 2:
            raise RuntimeError(name)
        return x

    steps = [lambda x, name=name: run(name, x) for name in ("read", "compute", "write")]
    with pytest.raises(RuntimeError, match=stage):
        list(in_stages([0, 1, 2, 3], *steps, at_once=at_once))
