"""Waiting for conditions, with a patience that grows with the slowness of the machine.

A busy machine is not a defect. The bound is generous, counted in seconds of an idle machine, and reached only where something
is broken.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 240.0
"""Longest wait for a condition, in seconds of an idle machine."""

REFERENCE_S = 0.005
"""Time that `work` takes on an idle core of the slowest machine that the tests are meant for."""


def work() -> int:
    """Compute for about as long as `REFERENCE_S`."""
    return sum(n * n for n in range(50_000))


def slowness() -> float:
    """Return how many times slower than an idle machine this one is now; at least 1."""
    start = time.perf_counter()
    work()
    return max(1.0, (time.perf_counter() - start) / REFERENCE_S)


def patience_s() -> float:
    """Return seconds for one call that has a timeout and cannot be waited for in steps."""
    return PATIENCE_S * statistics.median(slowness() for _ in range(5))


def wait_until(
    condition: Callable[[], Any],
    describe: str,
    *,
    process: subprocess.Popen[Any] | None = None,
    found: Callable[[], object] | None = None,
    every_s: float = 0.05,
) -> Any:
    """Return the condition's value as soon as it is true.

    Parameters
    ----------
    describe : str
        What is waited for, for the message.
    process : subprocess.Popen, optional
        Without this process the wait is in vain.
    found : callable, optional
        State at the end of a wait in vain, for the message.
    every_s : float
        Pause between two looks.

    Raises
    ------
    AssertionError
        If the process ended, or the patience did.
    """
    waited_s = 0.0
    last = time.monotonic()
    while True:
        has_ended = process is not None and process.poll() is not None  # before the condition: its last deed counts
        if value := condition():
            return value
        if has_ended:
            raise AssertionError(f"{describe}: the process ended; {state_of(found)}")
        if waited_s > PATIENCE_S:
            raise AssertionError(f"{describe}: not so after {waited_s:.0f} s; {state_of(found)}")
        time.sleep(every_s)
        now = time.monotonic()
        waited_s += (now - last) / slowness()
        last = now


def state_of(found: Callable[[], object] | None) -> object:
    """Return the state at the end of a wait in vain."""
    return "no more is known" if found is None else found()
