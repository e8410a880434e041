"""`medhybrid listen`: studies pushed by a PACS are predicted once they are complete, and the results sent back.

SPOOL/incoming/<study>/     instances as they arrive
SPOOL/queued/<study>/       complete: no new instance for `wait_s`; sent.json tells what was sent already
SPOOL/results/<study>/      masks, SEG and report
SPOOL/done/<study>/         sent, and recorded in done.json
SPOOL/failed/<study>/       set aside, with reason.txt

A study moves from folder to folder by one rename, so that a restart finds each in exactly one state and goes on from there.
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
from medhybrid.inference.model import Model
from medhybrid.owned import FolderKind, claim_folder, remove_tree
from medhybrid.scans.pacs.exchange import PacsError, parse_endpoint, send_files
from medhybrid.scans.pacs.receive import Receiver
from medhybrid.steps.predict import predict

logger = logging.getLogger(__name__)

STATES = ("incoming", "queued", "done", "failed")
POLL_S = 0.2
SPOOL = FolderKind(
    "listen",
    {**dict.fromkeys(STATES, ("*",)), "results": ("*",)},
    lambda folder: all(_is_study(p) for state in (*STATES, "results") for p in (folder / state).glob("[!.]*")),
)
"""The folder of a listener's studies."""

RESEND_S = 15.0


