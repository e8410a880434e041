"""The files of one scan: mask, probabilities, and for DICOM input a Segmentation and a structured report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.errors import NO_ROOM, ScanError
from medhybrid.inference.confidence import uncertainty
from medhybrid.inference.model import Segmentation
from medhybrid.inference.model_record import ModelRecord
from medhybrid.inference.records import LabelMeasure
from medhybrid.metrics import Component, measure_components, measure_whole
from medhybrid.scans import Scan, write_nifti
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg

logger = logging.getLogger(__name__)

NOTHING = np.zeros((1, 1, 1), bool)

Regions = dict[str, tuple[Component, list[Component]]]
"""By label: all of it, and its components."""


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


def write_outputs(
    out: Path, case: str, scan: Scan, made: Segmentation, record: ModelRecord, deidentifier: Deidentifier | None
) -> dict[str, LabelMeasure]:
    """Write the files of a scan; returns its measures by label.

    Raises
    ------
    ScanError
        If headers of a DICOM series allow no SEG or report; the mask is written then.
    OSError
        If there is no room.
    """
    regions = _regions(made.mask, record.plan.labels, scan.affine)
    write_nifti(out / "masks" / f"{case}.nii.gz", made.mask, scan.affine, like=scan.source)
    if made.probabilities is not None:
        folder = out / "probabilities"
        write_nifti(folder / f"{case}.nii.gz", made.probabilities[1:], scan.affine, like=scan.source)
        doubt = uncertainty(made.probabilities)
        write_nifti(folder / f"{case}_uncertainty.nii.gz", doubt, scan.affine, like=scan.source)
    if scan.source.kind == "dicom":
        try:
            _write_dicom(out, case, scan, made, regions, record, deidentifier)
        except Exception as error:  # headers of real files break the standard in many ways
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            logger.debug("case %s", case, exc_info=error)
            raise ScanError(
                f"{case}: the mask is written, but its DICOM SEG or report cannot be",
                found=f"{type(error).__name__}: {str(error)[:200]}",
                remedy="use the mask in masks/, or export the series again",
            ) from error
    return _measures(regions)


def _write_dicom(
    out: Path,
    case: str,
    scan: Scan,
    made: Segmentation,
    regions: Regions,
    record: ModelRecord,
    deidentifier: Deidentifier | None,
) -> None:
    info = SegInfo(record.plan.labels, record.medhybrid_version, record.weights_sha256, record.label_codes)
    seg = out / "seg" / f"{case}.dcm"
    sources = write_seg(seg, made.mask, scan, info, deidentifier=deidentifier)
    if made.probabilities is not None:
        target, shares = out / "probabilities" / f"{case}.dcm", made.probabilities[1:]
        write_seg(target, made.mask, scan, info, probabilities=shares, deidentifier=deidentifier)
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
