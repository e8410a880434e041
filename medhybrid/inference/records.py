"""What became of each scan of a folder, on disk: a record a scan, and tables of all.

OUT/done/<case>.json      a scan with a mask: what was made of what, so that a second run skips what is unchanged
OUT/failed/<case>.json    a scan without one, and why
OUT/begun/<case>.json     a scan in work: which attempt, by whom; left behind where a worker dies
OUT/results.csv           a row a finished scan, with its measures
OUT/work.csv              a row a scan: state, attempts, worker, seconds, reason

Each file is written whole under another name and renamed, so that several processes may write, and any may be killed.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.data.store import Stamps
from medhybrid.files import write_atomically
from medhybrid.inference.corrected import hash_corrections
from medhybrid.kept_tables import write_kept_table

MAX_ATTEMPTS = 3
"""A scan that as many workers died on is set aside."""


class LabelMeasure(BaseModel):
    """Size of one label in one scan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_ml: float
    n_components: int
    largest_ml: float
    largest_mm: float


class Prediction(BaseModel):
    """The result of one scan.

    Attributes
    ----------
    outputs : dict
        SHA-256 of each file that was written, by its name below the output folder: one that was changed since is not
        overwritten.
    other_corrections : tuple of str, optional
        Hashes of the corrected masks that lay there when this scan got the name: they are of another scan, or nobody knows of
        which. None in records of earlier versions.
    places : list of str
        Signs of where the files of the scan were, under the key where there is one; see `ScanEntry.places`.
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
    slots: str = ""
    attempts: int = 1
    worker: str = ""
    outputs: dict[str, str] = {}
    other_corrections: tuple[str, ...] | None = None
    places: list[str] = []

    @property
    def sign(self) -> str:
        """Of this mask: another scan, or another model, gives another."""
        return hashlib.sha256(f"{self.made_by} {self.input_hash} {self.slots}".encode()).hexdigest()[:16]


class _Begun(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    worker: str
    since: str
    files: str
    outputs: dict[str, str] | None = None


@cache
def this_worker() -> str:
    """Host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Records:
    """The records below an output folder.

    Attributes
    ----------
    in_hand : dict
        Cases that this process has begun and not ended, with the record of the attempt before, if there was one.
    written : dict
        Hashes of the files that were written for each of them so far.
    """

    out: Path
    in_hand: dict[str, str | None] = field(default_factory=dict)
    written: dict[str, dict[str, str]] = field(default_factory=dict)

    def done(self, case: str) -> Prediction | None:
        """The record of a scan with a mask; None where there is none that can be read."""
        return self._read("done", case)

    def outputs_of(self, case: str) -> dict[str, str]:
        """Return the hashes of the files that were written for a scan, also by an attempt that was interrupted."""
        begun = _begun(_text_of(self.out / "begun" / f"{case}.json"))
        records = [r.outputs for state in ("failed", "done") if (r := self._read(state, case)) is not None]
        return {k: v for outputs in (*records, (begun and begun.outputs) or {}) for k, v in outputs.items()}

    def damaged(self, case: str) -> str:
        """Return the name of a record of a scan that is there and cannot be read; empty if there is none."""
        names = (f"{state}/{case}.json" for state in ("done", "failed"))
        return next(
            (n for n in names if os.path.lexists(self.out / n) and self._read(n.split("/")[0], case) is None), ""
        )

    def earlier_record(self, case: str) -> Path | None:
        """Return the record of a scan that a version without hashes wrote, after the files that it wrote; else None."""
        done = self._read("done", case)
        if done is not None and not done.outputs:
            return self.out / "done" / f"{case}.json"
        path = self.out / "begun" / f"{case}.json"
        begun = _begun(_text_of(path))
        return path if begun is not None and begun.outputs is None else None

    def begin(self, case: str, stamps: Stamps) -> int | Prediction:
        """Note that a scan is in work.

        Returns
        -------
        int or Prediction
            The number of the attempt, from 1; or a failure, where `MAX_ATTEMPTS` workers died on these files before.
        """
        path = self.out / "begun" / f"{case}.json"
        files = hashlib.sha256(repr(stamps).encode()).hexdigest()
        text = self.in_hand[case] if case in self.in_hand else _text_of(path)
        earlier = _begun(text)
        attempt = earlier.attempt + 1 if earlier is not None and earlier.files == files else 1
        if earlier is not None and attempt > MAX_ATTEMPTS:
            message = (
                f"{case}: set aside after {MAX_ATTEMPTS} attempts that ended with the worker's death (the last by "
                f"{earlier.worker}, {earlier.since}), most often for too little memory. Give it more, and remove {path}"
            )
            return Prediction(case=case, status="failed", message=message, attempts=MAX_ATTEMPTS)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        begun = _Begun(attempt=attempt, worker=this_worker(), since=now, files=files, outputs={})
        write_atomically(path, begun.model_dump_json())
        self.in_hand[case], self.written[case] = text, {}
        return attempt

    def note_output(self, case: str, name: str, sha256: str) -> None:
        """Note the hash of a file that is about to get its name: where the worker dies, it is known to be ours."""
        if case not in self.in_hand:
            return
        self.written[case][name] = sha256
        path = self.out / "begun" / f"{case}.json"
        if (begun := _begun(_text_of(path))) is not None:
            write_atomically(path, begun.model_copy(update={"outputs": self.written[case]}).model_dump_json())

    def end(self, prediction: Prediction) -> None:
        """Put what became of a scan on record, in place of what was there."""
        case, other = prediction.case, {"done": "failed", "failed": "done"}[prediction.status]
        if prediction.status == "done":
            prediction = prediction.model_copy(update={"other_corrections": self._other_corrections(prediction)})
        text = prediction.model_dump_json(indent=1)
        write_atomically(self.out / prediction.status / f"{case}.json", text)
        (self.out / other / f"{case}.json").unlink(missing_ok=True)
        if case in self.in_hand:
            del self.in_hand[case], self.written[case]
            (self.out / "begun" / f"{case}.json").unlink(missing_ok=True)

    def _other_corrections(self, prediction: Prediction) -> tuple[str, ...]:
        """Return the hashes of corrected masks that are not of this scan: those that are there before its first mask is."""
        earlier = self.done(prediction.case)
        if earlier is None or (earlier.input_hash, earlier.slots) != (prediction.input_hash, prediction.slots):
            return hash_corrections(self.out, prediction.case)
        if earlier.other_corrections is not None:
            return earlier.other_corrections
        return hash_corrections(self.out, prediction.case, before=self.done_at(prediction.case))

    def done_at(self, case: str) -> float:
        """Return when the record of a scan with a mask was written, in seconds since 1970."""
        return (self.out / "done" / f"{case}.json").stat().st_mtime

    def release(self, case: str) -> None:
        """Let go of a scan, alive: this was no attempt; what was written is removed, what was on record before is again."""
        if case in self.in_hand:
            path, text = self.out / "begun" / f"{case}.json", self.in_hand.pop(case)
            written = self.written.pop(case)
            if self.done(case) is None:
                for name in written:
                    with suppress(OSError):
                        (self.out / name).unlink(missing_ok=True)
            with suppress(OSError):  # on a full disk, which is told already
                if text is None:
                    path.unlink(missing_ok=True)
                else:
                    write_atomically(path, text)

    def all(self, cases: Iterable[str]) -> list[Prediction]:
        """The records of those of the cases that are finished, in their order; a mask counts for more than a failure."""
        names = {state: _names(self.out / state) for state in ("done", "failed")}
        states = ((c, next((s for s in ("done", "failed") if c in names[s]), None)) for c in cases)
        return [self._read(state, c) or _unreadable(c, self.out / state) for c, state in states if state is not None]

    def names(self) -> set[str]:
        """Names of all scans on record."""
        return {n for state in ("done", "failed") for n in _names(self.out / state) if not n.startswith(".")}

    def write_tables(self, cases: Sequence[str], finished: Sequence[Prediction], labels: Mapping[str, int]) -> None:
        """`results.csv` of what is finished, and `work.csv` of every case."""
        write_results(self.out / "results.csv", finished, labels)
        by_case, begun = {p.case: p for p in finished}, _names(self.out / "begun")
        rows: list[list[Any]] = []
        for case in cases:
            p, b = by_case.get(case), _begun(_text_of(self.out / "begun" / f"{case}.json")) if case in begun else None
            if p is not None:
                rows.append([case, p.status, p.attempts, p.worker, f"{p.seconds:.2f}", p.message])
            elif b is not None:
                rows.append([case, "begun", b.attempt, b.worker, "", f"since {b.since}"])
            else:
                rows.append([case, "waiting", 0, "", "", ""])
        write_kept_table(self.out / "work.csv", [["case", "state", "attempts", "worker", "seconds", "reason"], *rows])

    def _read(self, state: str, case: str) -> Prediction | None:
        try:
            return Prediction.model_validate_json((self.out / state / f"{case}.json").read_bytes())
        except Exception:  # damaged files raise many kinds
            return None


def _unreadable(case: str, folder: Path) -> Prediction:
    """Return a failure in place of a record that cannot be read: its scan must not be missing from tables and reports."""
    message = f"the record of {case} in {folder.name} cannot be read; remove it and run predict again"
    return Prediction(case=case, status="failed", message=message)


def write_results(path: Path, predictions: Sequence[Prediction], labels: Mapping[str, int]) -> None:
    """`results.csv`: a row a scan, columns by label."""
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


def _begun(text: str | None) -> _Begun | None:
    try:
        return None if text is None else _Begun.model_validate_json(text)
    except ValidationError:
        return None


def _names(folder: Path) -> set[str]:
    return {e.name[:-5] for e in os.scandir(folder) if e.name.endswith(".json")} if folder.is_dir() else set()
