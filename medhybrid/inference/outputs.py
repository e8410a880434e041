"""Output files of one scan: mask, probabilities, for DICOM a Segmentation and a report, for a PNG or TIFF a label image."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.errors import NO_ROOM, MedHybridError
from medhybrid.inference.confidence import uncertainty
from medhybrid.inference.model import Segmentation
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.records import LabelMeasure
from medhybrid.metrics import Component, measure_components, measure_whole
from medhybrid.number_text import rounded
from medhybrid.scans import Scan, label_image_suffix, write_label_image, write_nifti
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, find_invalid_values, write_seg

logger = logging.getLogger(__name__)

NOTHING = np.zeros((1, 1, 1), bool)

Regions = dict[str, tuple[Component, list[Component]]]
"""For each label: its measures as a whole, and those of its components."""


@dataclass(frozen=True, slots=True)
class WrittenOutputs:
    """Result of writing a scan's files: measures of each label, hashes of the files, notes on DICOM files that failed."""

    measures: dict[str, LabelMeasure]
    hashes: dict[str, str]
    notes: tuple[str, ...] = ()


OF_MAP = "_uncertainty"
"""Ending of the name of a scan's uncertainty map."""

FOLDERS = ("masks", "label_images", "probabilities", "seg", "sr", "failed", "done")
"""Folders of outputs, in the order in which they are written: the record comes last, when all others are complete."""


def files_of(case: str) -> list[str]:
    """Return the names of all files that a case may have in the output folder, in the order of `FOLDERS`."""
    masks = [f"masks/{case}.nii.gz"]
    shares = [f"probabilities/{case}{end}" for end in (".nii.gz", f"{OF_MAP}.nii.gz", ".dcm")]
    return [
        *masks,
        *(f"label_images/{case}{end}" for end in (".png", ".tif")),
        *shares,
        *(f"{kind}/{case}.dcm" for kind in ("seg", "sr")),
        f"failed/{case}.json",
        f"done/{case}.json",
    ]


class _Writer:
    """Writer of complete files below an output folder: the hash of each file is noted before it gets its final name."""

    def __init__(self, out: Path, note: Callable[[str, str], None]) -> None:
        self.out, self._note = out, note
        self.hashes: dict[str, str] = {}

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file under a temporary name, note its hash, and rename it."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pending = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
        try:
            write(pending)
            with pending.open("rb") as file:
                os.fsync(file.fileno())  # the file survives a power failure before its record says "done"
                self.hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
            self._note(name, self.hashes[name])
            pending.replace(path)
        except BaseException:
            self.hashes.pop(name, None)
            pending.unlink(missing_ok=True)
            raise


def write_outputs(
    out: Path,
    case: str,
    scan: Scan,
    made: Segmentation,
    record: ModelRecord,
    deidentifier: Deidentifier | None,
    *,
    note: Callable[[str, str], None] = lambda *_: None,
) -> WrittenOutputs:
    """Write the files of a scan; return its measures for each label.

    Headers of real series violate the standard in many ways. If a DICOM output cannot be written for this reason, the mask is
    still written, and a note gives the output and the reason.

    Parameters
    ----------
    note : callable
        Called with the name and hash of each file before the file gets its final name.

    Raises
    ------
    OSError
        If the disk is full or cannot be written to.
    """
    regions = _regions(made.mask, record.plan.measured, scan.affine)
    writer = _Writer(out, note)

    def put(name: str, array: NDArray[np.generic]) -> None:
        writer.put(name, lambda path: write_nifti(path, array, scan.affine, like=scan.source))

    put(f"masks/{case}.nii.gz", made.mask)
    if scan.source.kind == "raster":
        name = f"label_images/{case}{label_image_suffix(scan.source)}"
        writer.put(name, lambda path: write_label_image(path, made.mask, scan.source))
    if made.probabilities is not None:
        put(f"probabilities/{case}.nii.gz", made.probabilities[1:])
        put(f"probabilities/{case}{OF_MAP}.nii.gz", uncertainty(made.probabilities))
    notes: tuple[str, ...] = ()
    if scan.source.kind == "dicom":
        notes = _write_dicom(writer, case, scan, made, regions, record, deidentifier)
    return WrittenOutputs(_measures(regions), writer.hashes, notes)


