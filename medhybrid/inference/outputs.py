"""The files of one scan: mask, probabilities, and for DICOM input a Segmentation and a structured report."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping
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
from medhybrid.scans import Scan, write_nifti
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, find_invalid_values, write_seg
from medhybrid.scans.dicom.source_values import hide_patient

logger = logging.getLogger(__name__)

NOTHING = np.zeros((1, 1, 1), bool)

Regions = dict[str, tuple[Component, list[Component]]]
"""By label: all of it, and its components."""


@dataclass(frozen=True, slots=True)
class WrittenOutputs:
    """Measures by label of a scan whose files were written, their hashes, and notes on DICOM files that could not be."""

    measures: dict[str, LabelMeasure]
    hashes: dict[str, str]
    notes: tuple[str, ...] = ()


FOLDERS = ("masks", "probabilities", "seg", "sr", "failed", "done")
"""Below the output folder, in the order in which their files may be trusted: the record comes last."""


def files_of(case: str) -> list[str]:
    """Names, below the output folder, of all files that a case may have; in the order of `FOLDERS`."""
    masks = [f"masks/{case}.nii.gz"]
    shares = [f"probabilities/{case}{end}" for end in (".nii.gz", "_uncertainty.nii.gz", ".dcm")]
    return [
        *masks,
        *shares,
        *(f"{kind}/{case}.dcm" for kind in ("seg", "sr")),
        f"failed/{case}.json",
        f"done/{case}.json",
    ]


class _Writer:
    """Writes files below an output folder whole, and notes the hash of each before it gets its name."""

    def __init__(self, out: Path, note: Callable[[str, str], None]) -> None:
        self.out, self._note = out, note
        self.hashes: dict[str, str] = {}

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file under its name below the folder."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pending = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
        try:
            write(pending)
            with pending.open("rb") as file:
                os.fsync(file.fileno())  # what is on record as done survives a power cut
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
    """Write the files of a scan; return its measures by label.

    `note` is called with the name and hash of each file before it gets its name.

    Headers of real series break the standard in many ways. A DICOM output that they do not allow leaves the mask as it is: a
    note says which could not be written and why.

    Raises
    ------
    OSError
        If there is no room.
    """
    regions = _regions(made.mask, record.plan.labels, scan.affine)
    writer = _Writer(out, note)

    def put(name: str, array: NDArray[np.generic]) -> None:
        writer.put(name, lambda path: write_nifti(path, array, scan.affine, like=scan.source))

    put(f"masks/{case}.nii.gz", made.mask)
    if made.probabilities is not None:
        put(f"probabilities/{case}.nii.gz", made.probabilities[1:])
        put(f"probabilities/{case}_uncertainty.nii.gz", uncertainty(made.probabilities))
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
    """Write SEG and report; return what could not be written, and the source's values that they do not repeat."""
    info = SegInfo(record.plan.labels, record.medhybrid_version, record.weights_sha256, record.label_codes)
    seg = f"seg/{case}.dcm"
    sources: list[Any] = []
    notes: list[str] = []

    def write_segmentation() -> None:
        writer.put(seg, lambda path: sources.extend(write_seg(path, made.mask, scan, info, deidentifier=deidentifier)))
        if invalid := find_invalid_values(scan):
            notes.append(f"invalid in the source, so empty or replaced in SEG and report: {', '.join(invalid)}")

    def write_probabilities() -> None:
        assert made.probabilities is not None
        shares = made.probabilities[1:]
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

    problem = _try_to_write("the DICOM SEG and its report", write_segmentation, case, scan)
    notes += problem
    if made.probabilities is not None and not problem:
        notes += _try_to_write("the DICOM SEG of probabilities", write_probabilities, case, scan)
    if not problem:
        notes += _try_to_write("the DICOM report", write_measures, case, scan)
    return tuple(notes)


def _try_to_write(what: str, write: Callable[[], None], case: str, scan: Scan) -> list[str]:
    """Write an output; return the reason why it could not be written. Raises `OSError` if there is no room."""
    try:
        write()
    except Exception as error:  # headers of real files break the standard in many ways
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        logger.debug("case %s", case, exc_info=error)
        is_ours = isinstance(error, MedHybridError)
        reason = (
            str(error)
            if is_ours
            else f"{type(error).__name__}: {hide_patient(str(error), scan.source.header[0])[:200]}"
        )
        return [f"{what} could not be written; the mask is complete. Found {reason.rstrip('.')}"]
    return []


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
