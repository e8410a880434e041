"""The frames of a DICOM file, from its header alone: where each lies, how it is scaled, what tells it apart.

A frame is a slice, whether it has a file of its own or shares an enhanced multi-frame one. Everything after this module
sees frames only, so that both kinds of file go one way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError

FRAME_TAGS = (
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "ImageType",
    "InstanceNumber",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "EchoTime",
    "InversionTime",
    "TriggerTime",
    "DiffusionBValue",
    "StackID",
    "AcquisitionTime",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)

TRAITS = {
    "stack": ("FrameContentSequence", "StackID"),
    "echo": ("MREchoSequence", "EffectiveEchoTime"),
    "inversion": ("MRModifierSequence", "InversionTimes"),
    "b": ("MRDiffusionSequence", "DiffusionBValue"),
    "time": ("FrameContentSequence", "TemporalPositionIndex"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
}
"""What may tell volumes of one enhanced file apart: name, functional group, attribute."""

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
}
"""The same for single-frame files."""

MAX_FRAMES = 100_000
"""More frames in one file are not believed."""


MAX_SCALE = 1e30
"""A larger slope or intercept would overflow float32."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice.

    Attributes
    ----------
    path : Path
        Its file.
    index : int
        Its number within the file, from 0.
    orientation : (6,) tuple
        Direction cosines of the row and of the column (LPS).
    position_mm : (3,) tuple
        Centre of the first pixel (LPS).
    spacing_mm : (2,) tuple
        Distance of rows and of columns.
    traits : dict
        What may tell volumes of one series apart.
    """

    path: Path
    index: int
    uid: str
    frame_of_reference: str
    rows: int
    columns: int
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    slope: float
    intercept: float
    is_rescaled: bool
    number: int | None
    traits: dict[str, str] = field(hash=False)

    @property
    def name(self) -> str:
        """File name, with the number of the frame where the file has several."""
        return self.path.name if self.index == 0 else f"{self.path.name}, frame {self.index + 1}"

    @property
    def far_corner_mm(self) -> NDArray[np.float64]:
        """Centre of the last pixel (LPS)."""
        o, (row_mm, column_mm) = np.array(self.orientation), self.spacing_mm
        return np.asarray(
            np.array(self.position_mm) + o[:3] * column_mm * (self.columns - 1) + o[3:] * row_mm * (self.rows - 1)
        )


@cache
def _tag(name: str) -> Any:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import BaseTag

    return BaseTag(tag_for_keyword(name) or 0)


@cache
def _known_vr(name: str) -> str:
    from pydicom.datadict import dictionary_VR

    return str(dictionary_VR(name))


PLAIN_TEXT_VRS = ("CS", "DS", "IS", "UI", "TM")
"""Values of these are ASCII; no character set bears on them."""


def value_of(dataset: Any, name: str) -> Any:
    """An attribute's value, or None where it is absent, empty or cannot be parsed. Numbers may come as text."""
    try:
        raw = dataset.get_item(_tag(name), keep_deferred=True) if hasattr(dataset, "get_item") else None
        if raw is not None and raw.is_raw and raw.value and (raw.VR or _known_vr(name)) in PLAIN_TEXT_VRS:
            # Much faster than the library's own values, which listing thousands of files would wait for.
            words = [w.strip(" \0\t\r\n") for w in raw.value.decode("latin-1").split("\\")]
            return (words[0] or None) if len(words) == 1 else words
        element = dataset.get(_tag(name))  # by tag, which is faster than by name
        value = None if element is None else element.value
        if isinstance(value, str):
            return str(value).strip() or None
        return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value
    except Exception:  # damaged values raise many kinds on access
        return None


def integer(dataset: Any, name: str) -> int | None:
    """A whole number, or None."""
    found = number(dataset, name)
    return int(found) if found is not None and found.is_integer() else None


def number(dataset: Any, name: str) -> float | None:
    """A finite number, or None."""
    try:
        found = _float(value_of(dataset, name))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if np.isfinite(found) else None


def _float(value: Any) -> float:
    from pydicom.tag import BaseTag

    if isinstance(value, BaseTag):  # of an element whose VR is damaged; for Python it is a whole number
        raise TypeError("a tag is no number")
    return float(value)


