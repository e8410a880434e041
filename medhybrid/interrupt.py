"""Handling of Ctrl-C and SIGTERM in loops and processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_asked: list[threading.Event] = []
"""Events of the active loops, the outermost first."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the loop should stop after its step, since Ctrl-C or SIGTERM was received.

    A second signal acts at once. The signal reaches all nested loops: if the inner loop has passed its last step, the outer
    loop, which trains one network after the other, starts no further one.
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
    """Let SIGTERM, which schedulers send before they kill a process, act as Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
