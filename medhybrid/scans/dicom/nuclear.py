"""Reconstructed tomograms of nuclear medicine (SPECT): slices of one file, whose place is that of the detector.

`SliceVector` numbers the slice of each frame. Slices follow each other along the cross product of row and column direction; a
negative `SpacingBetweenSlices` means the opposite direction (DICOM PS3.3 C.8.4.15).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medhybrid.scans.dicom.attributes import integer, number, text, value_of

NUCLEAR = "1.2.840.10008.5.1.4.1.1.20"
TOMOGRAMS = ("RECON TOMO", "RECON GATED TOMO")
"""Values of ImageType of reconstructed slices; other frames are projections."""

VECTORS = {"window": "EnergyWindowVector", "time": "TimeSlotVector", "interval": "RRIntervalVector"}
"""Numbers of each frame that distinguish volumes, by the name of the trait."""

TAGS = ("DetectorInformationSequence", "SliceVector", "NumberOfSlices", "SpacingBetweenSlices", *VECTORS.values())


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices of a tomogram.

    Attributes
    ----------
    place : data set
        Has the position of the first slice and the orientation.
    steps_mm : tuple of float
        Distance of each frame's slice from the first one along the normal, with sign.
    traits : tuple of dict
        Traits of each frame that distinguish volumes.
    """

    place: Any
    steps_mm: tuple[float, ...]
    traits: tuple[dict[str, str], ...]


def is_tomogram(header: Any) -> bool:
    """Return whether a file has reconstructed slices of nuclear medicine."""
    kinds = text(header, "ImageType").upper().split("\\")
    return text(header, "SOPClassUID") == NUCLEAR and any(k in TOMOGRAMS for k in kinds)


def read_slices(header: Any) -> Slices | None:
    """Read the places of the frames; None if one is unknown."""
    n = integer(header, "NumberOfFrames") or 1
    step = number(header, "SpacingBetweenSlices")
    slices = _vector(header, "SliceVector", n)
    if slices is None:  # without numbers, all frames must be slices of one volume
        if value_of(header, "SliceVector") is not None or (integer(header, "NumberOfSlices") or n) != n:
            return None
        slices = list(range(n))
    slices = [k - min(slices) for k in slices]
    place = header
    if value_of(header, "ImagePositionPatient") is None:
        detectors = value_of(header, "DetectorInformationSequence")
        place = next((d for d in detectors or [] if hasattr(d, "get")), None)
    if place is None or (n > 1 and not step):
        return None
    found = {name: _vector(header, attribute, n) for name, attribute in VECTORS.items()}
    several = {name: v for name, v in found.items() if v is not None and len(set(v)) > 1}
    traits = tuple({name: str(v[i]) for name, v in several.items()} for i in range(n))
    return Slices(place, tuple(k * (step or 0.0) for k in slices), traits)


def moved(position_mm: Sequence[float], orientation: Sequence[float], step_mm: float) -> tuple[float, ...]:
    """Return a position moved along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return tuple(float(v) for v in np.array(position_mm) + step_mm * normal)


def _vector(header: Any, name: str, n: int) -> list[int] | None:
    """Return one whole number for each frame; None if the attribute is absent or has another length."""
    value = value_of(header, name)
    try:
        found = [int(v) for v in ([value] if isinstance(value, int | str) else value or [])]
    except (TypeError, ValueError):
        return None
    return found if len(found) == n else None
