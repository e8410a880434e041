"""Rescaling of stored values to values with a unit: slope and intercept of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.attributes import number
from medhybrid.scans.dicom.not_scans import modality_of

QUANTITY_MODALITIES = ("CT", "PT", "NM")

MAX_SCALE = 1e30
"""Largest slope or intercept, so that values do not overflow float32."""

NOT_RESCALED = "its header has no RescaleSlope and RescaleIntercept: values are as stored"

NAMES = ("RescaleSlope", "RescaleIntercept")


@dataclass(frozen=True, slots=True)
class Rescaling:
    """Line from stored values to values with a unit; 1 and 0 if the header has none."""

    slope: float = 1.0
    intercept: float = 0.0
    is_given: bool = False
    notes: tuple[str, ...] = ()


def read_rescaling(header: Any, scale: Any, path: Path) -> Rescaling:
    """Read the rescaling of a frame.

    A slope of 0 is accepted in PET, where each slice has its own: a slice without activity is 0 everywhere.

    Parameters
    ----------
    scale : Dataset
        The header, or the functional group with the rescaling.

    Raises
    ------
    SeriesError
        If one of the two values is missing or unusable.
    """
    slope, intercept = (number(scale, name) for name in NAMES)
    modality = modality_of(header)
    has = [name in scale for name in NAMES]
    if all(has) and modality not in QUANTITY_MODALITIES and all(_is_empty(scale, name) for name in NAMES):
        has = [False, False]
    if not any(has):
        return Rescaling(notes=(NOT_RESCALED,) if modality in ("CT", "PT") else ())
    if _is_usable(slope) and _is_usable(intercept) and (slope or modality == "PT"):
        return Rescaling(float(slope or 0), float(intercept or 0), is_given=True)
    raise SeriesError(
        f"{path.name}: its rescaling is damaged",
        code="not_image",
        path=path,
        expected="RescaleSlope (not 0) and RescaleIntercept, or neither",
        found=f"{slope} and {intercept}",
        remedy="export the series again",
    )


def _is_usable(value: float | None) -> bool:
    return value is not None and abs(value) < MAX_SCALE


def _is_empty(dataset: Any, name: str) -> bool:
    """Return True if an attribute is present and has no value, as anonymisers leave it."""
    element = dataset.get_item(name)
    return element is not None and (not (element.value or b"").strip() if element.is_raw else bool(element.is_empty))
