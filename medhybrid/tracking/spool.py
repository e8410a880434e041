"""Spool of tracking events: a thread sends them to the store, and unsent events are stored on disk and sent later.

The training adds an event to the queue and continues. The thread sends events in order and waits while the server does not
answer. Events that are unsent at the end stay in a file; the next call that resumes the run sends them first. An event that the
server refuses while it accepts others is stored there as well. Only events whose own file is gone are dropped.

In that file, paths within the run folder are relative to it, so that a moved or copied run folder sends its own files. Files
from elsewhere are copied into it: a stored event sends no other file, since the run folder may be somebody else's.
"""

from __future__ import annotations

import glob
import json
import logging
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Event = dict[str, Any]

COPIES = ".unsent-files"
"""Folder in the run folder with copies of files from elsewhere, whose events wait."""

RETRY_S = (1.0, 5.0, 15.0)
"""Seconds between attempts; the last value repeats."""

SENDING = ".sending"
"""Suffix of a file of events that are being sent; if the process dies, the next one sends them."""

MAX_REFUSALS = 3
"""Attempts after which an event is postponed to the next call, if the server accepts others."""

REFUSED = "refused"
"""Key of an event that an earlier call has postponed; it is tried once."""


class NotYetError(Exception):
    """Error of a sender that cannot send yet: the event is tried again, without a limit of attempts."""


class ClosedStoreError(Exception):
    """Error of a sender whose store accepts no event at all.

    Parameters
    ----------
    is_lasting : bool
        Whether it stays until a person acts; the end of a run does not wait for that.
    """

    def __init__(self, reason: str, *, is_lasting: bool) -> None:
        self.is_lasting = is_lasting
        super().__init__(reason)


class GoneFileError(Exception):
    """Error of a sender for an event whose file is gone."""


