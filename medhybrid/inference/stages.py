"""Three stages of work on each of many items: one is read, one computed, one written at the same time."""

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
    """Results in the order of the items; at most three of these are in memory.

    Parameters
    ----------
    read, compute, write : callable
        `compute` runs in the caller's thread. An error of any ends the work, after what is being read or written.
    at_once : bool
        Read and write in threads of their own, which pays where computing leaves the processor free. Otherwise one after the
        other.
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
