"""What may tell the volumes of a series apart: echo, time point, weighting and the like, of each frame."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from medhybrid.scans.dicom.attributes import number, text, value_of

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
"""What may tell volumes of one enhanced file apart: name, functional group (and a group in it), attribute."""

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
"""The same for single-frame files."""

FRAME_TYPES = tuple(
    f"{name}FrameTypeSequence" for name in ("MRImage", "CTImage", "PET", "MRSpectroscopy", "XRay3D", "ParametricMap")
)
"""Functional groups that say of which type a frame is."""

UNDIRECTED = "none"
"""Stands as gradient direction of frames that were not weighted in one."""

PLACE_POINTERS = ("ImagePositionPatient", "InStackPositionNumber", "SliceLocation", "StackID")
"""Dimensions that say where a frame lies, not of which kind it is."""

MAX_DIMENSIONS = 16
"""More dimensions of a multi-frame file are not looked at."""


def plain_traits(header: Any) -> dict[str, str]:
    """Return the traits of a single-frame image."""
    return {name: text(header, tag) for name, tag in PLAIN_TRAITS.items()}


def frame_traits(group: Callable[[str], Any], dimensions: Sequence[str]) -> dict[str, str]:
    """Return the traits of a frame of an enhanced image.

    Parameters
    ----------
    group : callable
        The frame's functional group of a name; an empty mapping where there is none.
    dimensions : sequence of str
        Names for the numbers of DimensionIndexValues; see `dimension_names`.
    """
    traits = {name: _text_in(group(first), rest) for name, (first, *rest) in TRAITS.items()}
    kind: Any = next(filter(None, map(group, FRAME_TYPES)), {})
    traits["type"] = "\\".join(filter(None, (text(kind, "FrameType"), text(kind, "ComplexImageComponent"))))
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
    """Return the name of a dimension by the keyword of its attribute."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", keyword).lower()


def dimension_names(header: Any) -> list[str]:
    """Return a name for each number of DimensionIndexValues of an enhanced file; empty for those that count places."""
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
