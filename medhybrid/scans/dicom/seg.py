"""DICOM SEG in and out (highdicom)."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.geometry import LPS_FROM_RAS
from medhybrid.scans.scan import Scan, Source

TYPE_2_PATIENT_AND_STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate")
TYPE_2_MORE = ("StudyTime", "AccessionNumber", "ReferringPhysicianName")
"""Attributes that must be present, empty if unknown; many real files lack some."""


def write_seg(path: Path, mask: NDArray[np.generic], scan: Scan, labels: Mapping[str, int], *, version: str) -> None:
    """Write a label map on a DICOM scan's grid as a DICOM SEG.

    Parameters
    ----------
    mask : (X, Y, Z) integer ndarray
        Label map with the values of `labels`.
    scan : Scan
        The DICOM scan it belongs to.
    labels : mapping
        Label name to value; segments are numbered in this order.
    version : str
        Version of the software.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    numbered = np.zeros(mask.shape, np.uint8)
    for number, value in enumerate(labels.values(), start=1):
        numbered[mask == value] = number
    regular = scan.source.regular
    if regular is not None:
        numbered = regular.to_slices(numbered)
    sources = [_complete(d, scan.grid.spacing_mm[2]) for d in scan.source.header]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        algorithm = hd.AlgorithmIdentificationSequence(
            name="medhybrid", version=version, family=codes.DCM.ArtificialIntelligence
        )
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=_on_source_frames(numbered, scan),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                hd.seg.SegmentDescription(
                    segment_number=number,
                    segment_label=name,
                    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                    segmented_property_type=codes.SCT.Lesion,
                    algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                    algorithm_identification=algorithm,
                )
                for number, name in enumerate(labels, start=1)
            ],
            series_instance_uid=generate_uid(),
            series_number=9000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medhybrid",
            manufacturer_model_name="medhybrid",
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description="medhybrid segmentation",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            segmentation.save_as(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _on_source_frames(labels: NDArray[np.uint8], scan: Scan) -> NDArray[np.uint8]:
    """Labels (X, Y, Z) as (frame, row, column), a frame for each frame of the source files, in their order."""
    slices = np.ascontiguousarray(labels.transpose(2, 1, 0))
    if "PerFrameFunctionalGroupsSequence" not in scan.source.header[0]:
        return slices
    if len(scan.source.header) > 1:
        raise ScanError(f"{scan.case}: a volume of several multi-frame files", remedy="use the mask in masks/")
    frames = np.zeros((int(scan.source.header[0].NumberOfFrames), *slices.shape[1:]), np.uint8)
    frames[list(scan.source.frames)] = slices
    return frames


def read_seg(path: Path, labels: Mapping[str, int], *, case: str) -> Scan:
    """Read a DICOM SEG as a label map with the values of `labels` (by segment label).

    Raises
    ------
    ScanError
        If it is no SEG, segments overlap, or a segment is not among `labels`.
    """
    import highdicom as hd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seg = hd.seg.segread(path)
            names = {n: str(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers}
            volume = seg.get_volume(combine_segments=True, dtype=np.uint8)
    except Exception as error:  # the library raises many kinds on damaged or overlapping segments
        raise ScanError(f"{path.name} cannot be read as a label map from DICOM SEG", found=str(error)[:200]) from error
    by_name = {name.casefold(): value for name, value in labels.items()}
    out = np.zeros(volume.array.shape, np.uint8)
    for number, name in names.items():
        if name.casefold() not in by_name:
            raise ScanError(
                f"{path.name}: segment {name!r} is not among the labels", expected=", ".join(labels), found=name
            )
        out[volume.array == number] = by_name[name.casefold()]
    affine = LPS_FROM_RAS @ np.asarray(volume.affine, np.float64)[:, [2, 1, 0, 3]]
    array = np.ascontiguousarray(out.transpose(2, 1, 0))[None]
    return Scan(array, affine, Source("dicom", (path,)), case, ("",))


def _complete(dataset: Any, slice_mm: float) -> Any:
    """A copy with what real files often lack and the writer needs."""
    completed = copy.copy(dataset)
    if not completed.get("SliceThickness"):
        completed.SliceThickness = slice_mm
    if "SpecificCharacterSet" in completed:
        completed.SpecificCharacterSet = "ISO_IR 192"  # texts are decoded already; real files name broken sets
    if "PerFrameFunctionalGroupsSequence" in completed:
        completed.SharedFunctionalGroupsSequence = [_shared_groups(completed)]
    for name in (*TYPE_2_PATIENT_AND_STUDY, *TYPE_2_MORE):
        if name not in completed:
            setattr(completed, name, None)
    return completed


def _shared_groups(dataset: Any) -> Any:
    """The shared groups of a multi-frame image; measures that stand in each frame are taken from the first."""
    from pydicom.dataset import Dataset

    shared = dataset.get("SharedFunctionalGroupsSequence")
    merged = copy.copy(shared[0]) if shared else Dataset()
    first = dataset.PerFrameFunctionalGroupsSequence[0]
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if name not in merged and name in first:
            setattr(merged, name, first[name].value)
    return merged
