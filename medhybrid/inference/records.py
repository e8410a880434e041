"""Records of the scans of a folder: one record for each scan, and tables of all scans.

OUT/done/<case>.json      a scan with a mask: hashes of input, model and outputs, so that a second run skips unchanged scans
OUT/failed/<case>.json    a scan without a mask, with the reason
OUT/started/<case>.json   a scan in progress: attempt and worker; it remains if the worker dies
OUT/results.csv           one row for each finished scan, with its measures
OUT/work.csv              one row for each scan: state, attempts, worker, seconds, reason

Each file is written completely under a temporary name and then renamed. So several processes may write at the same time, and
each of them may be killed without leaving a damaged file.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from medhybrid.data.store import Stamps
from medhybrid.files import write_atomically
from medhybrid.inference.corrected import hash_corrections
from medhybrid.kept_tables import write_kept_table

STARTED = "started"
"""Folder of the records of scans in progress."""

STARTED_NAMES = (STARTED, "begun")
"""Present name of this folder, and its name in version 0.1, whose records are read."""

MAX_ATTEMPTS = 3
"""A scan is marked as failed after its worker died this many times."""


class LabelMeasure(BaseModel):
    """Volume, components and diameter of one label in one scan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_ml: float
    n_components: int
    largest_ml: float
    largest_mm: float


