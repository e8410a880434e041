"""Waiting for conditions, with a timeout that grows with the load of the host.

A busy host must not fail a test. The timeout is long, is counted in seconds of an idle host, and is reached only if the code
is broken.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 240.0
"""Longest wait for a condition, in seconds of an idle host."""

REFERENCE_S = 0.005
"""Seconds that `work` takes on an idle core of the slowest supported host."""


def work() -> int:
    """Compute for about as long as `REFERENCE_S`."""
    return sum(n * n for n in range(50_000))


def slowness() -> float:
    """Return the present slowdown of this host compared with an idle one; at least 1."""
    start = time.perf_counter()
    work()
    return max(1.0, (time.perf_counter() - start) / REFERENCE_S)


def patience_s() -> float:
    """Return the timeout in seconds for one call that cannot be polled."""
    return PATIENCE_S * statistics.median(slowness() for _ in range(5))


def wait_until(
    condition: Callable[[], Any],
    describe: str,
    *,
    process: subprocess.Popen[Any] | None = None,
    found: Callable[[], object] | None = None,
    every_s: float = 0.05,
) -> Any:
    """Wait until a condition is true and return its value.

    Parameters
    ----------
    describe : str
        Description of the condition, for the message.
    process : subprocess.Popen, optional
        The wait fails as soon as this process ends.
    found : callable, optional
        Returns the state after a failed wait, for the message.
    every_s : float
        Seconds between two checks.

    Raises
    ------
    AssertionError
        If the process ends, or the time is over.
    """
    waited_s = 0.0
    last = time.monotonic()
    while True:
        has_ended = (
            process is not None and process.poll() is not None
        )  # checked first: the process may fulfil the condition just before it ends
        if value := condition():
            return value
        if has_ended:
            raise AssertionError(f"{describe}: the process ended; {state_of(found)}")
        if waited_s > PATIENCE_S:
            raise AssertionError(f"{describe}: not true after {waited_s:.0f} s; {state_of(found)}")
        time.sleep(every_s)
        now = time.monotonic()
        waited_s += (now - last) / slowness()
        last = now


def state_of(found: Callable[[], object] | None) -> object:
    """Return the state after a failed wait."""
    return "state unknown" if found is None else found()
