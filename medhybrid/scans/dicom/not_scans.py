"""DICOM objects that are not scans, by modality and by class."""

from __future__ import annotations

NOT_SCANS = {
    "SR": "structured report",
    "PR": "presentation state",
    "KO": "key object selection",
    "SEG": "segmentation",
    "RTSTRUCT": "radiotherapy structures",
    "RTPLAN": "radiotherapy plan",
    "RTDOSE": "radiotherapy dose",
    "RTIMAGE": "radiotherapy image",
    "REG": "registration",
    "DOC": "document",
    "PLAN": "plan",
}
"""Modalities that are not scans. They are skipped, with a row in the table of scans."""

CLASS_MODALITIES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
"""Modalities by SOP class, for segmentations and structures without the attribute Modality."""
