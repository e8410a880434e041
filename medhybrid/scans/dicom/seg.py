"""Writing of masks as DICOM SEG on the frames of their source (highdicom)."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import LabelCode
from medhybrid.errors import ScanError
from medhybrid.scans.dicom.attributes import number, text
from medhybrid.scans.dicom.codes import label_codes
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.segment_names import segment_names
from medhybrid.scans.dicom.source_values import copy_shallowly, make_valid, set_value, uid_of, valid_uid
from medhybrid.scans.scan import Scan

TYPE_2_PATIENT_AND_STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate")
TYPE_2_MORE = ("StudyTime", "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber")
"""Attributes that must be present, or empty if unknown (type 2). Many real files lack some."""

STAND_IN_CLASS = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary capture: temporary replacement for a SOP class that highdicom does not support."""


@dataclass(frozen=True, slots=True)
class SegInfo:
    """Labels and origin of a segmentation.

    Attributes
    ----------
    labels : dict
        Label values by name, several for a region. Segments are numbered in this order; those of regions may overlap.
    codes : dict
        Codes of the labels, if the config gives them.
    version, model : str
        Version of the software, and hash of the model's weights.
    """

    labels: Mapping[str, int | tuple[int, ...]]
    version: str
    model: str = ""
    codes: Mapping[str, LabelCode] = field(default_factory=dict)

    @property
    def values(self) -> list[tuple[int, ...]]:
        """Return the label values of each segment."""
        return [v if isinstance(v, tuple) else (v,) for v in self.labels.values()]


