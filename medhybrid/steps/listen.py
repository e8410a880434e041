"""`medhybrid listen`: prediction of studies that a PACS pushes; results are sent back.

SPOOL/incoming/<study>/     instances received so far
SPOOL/queued/.<study>/      taken from incoming, while it is compared with its earlier instances
SPOOL/queued/<study>/       complete: no new instance for `wait_s`; sent.json lists the results already sent
SPOOL/results/<study>/      masks, SEG and report
SPOOL/done/<study>/         results sent, recorded in done.json
SPOOL/failed/<study>/       failed, with reason.txt

A study moves between folders by one rename, so that after a restart each study is in exactly one state.
Names are hashes of the StudyInstanceUID.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from filecmp import cmp
from pathlib import Path

from medhybrid.config import ListenConfig
from medhybrid.errors import OF_MACHINE, MedHybridError, OutputError
from medhybrid.files import file_mode, held, read_mode, write_atomically
from medhybrid.inference.model import Segmenter
from medhybrid.owned import FolderKind, claim_folder, remove_tree
from medhybrid.scans.dicom.headers import read_header
from medhybrid.scans.pacs.exchange import PacsError, parse_endpoint, send_files
from medhybrid.scans.pacs.receive import Receiver
from medhybrid.steps.predict import predict
from medhybrid.steps.spool import STATES, State, folders, make_states, move

logger = logging.getLogger(__name__)

POLL_S = 0.2
SPOOL = FolderKind(
    "listen",
    {**dict.fromkeys(STATES, ("*",)), "results": ("*",)},
    lambda folder: all(_is_study(p) for state in (*STATES, "results") for p in (folder / state).glob("[!.]*")),
)
"""Spool folder of `listen`."""

RESEND_S = 15.0


class Listener:
    """Service that receives studies, predicts them one at a time and sends the results.

    Parameters
    ----------
    on_event : callable
        Called with (study, state) at each change.
    """

    def __init__(
        self, config: ListenConfig, model: Segmenter, *, on_event: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self.config, self.model, self._on_event = config, model, on_event
        if not model.is_calibrated:
            logger.warning("the confidence of this model is not calibrated: review every mask")
        self.target = parse_endpoint(config.send_to)
        self.spool = Path(config.spool)
        self._resend_at: dict[str, float] = {}
        self._still_since: dict[str, float] = {}
        with file_mode(read_mode(config.mode)):
            claim_folder(self.spool, SPOOL, remedy="choose another folder for `spool`")
            make_states(self.spool)
        self._receiver = Receiver(config, self.spool / "incoming", on_stored=self._touch)

    def run(self, stop: threading.Event) -> None:
        """Receive and process studies until `stop` is set.

        Raises
        ------
        PacsError
            If the address cannot be bound.
        OutputError
            If another listener uses the spool.
        """
        with file_mode(read_mode(self.config.mode)), held(self.spool / ".listen.lock", wait=False) as is_ours:
            if not is_ours:
                raise OutputError(
                    f"another listener uses {self.spool}",
                    expected="one listener for each spool",
                    remedy="stop the other one, or choose another folder for `spool`",
                )
            self._receiver.start()
            try:
                while not stop.wait(POLL_S):
                    self.queue_complete()
                    self.work()
            finally:
                self._receiver.stop()

    def queue_complete(self) -> None:
        """Move studies to the queue that received no instance for `wait_s`."""
        queued = self.spool / "queued"
        for taken in sorted(p for p in queued.glob(".*") if p.is_dir()):  # left by an error or an earlier start
            if time.monotonic() >= self._resend_at.get(taken.name[1:], 0.0):
                self._try_to_queue(taken)
        for study in folders(self.spool / "incoming"):
            taken = queued / f".{study.name}"
            if (queued / study.name).exists() or taken.exists():
                continue  # its earlier instances are being processed
            # a monotonic clock cannot be set back; the wait restarts with each instance and each start of the listener
            since = self._still_since.setdefault(study.name, time.monotonic())
            if time.monotonic() - since < self.config.wait_s:
                continue
            self._try_to_queue(taken, study)

    def _try_to_queue(self, taken: Path, study: Path | None = None) -> None:
        """Queue a study, or remove it if it is unchanged; after an error it waits, so that it does not stop the service."""
        name = taken.name[1:]
        try:
            if study is not None:  # moved away first: instances that arrive now begin a new folder
                study.rename(taken)
            if self._is_unchanged(taken, name):
                remove_tree(taken, owner=self.spool)
                state = "unchanged"
            else:
                self._take_earlier_instances(taken, name)
                taken.rename(self.spool / "queued" / name)
                state = "queued"
        except (OSError, OutputError) as error:
            self._wait_for_room(self.spool / "queued" / name, error)
            return
        self._on_event(name, state)
        self._still_since.pop(name, None)

    def work(self) -> None:
        """Predict queued studies and send their results."""
        for study in folders(self.spool / "queued"):
            if time.monotonic() < self._resend_at.get(study.name, 0.0):
                continue
            try:
                self._predict_and_send(study)
            except (
                PacsError,
                OutputError,
            ) as error:  # the destination is unavailable, or the disk is full: the study waits
                self._wait_for_room(study, error)
            except MedHybridError as error:
                self._set_aside(study, str(error))
            except Exception as error:  # one study must not stop the service
                if isinstance(error, OSError) and error.errno in OF_MACHINE:
                    self._wait_for_room(study, error)
                    continue
                logger.debug("study %s", study.name[:8], exc_info=error)
                self._set_aside(study, f"unexpected {type(error).__name__}")

    def _wait_for_room(self, study: Path, error: Exception) -> None:
        """Delay a study, for an error that is not caused by the study."""
        logger.warning("study %s is delayed: %s", study.name[:8], error)
        self._resend_at[study.name] = time.monotonic() + RESEND_S
        self._still_since[study.name] = time.monotonic()

    def _is_unchanged(self, study: Path, name: str) -> bool:
        """Return whether a study was received again, after its results were sent, without a new scan.

        A PACS that forwards each new instance returns the results, too. To predict and send them again would not end.
        """
        done = self.spool / "done" / name
        files = [p for p in study.iterdir() if p.suffix == ".dcm" and not p.name.startswith(".")]
        return bool(files) and done.is_dir() and all(_is_copy(p, done / p.name) or _is_no_scan(p) for p in files)

    def _predict_and_send(self, study: Path) -> None:
        results = self.spool / "results" / study.name
        outcome = predict(study, model=self.model, out=results)
        failures = [p.message for p in outcome.predictions if p.status == "failed"]
        if outcome.n_done == 0:
            self._set_aside(study, "; ".join(failures) or "the study has no scan that the model can use")
            return
        files = [p for kind in ("seg", "sr") for p in sorted((results / kind).glob("*.dcm"))]
        if not files:
            reasons = [p.message for p in outcome.predictions if p.message]
            self._set_aside(study, "; ".join(reasons) or "no DICOM output to send")
            return
        sent_file = study / "sent.json"
        sent = set(json.loads(sent_file.read_text())) if sent_file.exists() else set()
        for path in files:
            # SEG and report of a scan have the same file name
            if path.name + path.parent.name not in sent:
                send_files(self.target, [path])
                sent.add(path.name + path.parent.name)
                write_atomically(sent_file, json.dumps(sorted(sent)))
        write_atomically(study / "done.json", json.dumps({"n_sent": len(files), "failures": failures}, indent=1))
        self._move(study, "done")

    def _take_earlier_instances(self, study: Path, name: str) -> None:
        """Add the earlier instances of a study to its late ones, so that the whole study is predicted again."""
        for state in ("done", "failed"):
            earlier = self.spool / state / name
            if earlier.exists():
                for path in earlier.glob("*.dcm"):
                    if not (study / path.name).exists():
                        path.replace(study / path.name)
                remove_tree(earlier, owner=self.spool)
                remove_tree(self.spool / "results" / name, owner=self.spool)

    def _set_aside(self, study: Path, reason: str) -> None:
        try:
            write_atomically(study / "reason.txt", reason + "\n")
            self._move(study, "failed")
        except OSError as error:  # the disk is full: the study is tried again later
            self._wait_for_room(study, error)

    def _move(self, study: Path, state: State) -> None:
        move(study, self.spool, state)
        self._on_event(study.name, state)

    def _touch(self, study: Path) -> None:
        # Do not create the folder: if the study was moved to the queue meanwhile, a file would block the next instances.
        self._still_since[study.name] = time.monotonic()
        with suppress(FileNotFoundError):
            os.utime(study)


def _is_copy(path: Path, other: Path) -> bool:
    return other.is_file() and cmp(path, other, shallow=False)


def _is_no_scan(path: Path) -> bool:
    """Return whether an instance is a segmentation, report or other object from which nothing is predicted."""
    header = read_header(path)
    return header is not None and bool(header.skip_reason)


def _is_study(path: Path) -> bool:
    """Return whether the name of a folder is a hash of a StudyInstanceUID."""
    return path.is_dir() and re.fullmatch(r"[0-9a-f]{32}", path.name) is not None


def listen(config: ListenConfig, model: Segmenter, *, on_event: Callable[[str, str], None] = lambda *_: None) -> None:
    """Run a `Listener` until interrupted."""
    stop = threading.Event()
    try:
        Listener(config, model, on_event=on_event).run(stop)
    except KeyboardInterrupt:
        stop.set()