class Prediction(BaseModel):
    """Result of one scan.

    Attributes
    ----------
    outputs : dict
        SHA-256 of each written file, by its name below the output folder. A file that was changed later is not overwritten.
    other_corrections : tuple of str, optional
        Hashes of corrected masks that existed before this scan got its name, and so belong to another or an unknown scan. None
        in records of earlier versions.
    places : list of str
        Places of the scan's files, as keyed hashes if names are replaced; see `ScanEntry.places`.
    is_training_scan : bool, optional
        Whether the model was trained on this scan; None in records of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    status: Literal["done", "failed"]
    message: str = ""
    seconds: float = 0.0
    score: float | None = None
    verdict: str = ""
    measures: dict[str, LabelMeasure] = {}
    made_by: str = ""
    input_hash: str = ""
    stamps: Stamps = []
    channel_assignment: str = Field("", validation_alias=AliasChoices("channel_assignment", "slots"))
    attempts: int = 1
    worker: str = ""
    outputs: dict[str, str] = {}
    other_corrections: tuple[str, ...] | None = None
    places: list[str] = []
    is_training_scan: bool | None = None

    @property
    def sign(self) -> str:
        """Short hash that identifies this mask: it depends on the model, the scan and its channel assignment."""
        return hashlib.sha256(f"{self.made_by} {self.input_hash} {self.channel_assignment}".encode()).hexdigest()[:16]


class _Started(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    worker: str
    since: str
    files: str
    outputs: dict[str, str] | None = None


@cache
def this_worker() -> str:
    """Return the name of this worker: host and process number."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Records:
    """Records below an output folder.

    Attributes
    ----------
    in_hand : dict
        Cases that this process is working on, each with the record of its previous attempt, or None.
    written : dict
        For each of these cases, the hashes of the files that were written so far.
    """

    out: Path
    in_hand: dict[str, str | None] = field(default_factory=dict)
    written: dict[str, dict[str, str]] = field(default_factory=dict)

    def done(self, case: str) -> Prediction | None:
        """Return the record of a scan with a mask; None if it is missing or damaged."""
        return self._read("done", case)

    def outputs_of(self, case: str) -> dict[str, str]:
        """Return the hashes of the files that were written for a scan, including those of an interrupted attempt."""
        started = _started(_text_of(self._started_path(case)))
        records = [r.outputs for state in ("failed", "done") if (r := self._read(state, case)) is not None]
        return {k: v for outputs in (*records, (started and started.outputs) or {}) for k, v in outputs.items()}

    def damaged(self, case: str) -> str:
        """Return the name of a damaged record of a scan; empty if no record is damaged."""
        names = (f"{state}/{case}.json" for state in ("done", "failed"))
        return next(
            (n for n in names if os.path.lexists(self.out / n) and self._read(n.split("/")[0], case) is None), ""
        )

    def earlier_record(self, case: str) -> Path | None:
        """Return the path of a scan's record by an earlier version, which stored no hashes; None for other records.

        An output that is newer than this record counts as changed.
        """
        done = self._read("done", case)
        if done is not None and not done.outputs:
            return self.out / "done" / f"{case}.json"
        path = self._started_path(case)
        started = _started(_text_of(path))
        return path if started is not None and started.outputs is None else None

    def begin(self, case: str, stamps: Stamps) -> int | Prediction:
        """Record that work on a scan starts.

        Returns
        -------
        int or Prediction
            Number of the attempt, from 1; or a failure if `MAX_ATTEMPTS` workers have already died on these files.
        """
        path = self._started_path(case)
        files = hashlib.sha256(repr(stamps).encode()).hexdigest()
        text = self.in_hand[case] if case in self.in_hand else _text_of(path)
        earlier = _started(text)
        attempt = earlier.attempt + 1 if earlier is not None and earlier.files == files else 1
        if earlier is not None and attempt > MAX_ATTEMPTS:
            message = (
                f"{case}: failed because its worker died in {MAX_ATTEMPTS} attempts (the last: {earlier.worker}, "
                f"{earlier.since}), most often because of too little memory. Provide more memory and remove {path}"
            )
            return Prediction(case=case, status="failed", message=message, attempts=MAX_ATTEMPTS)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        started = _Started(attempt=attempt, worker=this_worker(), since=now, files=files, outputs={})
        write_atomically(self.out / STARTED / f"{case}.json", started.model_dump_json())
        if path.parent.name != STARTED:
            path.unlink(missing_ok=True)
        self.in_hand[case], self.written[case] = text, {}
        return attempt

    def note_output(self, case: str, name: str, sha256: str) -> None:
        """Record the hash of a file before it gets its final name, so that it is known as an output if the worker dies."""
        if case not in self.in_hand:
            return
        self.written[case][name] = sha256
        path = self.out / STARTED / f"{case}.json"
        if (started := _started(_text_of(path))) is not None:
            write_atomically(path, started.model_copy(update={"outputs": self.written[case]}).model_dump_json())

    def end(self, prediction: Prediction) -> None:
        """Write the record of a finished scan, in place of its earlier record."""
        case, other = prediction.case, {"done": "failed", "failed": "done"}[prediction.status]
        if prediction.status == "done":
            prediction = prediction.model_copy(update={"other_corrections": self._other_corrections(prediction)})
        text = prediction.model_dump_json(indent=1)
        write_atomically(self.out / prediction.status / f"{case}.json", text)
        (self.out / other / f"{case}.json").unlink(missing_ok=True)
        if case in self.in_hand:
            del self.in_hand[case], self.written[case]
            (self.out / STARTED / f"{case}.json").unlink(missing_ok=True)

    def _other_corrections(self, prediction: Prediction) -> tuple[str, ...]:
        """Return the hashes of corrected masks that do not belong to this scan: they existed before its first mask."""
        earlier = self.done(prediction.case)
        source = (prediction.input_hash, prediction.channel_assignment)
        if earlier is None or (earlier.input_hash, earlier.channel_assignment) != source:
            return hash_corrections(self.out, prediction.case)
        if earlier.other_corrections is not None:
            return earlier.other_corrections
        return hash_corrections(self.out, prediction.case, before=self.done_at(prediction.case))

    def done_at(self, case: str) -> float:
        """Return the time at which the record of a scan with a mask was written, in seconds since 1970."""
        return (self.out / "done" / f"{case}.json").stat().st_mtime

    def release(self, case: str) -> None:
        """Release a scan that was interrupted while the worker is alive: this does not count as an attempt.

        Files that were written are removed, and the record of the previous attempt is restored.
        """
        if case in self.in_hand:
            path, text = self.out / STARTED / f"{case}.json", self.in_hand.pop(case)
            written = self.written.pop(case)
            if self.done(case) is None:
                for name in written:
                    with suppress(OSError):
                        (self.out / name).unlink(missing_ok=True)
            with suppress(OSError):  # on a full disk, which is reported elsewhere
                if text is None:
                    path.unlink(missing_ok=True)
                else:
                    write_atomically(path, text)

    def all(self, cases: Iterable[str]) -> list[Prediction]:
        """Return the records of the finished cases, in the order of `cases`. With two records, the mask takes precedence."""
        names = {state: _names(self.out / state) for state in ("done", "failed")}
        states = ((c, next((s for s in ("done", "failed") if c in names[s]), None)) for c in cases)
        return [self._read(state, c) or _unreadable(c, self.out / state) for c, state in states if state is not None]

    def names(self) -> set[str]:
        """Return the names of all scans with a record."""
        return {n for state in ("done", "failed") for n in _names(self.out / state) if not n.startswith(".")}

    def write_tables(self, cases: Sequence[str], finished: Sequence[Prediction], labels: Iterable[str]) -> None:
        """Write `results.csv` with the finished cases, and `work.csv` with every case."""
        write_results(self.out / "results.csv", finished, labels)
        by_case = {p.case: p for p in finished}
        in_progress = {case for name in STARTED_NAMES for case in _names(self.out / name)}
        rows: list[list[Any]] = []
        for case in cases:
            p = by_case.get(case)
            started = _started(_text_of(self._started_path(case))) if case in in_progress else None
            if p is not None:
                rows.append([case, p.status, p.attempts, p.worker, f"{p.seconds:.2f}", p.message])
            elif started is not None:
                rows.append([case, STARTED, started.attempt, started.worker, "", f"since {started.since}"])
            else:
                rows.append([case, "waiting", 0, "", "", ""])
        write_kept_table(self.out / "work.csv", [["case", "state", "attempts", "worker", "seconds", "reason"], *rows])

    def _started_path(self, case: str) -> Path:
        """Return the path of the record of a scan in progress, or of the record that version 0.1 left."""
        paths = [self.out / name / f"{case}.json" for name in STARTED_NAMES]
        return next((p for p in paths if p.is_file()), paths[0])

    def _read(self, state: str, case: str) -> Prediction | None:
        try:
            return Prediction.model_validate_json((self.out / state / f"{case}.json").read_bytes())
        except Exception:  # damaged files raise many kinds
            return None


