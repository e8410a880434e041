"""Processor time that other programs take, while the speed of this machine is measured."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

BUSY_CORES = 0.5
"""Cores that other programs use from which a measured speed is doubtful."""


class OtherLoad:
    """Cores that other programs use from the creation of this object on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._of_all, self._own = _busy_s(), _own_s()

    @property
    def cores(self) -> float:
        """Return the mean number of cores in use by others; 0 where the system does not report it."""
        seconds = time.monotonic() - self._began
        others = (_busy_s() - self._of_all) - (_own_s() - self._own)
        return max(0.0, others / seconds) if seconds > 0 else 0.0


def _busy_s() -> float:
    """Return the processor seconds of all programs since the start of the system."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def _own_s() -> float:
    """Return the processor seconds of this process and its children, also of ended ones."""
    own = psutil.Process()
    times = own.cpu_times()
    seconds = float(
        times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    )
    for child in own.children(recursive=True):
        with suppress(psutil.Error):
            of_child = child.cpu_times()
            seconds += of_child.user + of_child.system
    return seconds
