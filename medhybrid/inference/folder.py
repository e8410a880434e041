"""The folder job: every scan of a work list to a mask, a row of measurements, and a record of what was done.

OUT/masks/<case>.nii.gz   the label map on the scan's own grid
OUT/seg/<case>.dcm        the same as DICOM SEG, for DICOM input
OUT/probabilities/        on request: <case>.nii.gz (X, Y, Z, label), <case>_uncertainty.nii.gz (entropy, 0 to 1), and
                          <case>.dcm, a FRACTIONAL SEG, for DICOM input
OUT/sr/<case>.dcm         volumes and diameters as a DICOM structured report that refers to the SEG
OUT/done/<case>.json      what was done with what: a second run skips what is unchanged
OUT/results.csv           a row a scan
OUT/run.json              model, versions, counts
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import ndimage

from medhybrid.data.prepare import PreparedImage
from medhybrid.data.store import hash_files, stamp_files
from medhybrid.errors import MedHybridError, ScanError
from medhybrid.inference.confidence import uncertainty
from medhybrid.inference.memory import refuse_too_large
from medhybrid.inference.model import Inferred, Model, Segmentation
from medhybrid.inference.stages import in_stages
from medhybrid.inference.worklist import WorkItem, WorkList, without_names
from medhybrid.metrics import Component, measure_components, measure_whole
from medhybrid.scans import BURNED_IN, Scan, write_nifti
from medhybrid.scans.context import context_files
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg

logger = logging.getLogger(__name__)

RESULTS_EVERY_S = 2.0
"""Least time between two versions of `results.csv`, whose every row is written anew."""

NOTHING = np.zeros((1, 1, 1), bool)

Regions = dict[str, tuple[Component, list[Component]]]
"""By label: all of it, and its components."""


class LabelMeasure(BaseModel):
    """Size of one label in one scan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_ml: float
    n_components: int
    largest_ml: float
    largest_mm: float


class Prediction(BaseModel):
    """What became of one scan."""

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
    stamps: list[tuple[str, int, int]] = []


@dataclass(frozen=True, slots=True)
class _Job:
    """What is the same for every scan."""

    model: Model
    out: Path
    made_by: str
    deidentifier: Deidentifier | None
    with_probabilities: bool
    max_memory: int | None


@dataclass(slots=True)
class _Case:
    """A scan on its way: what each step leaves for the next, and what became of it as soon as that is known."""

    item: WorkItem
    prediction: Prediction | None = None
    is_skipped: bool = False
    seconds: float = 0.0
    stamps: list[tuple[str, int, int]] = field(default_factory=list)
    input_hash: str = ""
    scan: Scan | None = None
    prepared: PreparedImage | None = None
    inferred: Inferred | None = None


def predict_worklist(
    model: Model,
    work: WorkList,
    out: Path,
    *,
    deidentifier: Deidentifier | None = None,
    with_probabilities: bool = False,
    on_case: Callable[[int, Prediction, bool], None] = lambda *_: None,
    at_once: bool | None = None,
    max_memory: int | None = None,
) -> list[Prediction]:
    """Predict every item; a bad scan is reported and the others go on.

    Parameters
    ----------
    deidentifier : Deidentifier, optional
        Cleans what DICOM output and messages repeat of the input; the work list has its names already.
    with_probabilities : bool
        Write the probabilities of the labels beside the masks.
    on_case : callable
        Told (number done, prediction, whether it was skipped as unchanged) after each.
    at_once : bool, optional
        Read the next scan and write the last one while one is computed; by default where the network is not on the CPU, which
        has enough to do with it.
    max_memory : int, optional
        Bytes that a scan may need; one that needs more is refused. By default what the process could have.
    """
    for name in ("masks", "done"):
        (out / name).mkdir(parents=True, exist_ok=True)
    job = _Job(model, out, fingerprint_of(model), deidentifier, with_probabilities, max_memory)
    if at_once is None:
        at_once = model.device.type != "cpu"
    read = lambda item: _attempt(_read, job, _Case(item))  # noqa: E731
    infer = partial(_attempt, _infer, job)
    write = lambda case: _finish(job, _attempt(_conclude, job, case))  # noqa: E731
    predictions: list[Prediction] = []
    written_at = time.monotonic()
    try:
        for n, (prediction, is_skipped) in enumerate(
            in_stages(work.items, read, infer, write, at_once=at_once), start=1
        ):
            predictions.append(prediction)
            on_case(n, prediction, is_skipped)
            if time.monotonic() - written_at > RESULTS_EVERY_S:
                write_results(out / "results.csv", predictions, model.plan.labels)
                written_at = time.monotonic()
    finally:
        if predictions or not work.items:  # else the table of an earlier call stays
            write_results(out / "results.csv", predictions, model.plan.labels)
    return predictions