class Spool:
    """Queue of events with a sending thread.

    Parameters
    ----------
    send : callable
        Sends one event, or raises.
    unsent : Path
        JSON-lines file of events that could not be sent.
    is_alive : callable
        Returns whether the server accepts other events of the run. Then an event that fails repeatedly is postponed, so that
        it does not block the others.
    explain : callable
        Returns the reason of an error in one line, and whether it stays until a person acts.
    """

    def __init__(
        self,
        send: Callable[[Event], None],
        unsent: Path,
        *,
        is_alive: Callable[[], bool] = lambda: False,
        explain: Callable[[Exception], tuple[str, bool]] = lambda error: (repr(error), False),
    ) -> None:
        self._send, self.unsent, self._is_alive, self._explain = send, unsent, is_alive, explain
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._pending: Event | None = None
        self._refused: list[Event] = []
        self._ending = threading.Event()
        self._closing = threading.Event()
        self._reason = ""
        self._is_lasting = False
        self._warned: set[str] = set()
        self._sending: list[Path] = []
        loaded = self._load_unsent()
        self._n_loaded = len(loaded)
        for event in loaded:
            self._queue.put(event)
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Add an event to the queue."""
        self._queue.put(event)

    def close(self, timeout_s: float) -> int:
        """Send the remaining events for at most `timeout_s`, and store the rest on disk; return their number."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._closing.set()
        self._thread.join(1.0)
        kept = [*self._refused, *([self._pending] if self._pending is not None else [])]
        while True:
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                break
            kept += [event] if event is not None else []
        if self._keep([e for e in kept if e is not None]):
            self._remove_sent()
        return len(kept)

    def _remove_sent(self) -> None:
        """Remove the files of events of earlier calls, after these events are sent or stored again."""
        for path in self._sending:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._sending = []
        copies = self.unsent.parent / COPIES
        if not self.unsent.exists() and not copies.is_symlink():
            shutil.rmtree(copies, ignore_errors=True)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            self._pending = event
            attempt = 0
            while (outcome := self._try(event)) != "done":
                is_refused = outcome == "failed" and attempt + 1 >= (1 if REFUSED in event else MAX_REFUSALS)
                if is_refused and self._is_alive():
                    self._put_off(event)
                    break
                if self._is_lasting and self._ending.is_set() and (is_refused or outcome == "closed"):
                    return
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                attempt += 1
                if self._closing.is_set() or self._wait(pause):
                    return
            self._pending = None
            self._n_loaded -= 1
            if self._n_loaded == 0 and not self._refused:
                self._remove_sent()

    def _wait(self, pause_s: float) -> bool:
        """Wait for the next attempt; return whether the spool closes meanwhile.

        If only a person can fix the problem, the end of the run makes a last attempt at once instead of waiting.
        """
        if not self._is_lasting:
            return self._closing.wait(pause_s)
        self._ending.wait(pause_s)
        return self._closing.is_set()

    def _put_off(self, event: Event) -> None:
        """Postpone a refused event to the next call that resumes the run."""
        logger.warning(
            "tracking: the store refused an event of kind %s (%s); it is stored and tried again when the run is resumed",
            event.get("call"),
            self._reason,
        )
        self._refused.append(event | {REFUSED: True})

    def _try(self, event: Event) -> Literal["done", "failed", "closed", "not yet"]:
        try:
            self._send(event)
        except NotYetError:
            self._is_lasting = False
            return "not yet"
        except GoneFileError as error:  # it cannot be sent later either
            logger.warning("tracking: dropped an event whose file is gone: %s", error)
        except ClosedStoreError as error:
            self._warn(str(error), error)
            self._is_lasting = error.is_lasting
            return "closed"
        except Exception as error:  # a tracking failure must never stop a training
            reason, self._is_lasting = self._explain(error)
            self._warn(reason, error)
            return "failed"
        return "done"

    def _warn(self, reason: str, error: Exception) -> None:
        """Log a reason once."""
        self._reason = reason
        if reason not in self._warned:
            logger.warning("tracking: cannot send (%s); events are stored and sent later", reason)
        logger.debug("tracking failure", exc_info=error)
        self._warned.add(reason)

    def _load_unsent(self) -> list[Event]:
        """Read the events of earlier calls; their file is renamed and kept until they are sent."""
        events: list[Event] = []
        lines: list[str] = []
        pattern = f"{glob.escape(self.unsent.stem)}.*{SENDING}"
        try:
            if self.unsent.exists():
                self.unsent.replace(self.unsent.with_name(f"{self.unsent.stem}.{secrets.token_hex(4)}{SENDING}"))
            self._sending = sorted(self.unsent.parent.glob(pattern), key=lambda p: p.stat().st_mtime_ns)
            for path in self._sending:
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            logger.warning("tracking: %s cannot be read: %s", self.unsent, error.strerror)
            return events
        for line in lines:
            with suppress(ValueError):  # a kill may have truncated the last line
                event = json.loads(line)
                if isinstance(event, dict) and self._is_of_this_run(here := self._with_path_here(event)):
                    events.append(here)
        return events

    def _is_of_this_run(self, event: Event) -> bool:
        """Return whether the file or folder of a stored event lies in the run folder; the run may be somebody else's."""
        if not isinstance(event.get("path"), str):
            return "path" not in event
        folder, path = self.unsent.parent.resolve(), Path(event["path"])
        linked = (p.resolve() for p in path.rglob("*") if p.is_symlink()) if path.is_dir() else ()
        outside = [p for p in (path, *linked) if not p.is_relative_to(folder)]
        if outside:
            logger.warning("tracking: a stored event is not sent: %s is not in the run folder %s", outside[0], folder)
        return not outside

    def _with_path_here(self, event: Event) -> Event:
        """Return an event read from disk, with the current path of its file."""
        if not isinstance(event.get("path"), str):
            return event
        folder, path = self.unsent.parent, Path(event["path"])
        if path.is_absolute() and folder.name in path.parts:  # written by a version that stored absolute paths
            n = len(path.parts) - 1 - path.parts[::-1].index(folder.name)
            inside = folder.joinpath(*path.parts[n + 1 :])
            path = inside if inside.exists() else path
        return event | {"path": str((folder / path).resolve())}

    def _with_copy(self, event: Event) -> Event:
        """Return an event to store on disk, with a copy of its file where that lies outside the run folder."""
        if not isinstance(event.get("path"), str):
            return event
        path, folder = Path(event["path"]), self.unsent.parent.resolve()
        if path.is_relative_to(folder) or not path.is_file():
            return event
        copy = folder / COPIES / secrets.token_hex(8) / path.name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
        return event | {"path": str(copy)}

    def _with_relative_path(self, event: Event) -> Event:
        """Return an event to store on disk, with a path relative to the run folder, which may be moved."""
        folder = self.unsent.parent.resolve()
        if not isinstance(event.get("path"), str) or not Path(event["path"]).is_relative_to(folder):
            return event
        return event | {"path": str(Path(event["path"]).relative_to(folder))}

    def _keep(self, events: list[Event]) -> bool:
        """Store unsent events for the next call; return whether that succeeded."""
        if not events:
            return True
        try:
            self.unsent.parent.mkdir(parents=True, exist_ok=True)
            with self.unsent.open("a") as file:
                for event in events:
                    file.write(json.dumps(self._with_relative_path(self._with_copy(event))) + "\n")
        except OSError as error:
            logger.warning("tracking: %d events are lost: %s", len(events), error.strerror)
            return False
        logger.warning(
            "tracking: %d events are stored in %s and sent when the run is resumed", len(events), self.unsent
        )
        return True


def now_ms() -> int:
    """Return the time stamp of an event, in ms; events that are sent later keep it."""
    return int(time.time() * 1000)
