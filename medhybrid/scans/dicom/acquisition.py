"""Acquisition parameters of a volume: echo time, sequence, contrast agent and others, from its header and first frame.

None of these attributes is meant to identify a patient. Descriptions are free text, so they are not used in names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medhybrid.scans.dicom.attributes import number, text, value_of

Acquisition = dict[str, str | float]

TEXTS = {
    "modality": "Modality",
    "description": "SeriesDescription",
    "protocol": "ProtocolName",
    "sequence": "SequenceName",
    "scanning_sequence": "ScanningSequence",
    "image_type": "ImageType",
    "body_part": "BodyPartExamined",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "contrast_agent": "ContrastBolusAgent",
    "patient_position": "PatientPosition",
}
NUMBERS = {
    "echo_time_ms": "EchoTime",
    "repetition_time_ms": "RepetitionTime",
    "inversion_time_ms": "InversionTime",
    "flip_angle_deg": "FlipAngle",
    "field_strength_t": "MagneticFieldStrength",
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
}

OF_FRAME = {
    "echo_time_ms": "echo",
    "repetition_time_ms": "repetition",
    "inversion_time_ms": "inversion",
    "flip_angle_deg": "flip",
    "kvp": "kvp",
}
"""Parameters that an enhanced file stores per frame, with the frame's trait that holds them."""

TAGS = (*TEXTS.values(), *NUMBERS.values(), "ContrastBolusAgentSequence", "SharedFunctionalGroupsSequence")


def describe_header(header: Any) -> Acquisition:
    """Return the acquisition parameters that apply to all frames of a file."""
    texts = {k: v for k, tag in TEXTS.items() if (v := text(header, tag))}
    agent = _first(header, "ContrastBolusAgentSequence")  # in an enhanced file
    if "contrast_agent" not in texts and (name := text(agent, "CodeMeaning") or text(agent, "CodeValue")):
        texts["contrast_agent"] = name
    figures = {k: x for k, tag in NUMBERS.items() if (x := number(header, tag)) is not None}
    thickness = number(
        _first(_first(header, "SharedFunctionalGroupsSequence"), "PixelMeasuresSequence"), "SliceThickness"
    )
    shared = {} if thickness is None else {"slice_thickness_mm": thickness}
    return {**texts, **shared, **figures}


def describe_frame(traits: Mapping[str, str]) -> Acquisition:
    """Return the acquisition parameters of a single frame, without values that are not a single number."""
    found: Acquisition = {"image_type": traits["type"]} if traits.get("type") else {}
    for key, trait in OF_FRAME.items():
        try:
            found[key] = float(traits.get(trait, ""))
        except ValueError:
            continue
    if traits.get("administered", "").upper() == "NO":
        found["contrast_agent"] = "none"
    return found


def _first(dataset: Any, name: str) -> Any:
    """Return the first item of a sequence, or an empty mapping."""
    try:
        found = (value_of(dataset, name) or [{}])[0]
    except (TypeError, IndexError, KeyError):
        return {}
    return found if hasattr(found, "get") else {}