def _unreadable(case: str, folder: Path) -> Prediction:
    """Return a failure in place of a damaged record, so that its scan is not missing from tables and reports."""
    message = f"the record of {case} in {folder.name} is damaged; remove it and run predict again"
    return Prediction(case=case, status="failed", message=message)


def write_results(path: Path, predictions: Sequence[Prediction], labels: Iterable[str]) -> None:
    """Write `results.csv`: a row for each scan, with columns for each label."""
    sizes = [f"{n} {m}" for n in labels for m in ("volume_ml", "n_components", "largest_ml", "largest_mm")]
    rows: list[list[Any]] = [["case", "status", "verdict", "score", *sizes, "seconds", "message"]]
    for p in predictions:
        row: list[Any] = []
        for name in labels:
            m = p.measures.get(name)
            row += [m.volume_ml, m.n_components, m.largest_ml, m.largest_mm] if m else [""] * 4
        score = "" if p.score is None else f"{p.score:.4f}"
        rows.append([p.case, p.status, p.verdict, score, *row, f"{p.seconds:.2f}", p.message])
    write_kept_table(path, rows)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _started(text: str | None) -> _Started | None:
    try:
        return None if text is None else _Started.model_validate_json(text)
    except ValidationError:
        return None


def _names(folder: Path) -> set[str]:
    return {e.name[:-5] for e in os.scandir(folder) if e.name.endswith(".json")} if folder.is_dir() else set()