def numbers(dataset: Any, name: str, n: int) -> tuple[float, ...] | None:
    """Exactly `n` finite numbers, or None."""
    try:
        value = value_of(dataset, name)
        found = tuple(_float(v) for v in ([value] if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if len(found) == n and np.isfinite(found).all() else None


def text(dataset: Any, name: str) -> str:
    """The value as text; several values are joined as DICOM does."""
    value = value_of(dataset, name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return "\\".join(str(v) for v in value)
    except TypeError:
        return str(value)


def read_frames(header: Any, path: Path) -> list[Frame]:
    """The frames of a file.

    Raises
    ------
    SeriesError
        If it is no grey image, or lacks what placing its pixels needs.
    """
    _refuse_what_is_no_slice(header, path)
    if "PerFrameFunctionalGroupsSequence" in header:
        return list(_enhanced(header, path))
    if (integer(header, "NumberOfFrames") or 1) != 1:
        raise _no_geometry(path, "several frames without functional groups")
    top = {name: text(header, tag) for name, tag in PLAIN_TRAITS.items()}
    return [_frame(header, path, 0, header, header, header, header, top)]


def _refuse_what_is_no_slice(header: Any, path: Path) -> None:
    kinds = set(text(header, "ImageType").upper().split("\\"))
    sheet = next((k for k in ("MOSAIC", "VFRAME") if k in kinds), None)
    if sheet or (0x0019, 0x100A) in header:  # Siemens: NumberOfImagesInMosaic
        raise SeriesError(
            f"{path.name}: a vendor's sheet of tiled slices ({sheet or 'MOSAIC'})",
            code="mosaic",
            path=path,
            expected="one slice an image",
            remedy="export it as enhanced DICOM, or convert it with dcm2niix first",
        )
    samples, photometric = integer(header, "SamplesPerPixel"), text(header, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SeriesError(
            f"{path.name}: no grey image",
            code="not_image",
            path=path,
            expected="one sample a pixel, MONOCHROME1 or MONOCHROME2",
            found=f"{samples} samples, {photometric or 'no photometric interpretation'}",
            remedy="give the original series",
        )
    if "ModalityLUTSequence" in header:
        raise SeriesError(
            f"{path.name}: its values are scaled by a table",
            code="not_image",
            path=path,
            expected="RescaleSlope and RescaleIntercept",
            remedy="export the series with plain rescaling",
        )


def _enhanced(header: Any, path: Path) -> Iterator[Frame]:
    per_frame, shared = value_of(header, "PerFrameFunctionalGroupsSequence"), None
    try:
        per_frame = list(per_frame or [])
        shared = next(iter(value_of(header, "SharedFunctionalGroupsSequence") or []), None)
    except TypeError:
        per_frame = []
    n = integer(header, "NumberOfFrames")
    if n is None or n != len(per_frame) or not 1 <= n <= MAX_FRAMES:
        raise _no_geometry(path, f"{n} frames, but functional groups for {len(per_frame)}")

    for i, item in enumerate(per_frame):

        def group(name: str, item: Any = item) -> Any:
            for place in (item, shared):
                found = value_of(place, name) if place is not None else None
                try:
                    if found is not None and hasattr(found[0], "get"):
                        return found[0]
                except (TypeError, IndexError, KeyError):
                    continue
            return {}

        traits = {name: text(group(sequence), tag) for name, (sequence, tag) in TRAITS.items()}
        kind: Any = next((g for g in map(group, ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")) if g), {})
        traits["type"] = "\\".join(filter(None, (text(kind, "FrameType"), text(kind, "ComplexImageComponent"))))
        yield _frame(
            header,
            path,
            i,
            group("PlaneOrientationSequence"),
            group("PlanePositionSequence"),
            group("PixelMeasuresSequence"),
            group("PixelValueTransformationSequence") or header,
            traits,
        )


def _frame(
    header: Any, path: Path, i: int, turn: Any, place: Any, measures: Any, scale: Any, traits: dict[str, str]
) -> Frame:
    orientation = numbers(turn, "ImageOrientationPatient", 6)
    position = numbers(place, "ImagePositionPatient", 3)
    spacing = numbers(measures, "PixelSpacing", 2)
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    if not orientation or not position or not spacing or not rows or not columns:
        wanted = {
            "ImageOrientationPatient": orientation,
            "ImagePositionPatient": position,
            "PixelSpacing": spacing,
            "Rows": rows,
            "Columns": columns,
        }
        raise _no_geometry(path, f"{', '.join(n for n, v in wanted.items() if not v)} is missing or unusable")
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row @ column) > 1e-3 or max(abs(length - 1) for length in lengths) > 1e-2:
        raise _no_geometry(path, "ImageOrientationPatient is no pair of unit vectors at right angles")
    if min(spacing) <= 0 or min(rows, columns) < 1 or max(rows, columns) > 65535:
        raise _no_geometry(path, "size or spacing is not positive")
    slope, intercept = number(scale, "RescaleSlope"), number(scale, "RescaleIntercept")
    has = [name in scale for name in ("RescaleSlope", "RescaleIntercept")]
    is_usable = (
        slope is not None and intercept is not None and 0 < abs(slope) < MAX_SCALE and abs(intercept) < MAX_SCALE
    )
    if has[0] != has[1] or (all(has) and not is_usable):
        raise SeriesError(
            f"{path.name}: its rescaling is damaged",
            code="not_image",
            path=path,
            expected="RescaleSlope (not 0) and RescaleIntercept, or neither",
            found=f"{slope} and {intercept}",
            remedy="export the series again",
        )
    return Frame(
        path=path,
        index=i,
        uid=text(header, "SOPInstanceUID"),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        rows=rows,
        columns=columns,
        orientation=orientation,
        position_mm=position,
        spacing_mm=spacing,
        slope=slope if all(has) and slope is not None else 1.0,
        intercept=intercept if all(has) and intercept is not None else 0.0,
        is_rescaled=all(has),
        number=integer(header, "InstanceNumber"),
        traits=traits,
    )


def _no_geometry(path: Path, what: str) -> SeriesError:
    return SeriesError(
        f"{path.name}: {what}",
        code="no_geometry",
        path=path,
        remedy="a mask could not be placed; export the series with its geometry",
    )