def _write_dicom(
    writer: _Writer,
    case: str,
    scan: Scan,
    made: Segmentation,
    regions: Regions,
    record: ModelRecord,
    deidentifier: Deidentifier | None,
) -> tuple[str, ...]:
    """Write SEG and report; return notes on outputs that failed and on invalid values of the source."""
    plan = record.plan
    segments = {n: plan.values_of(c) for n, c in plan.regions.items()} or plan.labels
    info = SegInfo(segments, record.medhybrid_version, record.weights_sha256, record.label_codes)
    seg = f"seg/{case}.dcm"
    sources: list[Any] = []
    notes: list[str] = []

    def write_segmentation() -> None:
        writer.put(seg, lambda path: sources.extend(write_seg(path, made.mask, scan, info, deidentifier=deidentifier)))
        if invalid := find_invalid_values(scan):
            notes.append(f"invalid in the source, therefore empty or replaced in SEG and report: {', '.join(invalid)}")

    def write_probabilities() -> None:
        assert made.probabilities is not None
        shares = made.probabilities[1:]
        if plan.regions:
            shares = np.stack([made.probabilities[list(c)].sum(axis=0) for c in plan.regions.values()])
        writer.put(
            f"probabilities/{case}.dcm",
            lambda path: write_seg(path, made.mask, scan, info, probabilities=shares, deidentifier=deidentifier),
        )

    def write_measures() -> None:
        rows = [
            RegionMeasure(name, n, c.volume_ml, c.diameter_mm)
            for name, (whole, lesions) in regions.items()
            for n, c in enumerate((whole, *lesions))
        ]
        writer.put(
            f"sr/{case}.dcm", lambda path: write_report(path, writer.out / seg, sources, rows, record.label_codes)
        )

    problem = _try_to_write("the DICOM SEG and its report", write_segmentation, case)
    notes += problem
    if made.probabilities is not None and not problem:
        notes += _try_to_write("the DICOM SEG of probabilities", write_probabilities, case)
    if not problem:
        notes += _try_to_write("the DICOM report", write_measures, case)
    return tuple(notes)


def _try_to_write(what: str, write: Callable[[], None], case: str) -> list[str]:
    """Write an output; return the reason if that fails. Raises `OSError` if the disk is full or cannot be written to."""
    try:
        write()
    except Exception as error:  # headers of real files violate the standard in many ways
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        logger.debug("case %s", case, exc_info=error)
        # errors of libraries may quote a patient's values, also such as cannot be read from the header
        reason = str(error) if isinstance(error, MedHybridError) else type(error).__name__
        return [f"{what} could not be written; the mask is complete. Found {reason.rstrip('.')}"]
    return []


def _regions(mask: NDArray[np.generic], labels: Mapping[str, tuple[int, ...]], affine: NDArray[np.float64]) -> Regions:
    """Measure each label or region as a whole, and its components."""
    boxes = dict(enumerate(ndimage.find_objects(mask, max(v for values in labels.values() for v in values)), start=1))
    regions = {}
    for name, values in labels.items():  # one at a time: each array may be as large as the scan
        box = _joint([boxes[v] for v in values if boxes[v]])
        part = np.isin(mask[box], values) if box else NOTHING
        regions[name] = measure_whole(part, affine), measure_components(part, affine)
    return regions


def _joint(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...] | None:
    """Return the box around some boxes; None without one."""
    if not boxes:
        return None
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))


def _measures(regions: Regions) -> dict[str, LabelMeasure]:
    return {
        name: LabelMeasure(
            volume_ml=rounded(whole.volume_ml, 4),
            n_components=len(lesions),
            largest_ml=rounded(max((c.volume_ml for c in lesions), default=0.0), 4),
            largest_mm=rounded(lesions[0].diameter_mm if lesions else 0.0, 2),
        )
        for name, (whole, lesions) in regions.items()
    }
