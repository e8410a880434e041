"""Prediction of a folder: a mask, a row of measurements and a record for each scan of a work list.

OUT/masks/<case>.nii.gz   label map on the scan's own grid
OUT/label_images/         for PNG, JPEG, BMP and TIFF input: the same label map as <case>.png or <case>.tif
OUT/seg/<case>.dcm        the same label map as a DICOM SEG, for DICOM input
OUT/probabilities/        on request: <case>.nii.gz (X, Y, Z, label), <case>_uncertainty.nii.gz (entropy, 0 to 1), and
                          <case>.dcm, a FRACTIONAL SEG, for DICOM input
OUT/sr/<case>.dcm         volumes and diameters as a DICOM structured report that refers to the SEG
OUT/results.csv, work.csv, done/, failed/, started/: state and result of each scan (records.py)
OUT/run.json              model, versions, counts
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medhybrid.data.channels import channel_assignment_of
from medhybrid.data.pictures import is_known_image
from medhybrid.data.prepare import PreparedImage
from medhybrid.data.store import Stamps, hash_files, stamp_files
from medhybrid.errors import NO_ROOM, MedHybridError, ScanError, item_error
from medhybrid.geometry import turn_to_ras
from medhybrid.inference.collect import collect
from medhybrid.inference.folder_job import FolderJob, ScanOutcome, unwritable
from medhybrid.inference.foreign_files import ForeignFileError, refuse_foreign_files, with_changes_named
from medhybrid.inference.kept_names import with_source
from medhybrid.inference.memory import refuse_too_large, refuse_too_large_to_read
from medhybrid.inference.model import Inferred, Segmenter
from medhybrid.inference.outputs import files_of, write_outputs
from medhybrid.inference.passing import may_pass, stay
from medhybrid.inference.records import Prediction, this_worker
from medhybrid.inference.scan_checks import refuse_single_slice, unlike_grid
from medhybrid.inference.stages import in_stages
from medhybrid.inference.worklist import WorkItem, WorkList, without_names
from medhybrid.scans import BURNED_IN, Scan
from medhybrid.scans.context import context_files, unread_context
from medhybrid.scans.image_files import files_beside

logger = logging.getLogger(__name__)

RETRY_AFTER_S = (1.0, 4.0)  # waits before a scan is read again: its files changed, or the disk did not answer


@dataclass(slots=True)
class _Case:
    """State of one scan between the steps: intermediate results, and the outcome as soon as it is known."""

    item: WorkItem
    prediction: Prediction | None = None
    is_skipped: bool = False
    seconds: float = 0.0
    attempts: int = 1
    stamps: Stamps = field(default_factory=list)
    input_hash: str = ""
    scan: Scan | None = None
    is_training_scan: bool = False
    prepared: PreparedImage | None = None
    inferred: Inferred | None = None


def predict_items(job: FolderJob, items: Sequence[WorkItem], *, at_once: bool | None = None) -> Iterator[ScanOutcome]:
    """Predict scans one after the other. A scan that fails is reported as failed, and the next one follows.

    Parameters
    ----------
    at_once : bool, optional
        Read the next scan and write the previous one while a scan is computed. Default: only if the network is not on the CPU,
        since the network alone uses a CPU fully.

    Raises
    ------
    OutputError
        If the disk is full or cannot be written to, which would fail for the other scans as well.
    """
    if at_once is None:
        at_once = job.model.device.type != "cpu"
    read = lambda item: _attempt(_read, job, _Case(item))  # noqa: E731
    infer = partial(_attempt, _infer, job)
    write = lambda case: _finish(job, _attempt(_conclude, job, case))  # noqa: E731
    try:
        yield from in_stages(items, read, infer, write, at_once=at_once)
    finally:
        for case in list(job.records.in_hand):  # interrupted while the worker is alive: not a failed attempt
            job.records.release(case)


def predict_worklist(
    model: Segmenter,
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


def _load_unchanged(job: FolderJob, item: WorkItem) -> Prediction | None:
    """Return the earlier result of a scan if model, files and outputs are unchanged; otherwise None."""
    try:
        earlier = job.records.done(item.case)
        assignment = channel_assignment_of(item.entries)
        if earlier is None or (earlier.made_by, earlier.channel_assignment) != (job.made_by, assignment):
            return None
        kinds = ["masks", *(["probabilities"] if job.with_probabilities else [])]
        if not all((job.out / kind / f"{item.case}.nii.gz").is_file() for kind in kinds):
            return None
        if not all((job.out / name).exists() for name in earlier.outputs):
            return None  # some outputs were removed: predict again
        files = _sources(job, item)
        if earlier.stamps == stamp_files(files) or earlier.input_hash == hash_files(files):
            (job.out / "failed" / f"{item.case}.json").unlink(
                missing_ok=True
            )  # left if the worker died between two records
            return with_changes_named(earlier, job.out)
    except OSError:
        return None
    return None


def _sources(job: FolderJob, item: WorkItem) -> tuple[Path, ...]:
    """Return the files that decide a mask, including those with the values of `plan.context`."""
    beside = tuple(p for f in item.files for p in files_beside(f))
    return item.files + beside + (context_files(item.files, item.root) if job.model.plan.context else ())


def _attempt(step: Callable[[FolderJob, _Case], None], job: FolderJob, case: _Case) -> _Case:
    """Run a step for a case that has no outcome yet; an error becomes the outcome `failed`."""
    if case.prediction is not None:
        return case
    began, name = time.monotonic(), case.item.case
    try:
        step(job, case)
    except Exception as error:  # one scan must not end the folder; the traceback goes to the debug log
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise unwritable(job.out, error) from error
        problem = item_error(error, f"{name} cannot be predicted", ScanError)
        is_foreign = isinstance(error, ForeignFileError)
        outputs = job.records.outputs_of(name) if is_foreign else job.records.written.get(name, {})
        case.prediction = Prediction(case=name, status="failed", message=str(problem), outputs=outputs)
    case.seconds += time.monotonic() - began
    return case


def _read(job: FolderJob, case: _Case) -> None:
    """Read and prepare the scan, unless it has a result already or cannot be predicted."""
    item, model = case.item, job.model
    case.prediction = _load_unchanged(job, item)
    if case.prediction is not None:
        case.is_skipped = True
        return
    refuse_foreign_files(job.out, job.records, item.case)
    for name in reversed(
        files_of(item.case)
    ):  # outputs of an earlier scan or model; the record first, as it vouches for the others
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
        doubts=unlike_grid(model.grid_of(case.scan), model.plan, model.record.seen),
        shape=model.network_shape(case.scan),
        activations=model.activations,
    )
    turned = turn_to_ras(case.scan.affine).apply(case.scan.array)
    case.is_training_scan = is_known_image(turned, model.record.training_images)
    case.prepared = model.prepare(case.scan)
    job.records.release(
        item.case
    )  # while it waits for the network, the death of the worker does not count as its attempt


def _read_whole(job: FolderJob, case: _Case) -> Scan | None:
    """Return the scan if its files did not change while it was read; None after too many failed attempts.

    Raises
    ------
    ScanError
        If the files cannot be read, or still change after the last wait of `RETRY_AFTER_S`.
    """
    item, files, has_started = case.item, case.item.files, False
    problem: Exception | None = None
    for wait in (0.0, *RETRY_AFTER_S):
        time.sleep(wait)
        try:
            files = _sources(job, item)
            case.stamps = stamp_files(files)
            began = case.attempts if has_started else job.records.begin(item.case, case.stamps)
            if isinstance(began, Prediction):
                case.prediction, case.attempts = began, began.attempts
                return None
            case.attempts, has_started = began, True
            case.input_hash = hash_files(files)
            scan = item.read(job.model.plan.channels, job.model.record.scans)
            refuse_single_slice(scan, job.model.plan)
            if stamp_files(files) == case.stamps:
                return replace(scan, notes=(*scan.notes, *unread_context(scan, job.model.plan.context)))
            problem = ScanError(
                f"{item.case} cannot be predicted: it changed while it was read",
                remedy="run again when the files are complete",
            )
        except (MedHybridError, OSError) as error:
            problem = error
            if not may_pass(error) and stay(files, case.stamps):
                break
    if isinstance(problem, OSError) and problem.errno not in NO_ROOM:
        raise ScanError(
            f"{item.case} cannot be read",
            found=problem.strerror or str(problem),
            remedy="run again when the files can be read",
        ) from problem
    assert problem is not None
    raise problem


def _infer(job: FolderJob, case: _Case) -> None:
    """Run the network on the prepared scan."""
    assert case.scan is not None
    assert case.prepared is not None
    job.records.begin(case.item.case, case.stamps)
    case.inferred = job.model.infer(case.scan, case.prepared, with_probabilities=job.with_probabilities)
    case.prepared = None


def _conclude(job: FolderJob, case: _Case) -> None:
    """Decide mask and verdict, write the outputs, and set the outcome."""
    scan, name = case.scan, case.item.case
    assert scan is not None
    assert case.inferred is not None
    made = job.model.conclude(scan, case.inferred)
    note = partial(job.records.note_output, name)
    written = write_outputs(job.out, name, scan, made, job.model.record, job.deidentifier, note=note)
    burned_in = BURNED_IN if case.item.is_burned_in else ""
    looked = f"looked closely at {100 * made.share:.1f} % of the volume" if job.model.record.inference.focus else ""
    notes = [*made.reasons, *scan.notes, case.item.note, burned_in, *written.notes, looked]
    case.prediction = Prediction(
        case=name,
        status="done",
        message="; ".join(filter(None, notes)),
        score=round(made.score, 4),
        verdict=made.verdict,
        measures=written.measures,
        outputs=written.hashes,
        is_training_scan=case.is_training_scan,
    )


def _finish(job: FolderJob, case: _Case) -> ScanOutcome:
    """Write the record of a case; return its outcome, and whether the scan was skipped as unchanged."""
    item, prediction = case.item, case.prediction
    assert prediction is not None
    case.scan = case.prepared = case.inferred = None  # frees memory for the next scan
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
        raise unwritable(job.out, error) from error
    return prediction, False
