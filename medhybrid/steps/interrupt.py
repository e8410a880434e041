"""Ctrl-C and SIGTERM as a question that a loop asks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_asked: list[threading.Event] = []
"""Of the loops that ask now, the outermost first."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks the loop to stop after its step; a second one acts at once.

    Loops within loops are all asked: one that is past its last step when the signal comes ends as it would, and the outer
    one, which trains one network after the other, begins no other.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before: dict[int, Any] = {}

    def ask(number: int, _: Any) -> None:
        for event in _asked:
            event.set()
        signal.signal(number, before[number])

    is_outermost = not _asked
    if not is_outermost and _asked[-1].is_set():
        asked.set()
    _asked.append(asked)
    try:
        for number in (signal.SIGINT, signal.SIGTERM) if is_outermost else ():
            before[number] = signal.getsignal(number)
            signal.signal(number, ask)
        yield asked.is_set
    finally:
        _asked.remove(asked)
        for caught, handler in before.items():
            signal.signal(caught, handler)


def end_on_sigterm() -> None:
    """SIGTERM, which schedulers send before they kill, ends the process as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
