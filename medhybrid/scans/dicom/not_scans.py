"""Modality of a DICOM object, by its header or its class, and the modalities that are not scans."""

from __future__ import annotations

from typing import Any

from medhybrid.scans.dicom.attributes import text

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
    f"1.2.840.10008.5.1.4.1.1.{end}": modality
    for modality, ends in {
        "SEG": ("66.4", "66.7"),
        "RTSTRUCT": ("481.3",),
        "CT": ("2", "2.1", "2.2"),
        "MR": ("4", "4.1", "4.4"),
        "PT": ("128", "128.1", "130"),
        "NM": ("20",),
        "CR": ("1",),
        "DX": ("1.1", "1.1.1"),
        "MG": ("1.2", "1.2.1"),
    }.items()
    for end in ends
}
"""Modalities by SOP class, for files without the attribute Modality."""


def modality_of(header: Any) -> str:
    """Return the modality in a header, in upper case, or that of its SOP class; empty if both are unknown."""
    return text(header, "Modality").upper() or CLASS_MODALITIES.get(text(header, "SOPClassUID"), "")
