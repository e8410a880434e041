"""The pipeline of reading, computing and writing gives the results of sequential work."""

from __future__ import annotations

import threading
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.inference.stages import in_stages
from tests.patience import patience_s


@given(items=st.lists(st.integers(), max_size=12), at_once=st.booleans())
def test_every_result_comes_once_and_in_order(items: list[int], at_once: bool) -> None:
    results = in_stages(items, lambda x: [x], lambda x: [*x, "computed"], lambda x: tuple(x), at_once=at_once)

    assert list(results) == [(x, "computed") for x in items]


def test_reading_and_writing_overlap_with_computing() -> None:
    events: list[str] = []
    reads, writes = (threading.Event() for _ in range(2))

    def read(x: int) -> int:
        events.append(f"read {x}")
        if x == 2:
            reads.set()
        return x

    def compute(x: int) -> int:
        if x == 1:
            assert reads.wait(patience_s())  # the third is read before the second is computed
            assert writes.wait(patience_s())  # and the first written
        return x

    def write(x: int) -> int:
        writes.set()
        return x

    assert list(in_stages([0, 1, 2, 3], read, compute, write, at_once=True)) == [0, 1, 2, 3]
    assert events == [f"read {x}" for x in range(4)]


class Scan:
    """Object whose release can be observed."""


@pytest.mark.parametrize(("at_once", "most"), [(False, 1), (True, 3)])
def test_at_most_three_items_are_in_memory(at_once: bool, most: int) -> None:
    alive: weakref.WeakSet[Scan] = weakref.WeakSet()
    counts: list[int] = []

    def read(_: int) -> Scan:
        scan = Scan()
        alive.add(scan)
        counts.append(len(alive))
        return scan

    def compute(scan: Scan) -> Scan:
        time.sleep(0.002)  # reading is the fastest stage: without a limit it would run ahead
        return scan

    def write(scan: Scan) -> int:
        time.sleep(0.005)  # writing is the slowest stage: without a limit, items would accumulate before it
        return len(alive)

    counts += in_stages(range(10), read, compute, write, at_once=at_once)

    assert max(counts) <= most
    assert not alive


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
