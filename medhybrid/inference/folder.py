"""The folder job: every scan of a work list to a mask, a row of measurements, and a record of what was done.

OUT/masks/<case>.nii.gz   the label map on the scan's own grid
OUT/seg/<case>.dcm        the same as DICOM SEG, for DICOM input
OUT/probabilities/        on request: <case>.nii.gz (X, Y, Z, label), <case>_uncertainty.nii.gz (entropy, 0 to 1), and
                          <case>.dcm, a FRACTIONAL SEG, for DICOM input
OUT/sr/<case>.dcm         volumes and diameters as a DICOM structured report that refers to the SEG
OUT/results.csv, work.csv, done/, failed/, begun/: what became of each scan (records.py)
OUT/run.json              model, versions, counts
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medhybrid.data.channels import slots_of
from medhybrid.data.prepare import PreparedImage
from medhybrid.data.store import Stamps, hash_files, stamp_files
from medhybrid.errors import NO_ROOM, MedHybridError, OutputError, ScanError, item_error
from medhybrid.files import held
from medhybrid.inference.foreign_files import ForeignFileError, refuse_foreign_files, with_changes_named
from medhybrid.inference.kept_names import with_source
from medhybrid.inference.memory import refuse_too_large, refuse_too_large_to_read
from medhybrid.inference.model import Inferred, Model
from medhybrid.inference.outputs import files_of, write_outputs
from medhybrid.inference.passing import may_pass, stay
from medhybrid.inference.records import Prediction, Records, this_worker
from medhybrid.inference.scan_checks import unlike_grid
from medhybrid.inference.stages import in_stages
from medhybrid.inference.worklist import WorkItem, WorkList, without_names
from medhybrid.scans import BURNED_IN, Scan
from medhybrid.scans.context import CONTEXT_VERSION, context_files, unread_context
from medhybrid.scans.dicom.deidentify import Deidentifier

logger = logging.getLogger(__name__)

TABLES_EVERY_S = 2.0
"""Least time between two versions of the tables, whose every row is written anew."""

TABLES_SHARE = 0.05
"""Most of the time that writing them may take."""

RETRY_AFTER_S = (1.0, 4.0)  # waits before a scan is read again that changed meanwhile, or whose disk did not answer

Outcome = tuple[Prediction, bool]
"""The result of a scan, and whether it is an earlier one that is unchanged."""


class FolderJob:
    """What is the same for every scan.

    Parameters
    ----------
    deidentifier : Deidentifier, optional
        Cleans what DICOM output and messages repeat of the input; the work list has its names already.
    with_probabilities : bool
        Write the probabilities of the labels beside the masks.
    max_memory : int, optional
        Bytes that a scan may need; one that needs more is refused. By default what the process could have.

    Raises
    ------
    OutputError
        If `out` cannot be written to.
    """

    def __init__(
        self,
        model: Model,
        out: Path,
        *,
        deidentifier: Deidentifier | None = None,
        with_probabilities: bool = False,
        max_memory: int | None = None,
    ) -> None:
        self.model, self.out, self.records = model, out, Records(out)
        self.deidentifier, self.with_probabilities, self.max_memory = deidentifier, with_probabilities, max_memory
        self.made_by = fingerprint_of(model)
        try:
            for name in ("masks", "done", "failed", "begun"):
                (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(out, error) from error


@dataclass(slots=True)
class _Case:
    """A scan on its way: what each step leaves for the next, and what became of it as soon as that is known."""

    item: WorkItem
    prediction: Prediction | None = None
    is_skipped: bool = False
    seconds: float = 0.0
    attempts: int = 1
    stamps: Stamps = field(default_factory=list)
    input_hash: str = ""
    scan: Scan | None = None
    prepared: PreparedImage | None = None
    inferred: Inferred | None = None


def predict_items(job: FolderJob, items: Sequence[WorkItem], *, at_once: bool | None = None) -> Iterator[Outcome]:
    """Predict scans one after the other; a bad one is reported and the others go on.

    Parameters
    ----------
    at_once : bool, optional
        Read the next scan and write the last one while one is computed; by default where the network is not on the CPU, which
        has enough to do with it.

    Raises
    ------
    OutputError
        If there is no room for a mask: the others would have none either.
    """
    if at_once is None:
        at_once = job.model.device.type != "cpu"
    read = lambda item: _attempt(_read, job, _Case(item))  # noqa: E731
    infer = partial(_attempt, _infer, job)
    write = lambda case: _finish(job, _attempt(_conclude, job, case))  # noqa: E731
    try:
        yield from in_stages(items, read, infer, write, at_once=at_once)
    finally:
        for case in list(job.records.in_hand):  # interrupted, and this worker lives: no attempt that failed
            job.records.release(case)


def collect(
    outcomes: Iterable[Outcome],
    cases: Sequence[str],
    job: FolderJob,
    *,
    on_case: Callable[[int, Prediction, bool], None] = lambda *_: None,
    shares_tables: bool = False,
) -> list[Prediction]:
    """Take outcomes in any order, and keep the tables of the folder; returns what is known of all cases, in their order.

    Parameters
    ----------
    cases : sequence of str
        All of the folder.
    on_case : callable
        Told (number done, prediction, whether it was skipped as unchanged) after each.
    shares_tables : bool
        Other processes work on other cases: tables are made once, at the end, from everybody's records.
    """
    records, labels = job.records, job.model.plan.labels

    def on_record() -> dict[str, Prediction]:
        return {p.case: p for p in records.all(cases) if p.made_by == job.made_by}

    known = on_record()

    def in_order() -> list[Prediction]:
        return [known[c] for c in cases if c in known]

    def write_last() -> None:
        nonlocal known
        with held(job.out / ".tables.lock"):
            known = on_record() if shares_tables else known
            records.write_tables(cases, in_order(), labels)

    written_at, took = time.monotonic(), 0.0
    try:
        for n, (prediction, is_skipped) in enumerate(outcomes, start=1):
            known[prediction.case] = prediction
            on_case(n, prediction, is_skipped)
            began = time.monotonic()
            if not shares_tables and began - written_at > max(TABLES_EVERY_S, took / TABLES_SHARE):
                with suppress(OSError):  # the last ones are written in any case, and say so where they cannot be
                    records.write_tables(cases, in_order(), labels)
                written_at = time.monotonic()
                took = written_at - began
    except BaseException:
        with suppress(OSError):
            write_last()
        raise
    try:
        write_last()
    except OSError as error:
        raise _unwritable(job.out, error) from error
    return in_order()


def predict_worklist(
    model: Model,
    work: WorkList,
    out: Path,
    *,
    on_case: Callable[[int, Prediction, bool], None] = lambda *_: None,
    at_once: bool | None = None,
    **options: Any,
) -> list[Prediction]:
    """Predict every item in this process; see `FolderJob`, `predict_items` and `collect`."""
    job = FolderJob(model, out, **options)
    return collect(predict_items(job, work.items, at_once=at_once), [i.case for i in work.items], job, on_case=on_case)


def _unwritable(out: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{out} cannot be written to",
        found=error.strerror or str(error),
        remedy="make room or choose another folder, and run again: what is done is kept",
    )


def fingerprint_of(model: Model) -> str:
    """Hash of what decides a mask and its verdict besides the scan: weights, plan, windows, calibration."""
    r = model.record
    text = r.weights_sha256 + r.plan.model_dump_json() + r.inference.text_for_hash() + r.scans.text_for_hash()
    text += r.model_dump_json(include={"channel_map", "calibration"})
    text += CONTEXT_VERSION if r.plan.context else ""
    text += "thin" * r.plan.is_thin  # computed in float32 of late: masks made before may be wrong
    return hashlib.sha256(text.encode()).hexdigest()


def _load_unchanged(job: FolderJob, item: WorkItem) -> Prediction | None:
    try:
        earlier = job.records.done(item.case)
        if earlier is None or (earlier.made_by, earlier.slots) != (job.made_by, slots_of(item.entries)):
            return None
        kinds = ["masks", *(["probabilities"] if job.with_probabilities else [])]
        if not all((job.out / kind / f"{item.case}.nii.gz").is_file() for kind in kinds):
            return None
        if not all((job.out / name).exists() for name in earlier.outputs):
            return None  # some were removed: they are made again
        files = _sources(job, item)
        if earlier.stamps == stamp_files(files) or earlier.input_hash == hash_files(files):
            (job.out / "failed" / f"{item.case}.json").unlink(missing_ok=True)  # of a death between two records
            return with_changes_named(earlier, job.out)
    except OSError:
        return None
    return None


def _sources(job: FolderJob, item: WorkItem) -> tuple[Path, ...]:
    """The files that decide a mask, those of the context among them."""
    return item.files + (context_files(item.files, item.root) if job.model.plan.context else ())


def _attempt(step: Callable[[FolderJob, _Case], None], job: FolderJob, case: _Case) -> _Case:
    """A step of a case, unless what became of it is known; an error becomes that."""
    if case.prediction is not None:
        return case
    began, name = time.monotonic(), case.item.case
    try:
        step(job, case)
    except Exception as error:  # one scan must not end the folder; the traceback goes to the debug log
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise _unwritable(job.out, error) from error
        problem = item_error(error, f"{name} cannot be predicted", ScanError)
        is_foreign = isinstance(error, ForeignFileError)
        outputs = job.records.outputs_of(name) if is_foreign else job.records.written.get(name, {})
        case.prediction = Prediction(case=name, status="failed", message=str(problem), outputs=outputs)
    case.seconds += time.monotonic() - began
    return case


def _read(job: FolderJob, case: _Case) -> None:
    item, model = case.item, job.model
    case.prediction = _load_unchanged(job, item)
    if case.prediction is not None:
        case.is_skipped = True
        return
    refuse_foreign_files(job.out, job.records, item.case)
    for name in reversed(files_of(item.case)):  # those of an earlier scan or model, its record first
        (job.out / name).unlink(missing_ok=True)
    if item.is_burned_in:
        logger.warning("%s: %s", item.case, BURNED_IN)
    if item.problem:
        case.prediction = Prediction(case=item.case, status="failed", message=item.problem)
        return
    refuse_too_large_to_read(item.case, [e.shape for e in item.entries if e], job.max_memory)
    case.scan = _read_whole(job, case)
    if case.scan is None:
        return
    refuse_too_large(
        case.scan,
        model.plan,
        model.record.inference,
        job.max_memory,
        n_networks=model.n_networks,
        with_probabilities=job.with_probabilities,
        doubts=unlike_grid(case.scan.grid, model.plan, model.record.seen),
    )
    case.prepared = model.prepare(case.scan)
    job.records.release(item.case)  # while it waits for its turn, another's death is not its own


def _read_whole(job: FolderJob, case: _Case) -> Scan | None:
    """The scan, from files that stayed as they are; None if it was set aside. Raises `ScanError`."""
    item, files, has_begun = case.item, case.item.files, False
    problem: Exception | None = None
    for wait in (0.0, *RETRY_AFTER_S):
        time.sleep(wait)
        try:
            files = _sources(job, item)
            case.stamps = stamp_files(files)
            began = case.attempts if has_begun else job.records.begin(item.case, case.stamps)
            if isinstance(began, Prediction):
                case.prediction, case.attempts = began, began.attempts
                return None
            case.attempts, has_begun = began, True
            case.input_hash = hash_files(files)
            scan = item.read(job.model.plan.channels, job.model.record.scans)
            if stamp_files(files) == case.stamps:
                return replace(scan, notes=(*scan.notes, *unread_context(scan, job.model.plan.context)))
            problem = ScanError(
                f"{item.case} changed while it was read", remedy="run again when its files are complete"
            )
        except (MedHybridError, OSError) as error:
            problem = error
            if not may_pass(error) and stay(files, case.stamps):
                break
    if isinstance(problem, OSError) and problem.errno not in NO_ROOM:
        raise ScanError(
            f"{item.case} cannot be read",
            found=problem.strerror or str(problem),
            remedy="run again when its files are back",
        ) from problem
    assert problem is not None
    raise problem


def _infer(job: FolderJob, case: _Case) -> None:
    assert case.scan is not None
    assert case.prepared is not None
    job.records.begin(case.item.case, case.stamps)
    case.inferred = job.model.infer(case.scan, case.prepared, with_probabilities=job.with_probabilities)
    case.prepared = None


def _conclude(job: FolderJob, case: _Case) -> None:
    scan, name = case.scan, case.item.case
    assert scan is not None
    assert case.inferred is not None
    made = job.model.conclude(scan, case.inferred)
    note = partial(job.records.note_output, name)
    written = write_outputs(job.out, name, scan, made, job.model.record, job.deidentifier, note=note)
    burned_in = BURNED_IN if case.item.is_burned_in else ""
    notes = [*made.reasons, *scan.notes, case.item.note, burned_in, *written.notes]
    case.prediction = Prediction(
        case=name,
        status="done",
        message="; ".join(filter(None, notes)),
        score=round(made.score, 4),
        verdict=made.verdict,
        measures=written.measures,
        outputs=written.hashes,
    )


def _finish(job: FolderJob, case: _Case) -> Outcome:
    """What became of a case, on record if it is done; and whether it was done before."""
    item, prediction = case.item, case.prediction
    assert prediction is not None
    case.scan = case.prepared = case.inferred = None  # the next one may need the memory
    if case.is_skipped:
        return prediction, True
    told: dict[str, Any] = {"seconds": round(case.seconds, 3), "attempts": case.attempts, "worker": this_worker()}
    told |= {"made_by": job.made_by, "stamps": case.stamps, "input_hash": case.input_hash}
    prediction = with_source(prediction.model_copy(update=told), item, job.deidentifier)
    if job.deidentifier is not None:
        message = without_names(prediction.message, item, item.case)
        prediction = prediction.model_copy(update={"message": message})
    try:
        job.records.end(prediction)
    except OSError as error:
        raise _unwritable(job.out, error) from error
    return prediction, False