def write_seg(
    path: Path,
    mask: NDArray[np.generic],
    scan: Scan,
    info: SegInfo,
    *,
    probabilities: NDArray[np.float32] | None = None,
    deidentifier: Deidentifier | None = None,
) -> list[Any]:
    """Write a label map as a DICOM SEG on the frames of its DICOM scan.

    Parameters
    ----------
    mask : (X, Y, Z) integer ndarray
        Label map with the values of `info.labels`, on the scan's grid.
    scan : Scan
        The DICOM scan that the mask belongs to.
    probabilities : (K, X, Y, Z) float32 ndarray, optional
        Probabilities of each label. The SEG is FRACTIONAL with them, and BINARY without.
    deidentifier : Deidentifier, optional
        De-identification of the source attributes that the SEG copies.

    Returns
    -------
    list of Dataset
        The completed source data sets that the SEG refers to.

    Raises
    ------
    ScanError
        If the slices are tiles of one image.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    _refuse_tiles(scan)
    sources = complete_sources(scan)
    if deidentifier is not None:
        sources = deidentifier.clean(sources)
    kinds = hd.seg.SegmentationTypeValues
    made_of = _content_of(mask, sources, info, probabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        algorithm = hd.AlgorithmIdentificationSequence(
            name="medhybrid",
            version=f"{info.version} {info.model[:12]}".strip(),
            family=codes.DCM.ArtificialIntelligence,
            parameters={"weights_sha256": info.model} if info.model else None,
        )

        def make(images: Sequence[Any]) -> Any:
            return hd.seg.Segmentation(
                source_images=images,
                pixel_array=_pixels(mask, scan, info, probabilities),
                segmentation_type=kinds.BINARY if probabilities is None else kinds.FRACTIONAL,
                fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
                segment_descriptions=[
                    _describe(n, label, name, info, algorithm, made_of)
                    for n, (label, name) in enumerate(
                        zip(info.labels, segment_names(info.labels), strict=True), start=1
                    )
                ],
                series_instance_uid=uid_of("series", *made_of),
                series_number=9000,
                sop_instance_uid=uid_of("instance", *made_of),
                instance_number=1,
                manufacturer="medhybrid",
                manufacturer_model_name="medhybrid",
                software_versions=info.version,
                device_serial_number="0",
                content_label="SEGMENTATION",
                series_description="medhybrid segmentation",
                omit_empty_frames=bool(np.isin(mask, [v for values in info.values for v in values]).any()),
            )

        segmentation = _make_for_any_class(make, _for_writer(sources, scan))
        if _is_multi_frame(scan):
            _refer_to_files(segmentation, sources, scan)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            segmentation.save_as(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return sources


def _content_of(
    mask: NDArray[np.generic], sources: Sequence[Any], info: SegInfo, probabilities: NDArray[np.float32] | None
) -> tuple[str, ...]:
    """Return texts that identify a segmentation. The same mask of the same images and model gets the same UIDs."""
    values = mask if probabilities is None else probabilities
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    images = (str(s.SOPInstanceUID) for s in sources)
    return (*images, digest, str(values.shape), info.version, info.model, str(sorted(info.labels.items())))


def _refuse_tiles(scan: Scan) -> None:
    """Refuse slices that are tiles of one image (mosaic): a SEG can refer only to images or their frames."""
    if len(set(scan.source.files)) < len(scan.source.files) and not _is_multi_frame(scan):
        raise ScanError(
            "a DICOM SEG cannot refer to slices that are tiled into one image",
            expected="an image or a frame for each slice",
            found=f"{len(scan.source.files)} slices in {len(set(scan.source.files))} image",
            remedy="use the mask, or export the series as enhanced DICOM",
        )


def _make_for_any_class(make: Callable[[Sequence[Any]], Any], images: Sequence[Any]) -> Any:
    """Create a segmentation of images of any SOP class.

    highdicom does not support private and retired classes. Such images are written as secondary captures, and their classes are
    restored afterwards.
    """
    try:
        return make(images)
    except KeyError as error:
        if str(images[0].SOPClassUID) not in str(error):
            raise
    stand_ins = [copy_shallowly(image) for image in images]
    for image in stand_ins:
        set_value(image, "SOPClassUID", STAND_IN_CLASS)
    segmentation = make(stand_ins)
    classes = {image.SOPInstanceUID: image.SOPClassUID for image in images}

    def restore(item: Any, element: Any) -> None:
        if element.keyword == "ReferencedSOPClassUID":
            element.value = classes.get(item.ReferencedSOPInstanceUID, element.value)

    segmentation.walk(restore)
    return segmentation


def _describe(number: int, label: str, name: str, info: SegInfo, algorithm: Any, made_of: Sequence[str]) -> Any:
    import highdicom as hd

    category, kind, anatomy = label_codes(label, info.codes)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=uid_of("segment", label, *made_of),
        tracking_id=label,
        anatomic_regions=[anatomy] if anatomy else None,
    )


def _pixels(
    mask: NDArray[np.generic], scan: Scan, info: SegInfo, probabilities: NDArray[np.float32] | None
) -> NDArray[np.generic]:
    """Return segment numbers (frame, row, column) or probabilities (frame, row, column, segment) on the source frames."""
    if probabilities is not None:
        return np.stack([_on_source_frames(p, scan) for p in probabilities], axis=-1)
    if any(len(values) > 1 for values in info.values):
        return np.stack([_on_source_frames(np.isin(mask, v).astype(np.uint8), scan) for v in info.values], axis=-1)
    numbered = np.zeros(mask.shape, np.uint8)
    for segment, (value,) in enumerate(info.values, start=1):
        numbered[mask == value] = segment
    return _on_source_frames(numbered, scan)


def complete_sources(scan: Scan) -> list[Any]:
    """Copy the scan's data sets, and add attributes that writers need and real files often lack."""
    sources: list[Any] = []
    for k, header in enumerate(scan.source.header):
        source, _ = _complete(header, scan, k)
        if not text(header, "SOPInstanceUID"):
            set_value(source, "SOPInstanceUID", valid_uid(f"{source.SeriesInstanceUID} {k}"))
        set_value(source, "StudyInstanceUID", (sources[0] if sources else source).StudyInstanceUID)
        sources.append(source)
    return sources


def find_invalid_values(scan: Scan) -> list[str]:
    """Return the keywords of a DICOM scan's attributes that are invalid, and empty or replaced in its outputs."""
    return _complete(scan.source.header[0], scan, 0)[1]


