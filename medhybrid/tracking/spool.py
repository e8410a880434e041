"""Events on their way to a server: sent by a thread, kept on disk while they cannot be sent, sent later.

Training hands an event over and goes on. The thread sends in order; while the server is away it waits, and what is still
unsent when the run ends stays in a file from which the next run, or the same one resumed, sends it first.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Event = dict[str, Any]

RETRY_S = (1.0, 5.0, 15.0)
"""Pauses between attempts; the last one repeats."""

MAX_REFUSALS = 3
"""Attempts after which an event is left out, if the server answers otherwise."""


class NotYetError(Exception):
    """Raised by a sender whose turn has not come: the event is tried again, however often."""


class Spool:
    """A queue with a sender.

    Parameters
    ----------
    send : callable
        Sends one event, or raises.
    unsent : Path
        JSON-lines file of events that could not be sent.
    is_alive : callable
        Whether the server answers: an event that it refuses again and again is set aside, so that the others pass.
    """

    def __init__(
        self, send: Callable[[Event], None], unsent: Path, *, is_alive: Callable[[], bool] = lambda: False
    ) -> None:
        self._send, self.unsent, self._is_alive = send, unsent, is_alive
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._pending: Event | None = None
        self._closing = threading.Event()
        self._has_warned = False
        for event in self._load_unsent():
            self._queue.put(event)
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand an event over."""
        self._queue.put(event)

    def close(self, timeout_s: float) -> int:
        """Send what is left, for at most `timeout_s`; keep the rest on disk. Returns the number kept."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._closing.set()
        self._thread.join(1.0)
        kept = [self._pending] if self._pending is not None else []
        while True:
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                break
            kept += [event] if event is not None else []
        self._keep([e for e in kept if e is not None])
        return len(kept)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            self._pending = event
            attempt = 0
            while (outcome := self._try(event)) != "done":
                if outcome == "failed" and attempt + 1 >= MAX_REFUSALS and self._is_alive():
                    logger.warning("tracking: the store refuses an event of kind %s; it is left out", event.get("call"))
                    break
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                attempt += 1
                if self._closing.wait(pause):
                    return
            self._pending = None

    def _try(self, event: Event) -> Literal["done", "failed", "not yet"]:
        try:
            self._send(event)
        except NotYetError:
            return "not yet"
        except FileNotFoundError as error:  # a picture or table that is gone cannot be sent later either
            logger.warning("tracking: dropped an event whose file is gone: %s", error)
        except Exception as error:  # a tracking failure must never stop a training
            if not self._has_warned:
                logger.warning("tracking: cannot send (%s); events are kept and sent later", type(error).__name__)
            logger.debug("tracking failure", exc_info=error)
            self._has_warned = True
            return "failed"
        return "done"

    def _load_unsent(self) -> list[Event]:
        if not self.unsent.exists():
            return []
        events: list[Event] = []
        try:
            lines = self.unsent.read_text().splitlines()
            self.unsent.unlink()
        except OSError as error:
            logger.warning("tracking: %s cannot be read: %s", self.unsent, error.strerror)
            return events
        for line in lines:
            with suppress(ValueError):  # a kill may have cut the last one off
                events.append(json.loads(line))
        return events

    def _keep(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self.unsent.parent.mkdir(parents=True, exist_ok=True)
            with self.unsent.open("a") as file:
                for event in events:
                    file.write(json.dumps(event) + "\n")
        except OSError as error:
            logger.warning("tracking: %d events are lost: %s", len(events), error.strerror)
            return
        logger.warning("tracking: %d events are kept in %s and sent with the next run", len(events), self.unsent)


def now_ms() -> int:
    """Time stamp of an event, so that one sent later keeps its time."""
    return int(time.time() * 1000)