def fingerprint_of(model: Model) -> str:
    """Hash of what decides a mask besides the scan: weights, plan, windows."""
    r = model.record
    text = (
        r.weights_sha256
        + r.plan.model_dump_json()
        + r.inference.model_dump_json()
        + r.scans.model_dump_json()
        + r.model_dump_json(include={"channel_map"})
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _load_unchanged(job: _Job, item: WorkItem) -> Prediction | None:
    try:
        earlier = Prediction.model_validate_json((job.out / "done" / f"{item.case}.json").read_bytes())
        if earlier.made_by != job.made_by or not (job.out / "masks" / f"{item.case}.nii.gz").is_file():
            return None
        if job.with_probabilities and not (job.out / "probabilities" / f"{item.case}.nii.gz").is_file():
            return None
        files = _sources(job, item)
        if earlier.stamps == stamp_files(files) or earlier.input_hash == hash_files(files):
            return earlier
    except (OSError, ValidationError, ValueError):
        return None
    return None


def _sources(job: _Job, item: WorkItem) -> tuple[Path, ...]:
    """The files that decide a mask, those of the context among them."""
    return item.files + (context_files(item.files) if job.model.plan.context else ())


def _attempt(step: Callable[[_Job, _Case], None], job: _Job, case: _Case) -> _Case:
    """A step of a case, unless what became of it is known; an error becomes that."""
    if case.prediction is not None:
        return case
    began, name = time.monotonic(), case.item.case
    try:
        step(job, case)
    except MedHybridError as error:
        case.prediction = Prediction(case=name, status="failed", message=str(error))
    except Exception as error:  # one scan must not end the folder; the traceback goes to the debug log
        logger.debug("case %s", name, exc_info=error)
        message = f"unexpected {type(error).__name__}: {str(error)[:200]}"
        case.prediction = Prediction(case=name, status="failed", message=message)
    case.seconds += time.monotonic() - began
    return case


def _read(job: _Job, case: _Case) -> None:
    item, model = case.item, job.model
    case.prediction = _load_unchanged(job, item)
    if case.prediction is not None:
        case.is_skipped = True
        return
    (job.out / "done" / f"{item.case}.json").unlink(missing_ok=True)
    for name in (f"{item.case}.nii.gz", f"{item.case}_uncertainty.nii.gz", f"{item.case}.dcm"):
        (job.out / "probabilities" / name).unlink(missing_ok=True)  # those of an earlier mask
    if item.is_burned_in:
        logger.warning("%s: %s", item.case, BURNED_IN)
    if item.problem:
        case.prediction = Prediction(case=item.case, status="failed", message=item.problem)
        return
    files = _sources(job, item)
    case.stamps, case.input_hash = stamp_files(files), hash_files(files)
    case.scan = item.read(model.plan.channels, model.record.scans)
    refuse_too_large(
        case.scan,
        model.plan,
        model.record.inference,
        job.max_memory,
        n_networks=model.n_networks,
        with_probabilities=job.with_probabilities,
    )
    case.prepared = model.prepare(case.scan)


def _infer(job: _Job, case: _Case) -> None:
    assert case.scan is not None
    assert case.prepared is not None
    case.inferred = job.model.infer(case.scan, case.prepared, with_probabilities=job.with_probabilities)
    case.prepared = None


def _conclude(job: _Job, case: _Case) -> None:
    scan, name = case.scan, case.item.case
    assert scan is not None
    assert case.inferred is not None
    made = job.model.conclude(scan, case.inferred)
    regions = _regions(made.mask, job.model.plan.labels, scan.affine)
    _write(job, name, scan, made, regions)
    case.prediction = Prediction(
        case=name,
        status="done",
        message="; ".join([*scan.notes, *([BURNED_IN] if case.item.is_burned_in else [])]),
        score=round(made.score, 4),
        verdict=made.verdict,
        measures=_measures(regions),
        made_by=job.made_by,
        input_hash=case.input_hash,
        stamps=case.stamps,
    )


def _finish(job: _Job, case: _Case) -> tuple[Prediction, bool]:
    """What became of a case, on record if it is done; and whether it was done before."""
    prediction, item = case.prediction, case.item
    assert prediction is not None
    case.scan = case.prepared = case.inferred = None  # the next one may need the memory
    if case.is_skipped:
        return prediction, True
    prediction = prediction.model_copy(update={"seconds": round(case.seconds, 3)})
    if job.deidentifier is not None:
        message = without_names(prediction.message, item, item.case)
        prediction = prediction.model_copy(
            update={"message": message, "stamps": [(item.case, size, time) for _, size, time in prediction.stamps]}
        )
    if prediction.status == "done":
        _write_text(job.out / "done" / f"{item.case}.json", prediction.model_dump_json(indent=1))
    return prediction, False


def _write(job: _Job, case: str, scan: Scan, made: Segmentation, regions: Regions) -> None:
    write_nifti(job.out / "masks" / f"{case}.nii.gz", made.mask, scan.affine, like=scan.source)
    if made.probabilities is not None:
        folder = job.out / "probabilities"
        write_nifti(folder / f"{case}.nii.gz", made.probabilities[1:], scan.affine, like=scan.source)
        doubt = uncertainty(made.probabilities)
        write_nifti(folder / f"{case}_uncertainty.nii.gz", doubt, scan.affine, like=scan.source)
    if scan.source.kind != "dicom":
        return
    try:
        _write_dicom(job, case, scan, made, regions)
    except Exception as error:  # headers of real files break the standard in many ways
        logger.debug("case %s", case, exc_info=error)
        raise ScanError(
            f"{case}: the mask is written, but its DICOM SEG or report cannot be",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="use the mask in masks/, or export the series again",
        ) from error


def _write_dicom(job: _Job, case: str, scan: Scan, made: Segmentation, regions: Regions) -> None:
    record, out = job.model.record, job.out
    info = SegInfo(record.plan.labels, record.medhybrid_version, record.weights_sha256, record.label_codes)
    seg = out / "seg" / f"{case}.dcm"
    sources = write_seg(seg, made.mask, scan, info, deidentifier=job.deidentifier)
    if made.probabilities is not None:
        target, shares = out / "probabilities" / f"{case}.dcm", made.probabilities[1:]
        write_seg(target, made.mask, scan, info, probabilities=shares, deidentifier=job.deidentifier)
    rows = []
    for name, (whole, lesions) in regions.items():
        for n, c in enumerate((whole, *lesions)):
            rows.append(RegionMeasure(name, n, c.volume_ml, c.diameter_mm))
    (out / "sr").mkdir(parents=True, exist_ok=True)
    write_report(out / "sr" / f"{case}.dcm", seg, sources, rows, record.label_codes)


def _regions(mask: NDArray[np.generic], labels: Mapping[str, int], affine: NDArray[np.float64]) -> Regions:
    """Of each label, all of it and its components."""
    boxes = dict(enumerate(ndimage.find_objects(mask, max(labels.values())), start=1))
    regions = {}
    for name, value in labels.items():  # one at a time: each may be as large as the scan
        part = mask[boxes[value]] == value if boxes[value] else NOTHING
        regions[name] = measure_whole(part, affine), measure_components(part, affine)
    return regions


def _measures(regions: Regions) -> dict[str, LabelMeasure]:
    return {
        name: LabelMeasure(
            volume_ml=round(whole.volume_ml, 4),
            n_components=len(lesions),
            largest_ml=round(max((c.volume_ml for c in lesions), default=0.0), 4),
            largest_mm=round(lesions[0].diameter_mm if lesions else 0.0, 2),
        )
        for name, (whole, lesions) in regions.items()
    }


def write_results(path: Path, predictions: list[Prediction], labels: Mapping[str, int]) -> None:
    """`results.csv`: a row a scan, columns by label."""
    pending = path.with_name(f".{os.getpid()}.{path.name}")
    with pending.open("w", newline="") as file:
        writer = csv.writer(file)
        sizes = [f"{n} {m}" for n in labels for m in ("volume_ml", "n_components", "largest_ml", "largest_mm")]
        writer.writerow(["case", "status", "verdict", "score", *sizes, "seconds", "message"])
        for p in predictions:
            row: list[Any] = []
            for name in labels:
                m = p.measures.get(name)
                row += [m.volume_ml, m.n_components, m.largest_ml, m.largest_mm] if m else [""] * 4
            score = "" if p.score is None else f"{p.score:.4f}"
            writer.writerow([p.case, p.status, p.verdict, score, *row, f"{p.seconds:.2f}", p.message])
    pending.replace(path)


def _write_text(path: Path, text: str) -> None:
    pending = path.with_name(f".{os.getpid()}.{path.name}")
    pending.write_text(text)
    pending.replace(path)