def _for_writer(sources: list[Any], scan: Scan) -> list[Any]:
    """Return the sources in the form that highdicom needs.

    Multi-frame files are joined to one copy that has only the volume's frames, in slice order: highdicom accepts one such file.
    """
    if not _is_multi_frame(scan):
        return sources
    joined = copy_shallowly(sources[0])
    slices = zip(scan.source.files, scan.source.frames, strict=True)
    set_value(joined, "PerFrameFunctionalGroupsSequence", [_whole_groups(sources[f], i) for f, i in slices])
    set_value(joined, "NumberOfFrames", len(scan.source.frames))
    return [joined]


def _whole_groups(source: Any, frame: int) -> Any:
    """Return the functional groups of a frame, with its position and content added from the shared groups if missing."""
    groups = copy_shallowly(source.PerFrameFunctionalGroupsSequence[frame])
    for shared in source.get("SharedFunctionalGroupsSequence", []):
        for name in ("PlanePositionSequence", "FrameContentSequence"):
            if name not in groups and name in shared:
                set_value(groups, name, shared[name].value)
    return groups


def _on_source_frames(labels: NDArray[np.generic], scan: Scan) -> NDArray[np.generic]:
    """Convert values (X, Y, Z) to (frame, row, column), in the order of the volume's frames."""
    if scan.source.regular is not None:
        labels = scan.source.regular.to_slices(labels)
    return np.ascontiguousarray(labels.transpose(2, 1, 0))


def _is_multi_frame(scan: Scan) -> bool:
    return "PerFrameFunctionalGroupsSequence" in scan.source.header[0]


def _refer_to_files(segmentation: Any, sources: Sequence[Any], scan: Scan) -> None:
    """Replace references to the joined file by references to the frames of the source files."""
    from pydicom.dataset import Dataset

    images = {
        id(image): image  # frames of several segments may share an item, which must be changed once
        for frame in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in frame.get("DerivationImageSequence", [])
        for image in derivation.SourceImageSequence
        if "ReferencedFrameNumber" in image
    }
    for image in images.values():
        k = int(image.ReferencedFrameNumber) - 1
        image.ReferencedSOPInstanceUID = sources[scan.source.files[k]].SOPInstanceUID
        image.ReferencedFrameNumber = scan.source.frames[k] + 1
    if len(sources) > 1:
        instances = []
        for source in sources:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
            instances.append(item)
        segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances


def _complete(dataset: Any, scan: Scan, file: int) -> tuple[Any, list[str]]:
    """Copy a data set, add attributes that highdicom needs, and return the keywords of invalid values."""
    completed, slice_mm = copy_shallowly(dataset), scan.grid.spacing_mm[2]
    if not number(completed, "SliceThickness"):
        set_value(completed, "SliceThickness", slice_mm)
    completed.pop("SpacingBetweenSlices", None)  # highdicom computes it from the positions
    changed = make_valid(completed)
    if "PerFrameFunctionalGroupsSequence" in completed:
        set_value(completed, "SharedFunctionalGroupsSequence", [_shared_groups(completed, scan, file)])
    for name in (*TYPE_2_PATIENT_AND_STUDY, *TYPE_2_MORE):
        if name not in completed:
            setattr(completed, name, None)
    return completed, changed


def _shared_groups(dataset: Any, scan: Scan, file: int) -> Any:
    """Return the shared functional groups with the geometry of this volume's frames: a file may hold several volumes."""
    from pydicom.dataset import Dataset

    shared = dataset.get("SharedFunctionalGroupsSequence")
    merged = copy_shallowly(shared[0]) if shared else Dataset()
    first = dataset.PerFrameFunctionalGroupsSequence[scan.source.frames[scan.source.files.index(file)]]
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if first.get(name):
            set_value(merged, name, first[name].value)
    if measures := merged.get("PixelMeasuresSequence"):
        completed = copy_shallowly(measures[0])
        completed.pop("SpacingBetweenSlices", None)
        if not number(completed, "SliceThickness"):
            set_value(completed, "SliceThickness", scan.grid.spacing_mm[2])
        set_value(merged, "PixelMeasuresSequence", [completed])
    return merged
