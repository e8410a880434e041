"""Jobs of `medhybrid serve`: scans that clients upload, predicted one after the other.

SPOOL/incoming/<job>/      upload in progress; removed when the service starts
SPOOL/unpacked/            scans of archives while they are predicted; emptied when the service starts
SPOOL/queued/<job>/        complete: job.json, and input/ with the scan
SPOOL/results/<job>/       output folder of predict
SPOOL/done/<job>/          predicted
SPOOL/failed/<job>/        failed; job.json has the reason

Names of jobs are random. Names of uploaded files are not kept, since they may contain patient data.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medhybrid.errors import OF_MACHINE, ConfigError, DataError, MedHybridError, OutputError
from medhybrid.files import write_atomically
from medhybrid.inference.model import Segmenter
from medhybrid.inference.records import LabelMeasure, Prediction, Records
from medhybrid.memory import free_memory
from medhybrid.owned import FolderKind, claim_folder, remove_tree
from medhybrid.progress import Silent
from medhybrid.scans.archives import UNPACK_BELOW
from medhybrid.scans.pacs.exchange import fetch_study, parse_endpoint
from medhybrid.steps.predict import predict
from medhybrid.steps.spool import STATES, State, folders, locked, make_states, move

logger = logging.getLogger(__name__)

SPOOL = FolderKind("serve", dict.fromkeys((*STATES, "results", "unpacked"), ("*",)))
"""Spool folder of `serve`."""

JOB = re.compile(r"[0-9a-f]{32}")

SUFFIXES = (".nii.gz", ".nii", ".zip", ".dcm", ".nrrd", ".mha", ".png", ".tif", ".tiff")
"""Types of files that a client may upload; several files, or a DICOM series, are a zip archive."""

UID = re.compile(r"[0-9.]{1,64}")

POLL_S = 0.2

REMOVE_S = 60.0
"""Seconds between removals of old jobs, for which each job is read."""

RETRY_S = 15.0
"""Wait after an error that is not caused by the job, such as a full disk."""

TRIES = 5

DAMAGED = "the service lost the request of this job: upload the scan again"

ENDED: tuple[Literal["done", "failed"], ...] = ("done", "failed")


class JobRequest(BaseModel):
    """Content of `job.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    study_uid: str = ""
    received: float
    ended: float | None = None
    reason: str = ""


class ScanResult(BaseModel):
    """Result of a scan of a job."""

    model_config = ConfigDict(frozen=True)

    case: str
    status: str
    message: str
    score: float | None
    verdict: str
    measures: dict[str, LabelMeasure]


class JobStatus(BaseModel):
    """State of a job.

    Attributes
    ----------
    state : str
        `queued`, `running`, `done` or `failed`.
    position : int, optional
        Number of jobs before it in the queue.
    n_scans, n_ended : int, optional
        Scans of a running job, and those that have a result.
    """

    model_config = ConfigDict(frozen=True)

    job: str
    model: str
    state: Literal["queued", "running", "done", "failed"]
    position: int | None = None
    n_scans: int | None = None
    n_ended: int | None = None
    reason: str = ""
    scans: tuple[ScanResult, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Limits of the service.

    Attributes
    ----------
    max_upload_mb : int
        Largest upload in MB.
    max_queued : int
        Highest number of jobs that wait; more are refused until there is room.
    min_free_mb : int
        Uploads are refused if less disk space is free, in MB.
    keep_hours : float
        Ended jobs are removed after this time, with their scans and masks.
    dicomweb : str
        DICOMweb server from which studies may be fetched, such as dicomwebs://pacs/dicom-web; empty for none.
    """

    max_upload_mb: int = 4096
    max_queued: int = 100
    min_free_mb: int = 1024
    keep_hours: float = 24.0
    dicomweb: str = ""

    def __post_init__(self) -> None:
        numbers = (self.max_upload_mb, self.max_queued, self.keep_hours)
        if min(numbers) <= 0 or self.min_free_mb < 0:
            raise ConfigError("the limits of the service must be above 0", found=", ".join(map(str, numbers)))
        if self.dicomweb and parse_endpoint(self.dicomweb).kind != "dicomweb":
            raise ConfigError(
                "studies can be fetched from a DICOMweb server only", expected="dicomweb:// or dicomwebs://"
            )


class RefusedError(MedHybridError):
    """Job that is refused for now: the queue or the disk is full."""


@dataclass(slots=True)
class _Progress(Silent):
    """Number of scans of the running job."""

    total: int = 0
    n: int = 0

    def begin(self, title: str, total: float) -> None:
        self.total = int(total)

    def advance(self, done: float, text: str = "") -> None:
        self.n = int(done)


@dataclass(slots=True)
class Counts:
    """Counters since the start, for monitoring."""

    received: int = 0
    done: int = 0
    failed: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Jobs:
    """Jobs of the service: accepts uploads, predicts one job at a time, keeps results.

    Parameters
    ----------
    spool : Path
        Folder of the jobs. It is kept over a restart.
    models : mapping
        Functions that load a model, by the names that clients use. A model is loaded at its first job.

    Raises
    ------
    OutputError
        If the spool cannot be used.
    """

    spool: Path
    models: Mapping[str, Callable[[], Segmenter]]
    options: ServeOptions = ServeOptions()
    counts: Counts = field(default_factory=Counts)
    _loaded: dict[str, Segmenter] = field(default_factory=dict)
    _running: dict[str, _Progress] = field(default_factory=dict)
    _retry_at: dict[str, float] = field(default_factory=dict)
    _unfinished: list[Path] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        claim_folder(self.spool, SPOOL, remedy="choose another folder for --spool")
        make_states(self.spool)
        (self.spool / "results").mkdir(exist_ok=True)
        self._unfinished = folders(self.spool / "incoming")  # of an earlier service; own uploads may begin before `run`

    def run(self, stop: threading.Event) -> None:
        """Predict queued jobs until `stop` is set.

        Raises
        ------
        OutputError
            If another service uses the spool.
        """
        unpacked = self.spool / "unpacked"
        with locked(self.spool):
            for unfinished in filter(Path.is_dir, [*self._unfinished, unpacked]):
                remove_tree(unfinished, owner=self.spool)
            unpacked.mkdir(mode=0o700)
            UNPACK_BELOW.set(unpacked)  # a service that is killed leaves no scan elsewhere
            next_removal = 0.0
            while not stop.wait(POLL_S):
                if time.monotonic() >= next_removal:
                    self.remove_old()
                    next_removal = time.monotonic() + REMOVE_S
                self.work(stop)

    # what clients ask for

    def begin(self, model: str, name: str) -> Path:
        """Begin an upload; return the file to write to, in a job that is not queued yet.

        Parameters
        ----------
        name : str
            Name of the uploaded file, of which only the type is used.

        Raises
        ------
        DataError
            If the model or the type of file is not known.
        RefusedError
            If the queue or the disk is full.
        """
        suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), None)
        if suffix is None:
            raise DataError(
                "this type of file is not accepted",
                expected=", ".join(SUFFIXES),
                found=ascii(Path(name).suffix)[:20],
                remedy="upload a DICOM series, or several channels, as a zip archive",
            )
        return self._new_job(model) / "input" / f"scan{suffix}"

    def finish(self, upload: Path) -> str:
        """Queue the job of a complete upload; return its name."""
        job = upload.parent.parent
        os.utime(job)  # jobs are predicted in the order in which their uploads end
        move(job, self.spool, "queued")
        self.counts.received += 1
        return job.name

    def cancel(self, upload: Path) -> None:
        """Remove the job of an incomplete upload."""
        remove_tree(upload.parent.parent, owner=self.spool)

    def submit_study(self, model: str, study_uid: str) -> str:
        """Queue a study of the DICOMweb server; return the name of the job.

        Raises
        ------
        DataError
            If no server is configured, or the UID is not valid.
        RefusedError
            If the queue or the disk is full.
        """
        if not self.options.dicomweb:
            raise DataError("this service fetches no studies", remedy="upload the scan, or start it with --dicomweb")
        if not UID.fullmatch(study_uid):
            raise DataError(
                "invalid study", expected="a StudyInstanceUID: digits and points", found=ascii(study_uid)[:80]
            )
        job = self._new_job(model, study_uid)
        return self.finish(job / "input" / "study")

    def status(self, job: str) -> JobStatus | None:
        """Return the state of a job; None if it does not exist."""
        for _ in range(TRIES):
            try:
                return self._status(job)
            except FileNotFoundError:  # it moved to another state meanwhile
                continue
        return None

    def _status(self, job: str) -> JobStatus | None:
        state = self._state_of(job)
        if state is None or state == "incoming":
            return None
        request = self._request(self.spool / state / job)
        if state == "done" or state == "failed":
            scans = tuple(self._result(p) for p in self._predictions(job))
            files = tuple(sorted(self._files(job))) if state == "done" else ()
            return JobStatus(job=job, model=request.model, state=state, reason=request.reason, scans=scans, files=files)
        running = self._running.get(job)
        if running is not None:
            return JobStatus(
                job=job, model=request.model, state="running", n_scans=running.total or None, n_ended=running.n
            )
        before = [p.name for p in folders(self.spool / "queued")]
        position = before.index(job) if job in before else 0
        return JobStatus(job=job, model=request.model, state="queued", position=position)

    def file(self, job: str, name: str) -> Path | None:
        """Return a result file of a job by its name in `JobStatus.files`; None if there is none."""
        return self._files(job).get(name) if self._state_of(job) == "done" else None

    def remove(self, job: str) -> bool:
        """Remove a job with its scan and results; return whether it existed and does not run."""
        state = self._state_of(job)
        with self._lock:
            if state is None or state == "incoming" or job in self._running:
                return False
            for place in (self.spool / state / job, self.spool / "results" / job):
                remove_tree(place, owner=self.spool)
        return True

    def numbers(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        found: dict[str, int] = {state: len(folders(self.spool / state)) for state in STATES}
        return found | {"running": len(self._running)}

    # what the worker does

    def work(self, stop: threading.Event | None = None) -> None:
        """Predict the queued jobs."""
        for job in folders(self.spool / "queued"):
            if stop is not None and stop.is_set():
                return
            if time.monotonic() < self._retry_at.get(job.name, 0.0):
                continue
            with self._lock:
                if not job.exists():  # removed by its client
                    continue
                self._running[job.name] = _Progress()
            began = time.monotonic()
            try:
                self._predict(job)
            except Exception as error:  # one job must not stop the service
                self._after_error(job, error)
            finally:
                self._running.pop(job.name, None)
                self.counts.seconds += time.monotonic() - began

    def remove_old(self) -> None:
        """Remove the jobs that ended more than `keep_hours` ago."""
        for state in ENDED:
            for job in folders(self.spool / state):
                if time.monotonic() < self._retry_at.get(job.name, 0.0):
                    continue
                try:
                    ended = self._request(job).ended or 0.0
                    if time.time() - ended > self.options.keep_hours * 3600:
                        self.remove(job.name)
                except FileNotFoundError:  # removed by its client
                    continue
                except (OSError, OutputError) as error:
                    self._delay(job, error)

    def _predict(self, job: Path) -> None:
        request = self._request(job)
        if not request.model:
            raise DataError(request.reason)
        if request.study_uid and not any((job / "input").iterdir()):
            endpoint = parse_endpoint(f"{self.options.dicomweb}?StudyInstanceUID={request.study_uid}")
            remove_tree(job / "fetching", owner=self.spool)
            fetch_study(endpoint, job / "fetching")
            (job / "fetching").rename(job / "input" / "study")  # whole, or not at all: a part would be predicted
        if request.model not in self._loaded:
            if request.model not in self.models:
                raise DataError("the model of this job is no longer served", found=ascii(request.model)[:60])
            self._loaded[request.model] = self._load(request.model)
        outcome = predict(
            job / "input",
            model=self._loaded[request.model],
            out=self.spool / "results" / job.name,
            max_memory=free_memory() / 2**30,
            reporter=self._running[job.name],
        )
        reasons = [p.message for p in outcome.predictions if p.status == "failed"]
        reasons += [reason for _, reason in outcome.problems]
        reasons += [e.skip_reason for e in outcome.skipped_files]
        if outcome.n_done == 0:
            self._end(
                job, "failed", "; ".join(dict.fromkeys(reasons)) or "the upload has no scan that the model can use"
            )
            return
        self._end(job, "done", "; ".join(p.message for p in outcome.predictions if p.status == "failed"))

    def _load(self, name: str) -> Segmenter:
        """Load a model; the reason of a failure is logged, since it has paths of the service."""
        try:
            return self.models[name]()
        except MedHybridError as error:
            logger.error("the model %s cannot be loaded: %s", name, error)
            raise DataError(f"the model {name} cannot be loaded", remedy="see the log of the service") from error

    def _without_places(self, text: str) -> str:
        """Return a message for clients, without the folders of the spool."""
        return re.sub(rf"{re.escape(str(self.spool))}/\w+/{JOB.pattern}/(input/)?", "", text)

    def _after_error(self, job: Path, error: Exception) -> None:
        """End a job as failed, or let it wait if the error is not caused by it."""
        if isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in OF_MACHINE):
            self._delay(job, error)
            return
        logger.debug("job %s", job.name[:8], exc_info=error)
        reason = str(error) if isinstance(error, MedHybridError) else f"unexpected {type(error).__name__}"
        try:
            self._end(job, "failed", reason)
        except OSError as full:
            self._delay(job, full)

    def _delay(self, job: Path, error: Exception) -> None:
        """Let a job wait, for an error that is not caused by it."""
        logger.warning("job %s is delayed: %s", job.name[:8], error)
        self._retry_at[job.name] = time.monotonic() + RETRY_S

    def _end(self, job: Path, state: Literal["done", "failed"], reason: str) -> None:
        request = self._request(job).model_copy(
            update={"ended": time.time(), "reason": self._without_places(reason)[:2000]}
        )
        write_atomically(job / "job.json", request.model_dump_json())
        move(job, self.spool, state)
        self.counts.done += state == "done"
        self.counts.failed += state == "failed"

    def _new_job(self, model: str, study_uid: str = "") -> Path:
        if model not in self.models:
            raise DataError("unknown model", expected=", ".join(self.models), found=ascii(model)[:60])
        n_waiting = len(folders(self.spool / "queued")) + len(folders(self.spool / "incoming"))
        free = shutil.disk_usage(self.spool).free
        if n_waiting >= self.options.max_queued or free < self.options.min_free_mb << 20:
            self.counts.refused += 1
            raise RefusedError(
                "the queue is full" if n_waiting >= self.options.max_queued else "the disk of the service is full",
                remedy="try again later",
            )
        job = self.spool / "incoming" / secrets.token_hex(16)
        try:
            (job / "input").mkdir(parents=True)
            content = JobRequest(model=model, study_uid=study_uid, received=time.time()).model_dump_json()
            write_atomically(job / "job.json", content)
        except BaseException:  # an unfinished upload counts as waiting
            remove_tree(job, owner=self.spool)
            raise
        return job

    def _state_of(self, job: str) -> State | None:
        if not JOB.fullmatch(job):
            return None
        return next((s for s in reversed(STATES) if (self.spool / s / job).is_dir()), None)

    def _request(self, job: Path) -> JobRequest:
        """Read a job's `job.json`; one without a model stands for a damaged file. Raises `FileNotFoundError` if it moved."""
        try:
            return JobRequest.model_validate_json((job / "job.json").read_bytes())
        except (FileNotFoundError, ValueError):
            changed = job.stat().st_mtime
            return JobRequest(model="", received=changed, ended=changed, reason=DAMAGED)

    def _predictions(self, job: str) -> list[Prediction]:
        folder = self.spool / "results" / job
        cases = sorted({p.stem for kind in ("done", "failed") for p in (folder / kind).glob("[!.]*.json")})
        return Records(folder).all(cases) if cases else []

    def _result(self, prediction: Prediction) -> ScanResult:
        return ScanResult(
            case=prediction.case,
            status=prediction.status,
            message=self._without_places(prediction.message),
            score=prediction.score,
            verdict=prediction.verdict,
            measures=prediction.measures,
        )

    def _files(self, job: str) -> dict[str, Path]:
        """Return the result files of a job by name: KIND/CASE.SUFFIX."""
        folder = self.spool / "results" / job
        names = [n for p in self._predictions(job) if p.status == "done" for n in p.outputs]
        return {n: folder / n for n in names if (folder / n).is_file()} | (
            {"results.csv": folder / "results.csv"} if (folder / "results.csv").is_file() else {}
        )