class Listener:
    """Receives, predicts, sends; one study at a time.

    Parameters
    ----------
    on_event : callable
        Told (study, state) at each change.
    """

    def __init__(
        self, config: ListenConfig, model: Model, *, on_event: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self.config, self.model, self._on_event = config, model, on_event
        self.target = parse_endpoint(config.send_to)
        self.spool = Path(config.spool)
        self._resend_at: dict[str, float] = {}
        self._still_since: dict[str, float] = {}
        with file_mode(read_mode(config.mode)):
            claim_folder(self.spool, SPOOL, remedy="choose another folder for `spool`")
            for state in STATES:
                (self.spool / state).mkdir(exist_ok=True)
        self._receiver = Receiver(config, self.spool / "incoming", on_stored=self._touch)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set.

        Raises
        ------
        PacsError
            If the address cannot be bound.
        OutputError
            If another listener works on the spool.
        """
        with file_mode(read_mode(self.config.mode)), held(self.spool / ".listen.lock", wait=False) as is_ours:
            if not is_ours:
                raise OutputError(
                    f"another listener works on {self.spool}",
                    expected="one listener for a spool",
                    remedy="end the other one, or choose another folder for `spool`",
                )
            self._receiver.start()
            try:
                while not stop.wait(POLL_S):
                    self.queue_complete()
                    self.work()
            finally:
                self._receiver.stop()

    def queue_complete(self) -> None:
        """Move studies to which nothing was added for a while to the queue."""
        for study in _folders(self.spool / "incoming"):
            if (self.spool / "queued" / study.name).exists():
                continue  # its earlier part is being worked on
            # by a clock that is never set: the wait begins anew with each instance, and with each start
            since = self._still_since.setdefault(study.name, time.monotonic())
            if time.monotonic() - since < self.config.wait_s:
                continue
            try:
                if self._is_unchanged(study):
                    remove_tree(study, owner=self.spool)
                    self._on_event(study.name, "unchanged")
                else:
                    self._take_earlier_instances(study)
                    study.rename(self.spool / "queued" / study.name)
                    self._on_event(study.name, "queued")
            except OSError as error:
                if error.errno not in OF_MACHINE:
                    raise
                self._wait_for_room(study, error)
                continue
            self._still_since.pop(study.name, None)

    def work(self) -> None:
        """Predict and send what is queued."""
        for study in _folders(self.spool / "queued"):
            if time.monotonic() < self._resend_at.get(study.name, 0.0):
                continue
            try:
                self._predict_and_send(study)
            except (PacsError, OutputError) as error:  # the destination is away, or the disk is full: the study waits
                self._wait_for_room(study, error)
            except MedHybridError as error:
                self._set_aside(study, str(error))
            except Exception as error:  # one study must not end the service
                if isinstance(error, OSError) and error.errno in OF_MACHINE:
                    self._wait_for_room(study, error)
                    continue
                logger.debug("study %s", study.name[:8], exc_info=error)
                self._set_aside(study, f"unexpected {type(error).__name__}")

    def _wait_for_room(self, study: Path, error: Exception) -> None:
        """Let a study wait: what stops it now is not its own."""
        logger.warning("study %s waits: %s", study.name[:8], error)
        self._resend_at[study.name] = time.monotonic() + RESEND_S
        self._still_since[study.name] = time.monotonic()

    def _is_unchanged(self, study: Path) -> bool:
        """Whether a study was sent again as it was, and its results were sent back already."""
        done = self.spool / "done" / study.name
        files = [p for p in study.iterdir() if p.suffix == ".dcm"]
        return bool(files) and all((done / p.name).is_file() and cmp(p, done / p.name, shallow=False) for p in files)

    def _predict_and_send(self, study: Path) -> None:
        results = self.spool / "results" / study.name
        outcome = predict(study, model=self.model, out=results)
        failures = [p.message for p in outcome.predictions if p.status == "failed"]
        if outcome.n_done == 0:
            self._set_aside(study, "; ".join(failures) or "no scan in it that the model can use")
            return
        files = [p for kind in ("seg", "sr") for p in sorted((results / kind).glob("*.dcm"))]
        if not files:
            reasons = [p.message for p in outcome.predictions if p.message]
            self._set_aside(study, "; ".join(reasons) or "no DICOM output to send")
            return
        sent_file = study / "sent.json"
        sent = set(json.loads(sent_file.read_text())) if sent_file.exists() else set()
        for path in files:
            if path.name + path.parent.name not in sent:
                send_files(self.target, [path])
                sent.add(path.name + path.parent.name)
                write_atomically(sent_file, json.dumps(sorted(sent)))
        write_atomically(study / "done.json", json.dumps({"n_sent": len(files), "failures": failures}, indent=1))
        self._move(study, "done")

    def _take_earlier_instances(self, study: Path) -> None:
        """Late instances join those of their study that were worked on before: the study is done anew, whole."""
        for state in ("done", "failed"):
            earlier = self.spool / state / study.name
            if earlier.exists():
                for path in earlier.glob("*.dcm"):
                    if not (study / path.name).exists():
                        path.replace(study / path.name)
                remove_tree(earlier, owner=self.spool)
                remove_tree(self.spool / "results" / study.name, owner=self.spool)

    def _set_aside(self, study: Path, reason: str) -> None:
        try:
            write_atomically(study / "reason.txt", reason + "\n")
            self._move(study, "failed")
        except OSError as error:  # it is tried again, and set aside where there is room for the reason
            self._wait_for_room(study, error)

    def _move(self, study: Path, state: str) -> None:
        study.rename(self.spool / state / study.name)
        self._on_event(study.name, state)

    def _touch(self, study: Path) -> None:
        # Where it was taken to the queue meanwhile, a file of its name would block the next part.
        self._still_since[study.name] = time.monotonic()
        with suppress(FileNotFoundError):
            os.utime(study)


def _is_study(path: Path) -> bool:
    """Whether a folder is named by the hash of a StudyInstanceUID."""
    return path.is_dir() and re.fullmatch(r"[0-9a-f]{32}", path.name) is not None


def _folders(parent: Path) -> list[Path]:
    return sorted((p for p in parent.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)


def listen(config: ListenConfig, model: Model, *, on_event: Callable[[str, str], None] = lambda *_: None) -> None:
    """Serve until interrupted; see `Listener`."""
    stop = threading.Event()
    try:
        Listener(config, model, on_event=on_event).run(stop)
    except KeyboardInterrupt:
        stop.set()
