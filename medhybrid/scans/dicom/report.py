"""Writing of measurements as a DICOM structured report: TID 1500 in a Comprehensive 3D SR (highdicom)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.config import LabelCode
from medhybrid.number_text import rounded
from medhybrid.scans.dicom.codes import label_codes
from medhybrid.scans.dicom.source_values import uid_of

DEVICE = "medhybrid"


@dataclass(frozen=True, slots=True)
class RegionMeasure:
    """Size of a segment, or of one lesion in it.

    Attributes
    ----------
    label : str
        Label of the segment.
    lesion : int
        Number of the lesion, from 1; 0 for the whole segment.
    volume_ml, diameter_mm : float
        Volume, and largest distance between two voxel centres of the region.
    """

    label: str
    lesion: int
    volume_ml: float
    diameter_mm: float


def write_report(
    path: Path,
    seg_path: Path,
    sources: Sequence[Any],
    measures: Sequence[RegionMeasure],
    codes: Mapping[str, LabelCode],
) -> None:
    """Write volume and longest diameter of each segment and lesion, with references to the DICOM SEG.

    A lesion refers to its whole segment: DICOM does not allow frame numbers together with a segment number.

    Parameters
    ----------
    path : Path
        The report to write.
    seg_path : Path
        The DICOM SEG with the measured segments.
    sources : sequence of Dataset
        The images that the SEG refers to, as returned by `write_seg`.
    measures : sequence of RegionMeasure
        The measurements. Regions without voxels are omitted: the SEG has no frame for them.
    codes : mapping of str to LabelCode
        Codes of the labels.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes as known
    from pydicom.sr.coding import Code

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = hd.seg.segread(seg_path)
        numbers = {_plain(seg.get_segment_description(n).tracking_id): n for n in seg.segment_numbers}
        observer = hd.sr.ObserverContext(
            observer_type=known.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=str(seg.SeriesInstanceUID), name=DEVICE, manufacturer_name=DEVICE, model_name=DEVICE
            ),
        )
        diameter = Code("103339001", "SCT", "Long Axis")
        millilitre = Code("mL", "UCUM", "mL")
        groups = []
        for m in measures:
            if m.volume_ml <= 0:
                continue
            category, kind, anatomy = label_codes(m.label, codes)
            groups.append(
                hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                    tracking_identifier=hd.sr.TrackingIdentifier(
                        uid=uid_of("region", str(seg.SOPInstanceUID), m.label, str(m.lesion)),
                        identifier=f"{m.label} {m.lesion}" if m.lesion else f"{m.label}, all",
                    ),
                    referenced_segment=hd.sr.ReferencedSegment(
                        sop_class_uid=str(seg.SOPClassUID),
                        sop_instance_uid=str(seg.SOPInstanceUID),
                        segment_number=numbers[_plain(m.label)],
                        source_series=hd.sr.SourceSeriesForSegmentation(str(sources[0].SeriesInstanceUID)),
                    ),
                    finding_type=kind,
                    finding_category=category,
                    finding_sites=[hd.sr.FindingSite(anatomy)] if anatomy else None,
                    measurements=[
                        hd.sr.Measurement(name=known.SCT.Volume, value=rounded(m.volume_ml, 4), unit=millilitre),
                        hd.sr.Measurement(name=diameter, value=rounded(m.diameter_mm, 2), unit=known.UCUM.Millimeter),
                    ],
                )
            )
        report = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=Code("363679005", "SCT", "Imaging procedure"),
            imaging_measurements=groups or _nothing_found(str(seg.SOPInstanceUID)),
            title=known.DCM.ImagingMeasurementReport,
        )
        document = hd.sr.Comprehensive3DSR(
            evidence=[seg, *sources],
            content=report,
            series_number=9001,
            series_instance_uid=uid_of("report's series", str(seg.SOPInstanceUID)),
            sop_instance_uid=uid_of("report", str(seg.SOPInstanceUID), repr(list(measures))),
            instance_number=1,
            manufacturer=DEVICE,
            series_description="medhybrid measurements",
            is_complete=True,
        )
        pending = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            document.save_as(pending)
            pending.replace(path)
        finally:
            pending.unlink(missing_ok=True)


def _plain(label: str) -> str:
    """Return a label without the spaces that DICOM removes from a tracking identifier."""
    return " ".join(str(label).split())


def _nothing_found(seg_uid: str) -> list[Any]:
    """Return a finding for a report without regions. The template requires at least one finding."""
    import highdicom as hd
    from pydicom.sr.coding import Code

    return [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=uid_of("nothing", seg_uid), identifier="nothing found"),
            finding_type=Code("281900007", "SCT", "No abnormality detected"),
        )
    ]
