"""Traits of frames that distinguish the volumes of a series: echo, time point, diffusion weighting and others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from medhybrid.scans.dicom.attributes import number, text, value_of
from medhybrid.scans.dicom.moments import seconds_of, seconds_of_both

TRAITS: dict[str, tuple[str, ...]] = {
    "stack": ("FrameContentSequence", "StackID"),
    "echo": ("MREchoSequence", "EffectiveEchoTime"),
    "inversion": ("MRModifierSequence", "InversionTimes"),
    "b": ("MRDiffusionSequence", "DiffusionBValue"),
    "time": ("FrameContentSequence", "TemporalPositionIndex"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "trigger": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "cardiac": ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    "respiratory": ("RespiratorySynchronizationSequence", "NominalRespiratoryTriggerDelayTime"),
    "direction": ("MRDiffusionSequence", "DiffusionGradientDirectionSequence", "DiffusionGradientOrientation"),
    "flip": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "repetition": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "contrast": ("ContrastBolusUsageSequence", "ContrastBolusAgentNumber"),
    "administered": ("ContrastBolusUsageSequence", "ContrastBolusAgentAdministered"),
    "kvp": ("CTXRayDetailsSequence", "KVP"),
    "kernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "rescale": ("PixelValueTransformationSequence", "RescaleType"),
    "asl": ("MRArterialSpinLabelingSequence", "ASLContext"),
    "velocity": ("MRVelocityEncodingSequence", "VelocityEncodingDirection"),
    "offset": ("TemporalPositionSequence", "TemporalPositionTimeOffset"),
    "clock": ("FrameContentSequence", "FrameAcquisitionDateTime"),
}
"""Traits in an enhanced file, by name: functional group, optionally a sequence in it, and attribute."""

PLAIN_TRAITS = {
    "stack": "StackID",
    "type": "ImageType",
    "echo": "EchoTime",
    "inversion": "InversionTime",
    "b": "DiffusionBValue",
    "time": "TemporalPositionIdentifier",
    "acquisition": "AcquisitionNumber",
    "trigger": "TriggerTime",
    "clock": "AcquisitionTime",
    "cardiac": "NominalPercentageOfCardiacPhase",
    "direction": "DiffusionGradientOrientation",
    "flip": "FlipAngle",
    "repetition": "RepetitionTime",
    "sequence": "SequenceName",
    "contrast": "ContrastBolusAgent",
    "kvp": "KVP",
    "kernel": "ConvolutionKernel",
    "filter": "FilterType",
    "units": "Units",
    "rescale": "RescaleType",
    "photometric": "PhotometricInterpretation",
    "component": "ComplexImageComponent",
}
"""Traits in a single-frame file, by name: attribute."""

FRAME_TYPES = tuple(
    f"{name}FrameTypeSequence" for name in ("MRImage", "CTImage", "PET", "MRSpectroscopy", "XRay3D", "ParametricMap")
)
"""Functional groups with the type of a frame."""

CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
"""Functional groups of a converted file with the attributes of its former single-frame files (PS3.3 C.7.6.16.2.25)."""

UNDIRECTED = "none"
"""Gradient direction of frames without directional diffusion weighting."""

PLACE_POINTERS = ("ImagePositionPatient", "InStackPositionNumber", "SliceLocation", "StackID")
"""Dimensions that describe the position of a frame, not its kind."""

MAX_DIMENSIONS = 16
"""Largest number of dimensions of a multi-frame file that are read."""


def plain_traits(header: Any) -> dict[str, str]:
    """Return the traits of a single-frame image."""
    traits = {name: text(header, tag) for name, tag in PLAIN_TRAITS.items()}
    date, time = text(header, "AcquisitionDate"), traits["clock"]
    return traits | {"clock": seconds_of(date, time) if time else seconds_of_both(text(header, "AcquisitionDateTime"))}


def frame_traits(group: Callable[[str], Any], dimensions: Sequence[str]) -> dict[str, str]:
    """Return the traits of a frame of an enhanced image.

    Parameters
    ----------
    group : callable
        Function that returns the frame's functional group of a name, or an empty mapping.
    dimensions : sequence of str
        Names of the numbers in DimensionIndexValues; see `dimension_names`.
    """
    traits = {name: _text_in(group(first), rest) for name, (first, *rest) in TRAITS.items()}
    traits["clock"] = seconds_of_both(traits["clock"])
    kind: Any = next(filter(None, map(group, FRAME_TYPES)), {})
    traits["type"] = "\\".join(filter(None, (text(kind, "FrameType"), text(kind, "ComplexImageComponent"))))
    for name in CONVERTED:
        if converted := group(name):
            traits |= {t: traits.get(t) or v for t, v in plain_traits(converted).items()}
    if not traits["direction"] and _has_no_direction(group("MRDiffusionSequence")):
        traits["direction"] = UNDIRECTED
    indices = text(group("FrameContentSequence"), "DimensionIndexValues").split("\\")
    for name, index in zip(dimensions, indices, strict=False):
        if name:
            traits[name] = index
    return traits


def _text_in(group: Any, path: Sequence[str]) -> str:
    """Return an attribute of a functional group, or of the first item of a sequence in it."""
    *sequences, name = path
    for sequence in sequences:
        items = value_of(group, sequence)
        group = items[0] if isinstance(items, Sequence) else None
        if not hasattr(group, "get"):
            return ""
    return text(group, name)


def _has_no_direction(diffusion: Any) -> bool:
    return (
        text(diffusion, "DiffusionDirectionality") in ("NONE", "ISOTROPIC") or number(diffusion, "DiffusionBValue") == 0
    )


def dimension_name(keyword: str) -> str:
    """Convert the keyword of a dimension's attribute to a name in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", keyword).lower()


def dimension_names(header: Any) -> list[str]:
    """Return a name for each number in DimensionIndexValues of an enhanced file; empty for dimensions of position."""
    from pydicom.datadict import keyword_for_tag

    names = []
    try:
        items = list(value_of(header, "DimensionIndexSequence") or [])
    except TypeError:
        items = []
    for n, item in enumerate(items, start=1):
        try:
            keyword = keyword_for_tag(value_of(item, "DimensionIndexPointer") or 0)
        except (TypeError, ValueError, OverflowError):
            keyword = ""
        names.append("" if keyword in PLACE_POINTERS else dimension_name(keyword) or f"dimension_{n}")
    return names + [f"dimension_{n}" for n in range(len(names) + 1, MAX_DIMENSIONS + 1)]
