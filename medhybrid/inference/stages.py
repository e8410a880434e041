"""Pipeline of three stages: one item is read, one is computed and one is written at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


def in_stages(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Result],
    *,
    at_once: bool,
) -> Iterator[Result]:
    """Yield results in the order of the items, with at most three items in memory.

    Parameters
    ----------
    read, compute, write : callable
        `compute` runs in the caller's thread. An error in any of them ends the work, after the items that are being read or
        written.
    at_once : bool
        Read and write in separate threads, which is faster if the computation leaves the CPU free. Otherwise the stages run one
        after the other.
    """
    if not at_once:
        for item in items:
            yield write(compute(read(item)))
        return
    with ThreadPoolExecutor(1, "read") as before, ThreadPoolExecutor(1, "write") as after:
        reading: list[Future[Read]] = [before.submit(read, item) for item in items[:1]]
        writing: list[Future[Result]] = []
        for n in range(len(items)):
            ready = reading.pop().result()
            reading += [before.submit(read, item) for item in items[n + 1 : n + 2]]
            computed = compute(ready)
            del ready
            if writing:
                yield writing.pop().result()
            writing.append(after.submit(write, computed))
        if writing:
            yield writing.pop().result()
