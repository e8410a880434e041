"""Frames of a DICOM file, from its header: position, rescaling and traits.

A frame is one slice, in a single-frame file or in an enhanced multi-frame file. Later steps use only frames, so both kinds of
files are processed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError
from medhybrid.number_text import format_apart
from medhybrid.scans.dicom import nuclear
from medhybrid.scans.dicom.attributes import integer, number, numbers, text, value_of
from medhybrid.scans.dicom.not_scans import modality_of
from medhybrid.scans.dicom.rescaling import QUANTITY_MODALITIES, read_rescaling
from medhybrid.scans.dicom.tiles import is_sheet, read_sheet
from medhybrid.scans.dicom.traits import dimension_names, frame_traits, plain_traits

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
    "DiffusionGradientOrientation",
    "NominalPercentageOfCardiacPhase",
    "KVP",
    "ConvolutionKernel",
    "FilterType",
    "FlipAngle",
    "RepetitionTime",
    "SequenceName",
    "ComplexImageComponent",
    "ContrastBolusAgent",
    "Units",
    "RescaleType",
    "RealWorldValueMappingSequence",
    "DimensionIndexSequence",
    "StackID",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "SliceThickness",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *nuclear.TAGS,
)

QUANTITY_TYPES = ("HU", "HU_MOD", "OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")
"""Rescale types, beside `QUANTITY_MODALITIES`, of values with a physical unit (PS3.3 C.11.1.1.2)."""

PROJECTIONS = ("CR", "DX", "MG", "IO", "PX", "RG", "RF", "XA")
"""Modalities of projection images, which have no position in the patient."""

PROJECTION_PLANE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Directions that are assumed for a projection, so that it is displayed as it is stored."""

PIXEL_SIZES = {
    "PixelSpacing": "",
    "ImagerPixelSpacing": "lengths are measured at the detector (ImagerPixelSpacing)",
    "NominalScannedPixelSpacing": "lengths are measured on the scanned film (NominalScannedPixelSpacing)",
}
"""Attributes with the pixel size of a projection, in the order of preference, and the notes on them."""

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""UID of secondary capture; its multi-frame classes have the same UID with a suffix."""

CAPTURED = "a secondary capture of a radiograph: its values may be processed"

NO_PIXEL_SIZE = "its header has no pixel size; 1 mm is assumed, so that lengths in mm count pixels"

NO_PIXEL_WIDTH = "its header has only the ratio of a pixel's height and width; a width of 1 mm is assumed"

MAX_FRAMES = 100_000
"""Largest number of frames in one file. A larger number is treated as damage."""

MAX_COSINE = 2e-3
"""Largest inner product of row and column direction. Cosines rounded to three decimals reach 1.8e-3."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Slice of a DICOM image.

    Attributes
    ----------
    path : Path
        File of the frame.
    index : int
        Number within the file, from 0.
    orientation : (6,) tuple
        Direction cosines of the row and of the column (LPS).
    position_mm : (3,) tuple
        Centre of the first pixel (LPS).
    spacing_mm : (2,) tuple
        Distance between rows, and between columns.
    traits : dict
        Traits that may distinguish volumes of one series; see `traits`.
    is_quantity : bool
        True if the values have a unit. MONOCHROME1 then does not invert them.
    inverted_from : int, optional
        Number from which inverted values are subtracted; None without inversion.
    tile : (2,) tuple, optional
        First row and column of the slice in a sheet of tiled slices (mosaic).
    is_projection : bool
        True for a radiograph, which is an image of one slice without a position.
    notes : tuple of str
        Assumptions about the header.
    thickness_mm : float, optional
        SliceThickness; None if it is absent or not positive. It places no slice.
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
    is_quantity: bool = False
    inverted_from: int | None = None
    tile: tuple[int, int] | None = None
    is_projection: bool = False
    notes: tuple[str, ...] = ()
    thickness_mm: float | None = None

    @property
    def name(self) -> str:
        """Return the file name, with the frame's number for all frames after the first."""
        return self.path.name if self.index == 0 else f"{self.path.name}, frame {self.index + 1}"

    @property
    def far_corner_mm(self) -> NDArray[np.float64]:
        """Return the centre of the last pixel (LPS)."""
        o, (row_mm, column_mm) = np.array(self.orientation), self.spacing_mm
        return np.asarray(
            np.array(self.position_mm) + o[:3] * column_mm * (self.columns - 1) + o[3:] * row_mm * (self.rows - 1)
        )


def read_frames(header: Any, path: Path) -> list[Frame]:
    """Read the frames of a file from its header.

    Raises
    ------
    SeriesError
        If the image is not greyscale, or its geometry is missing.
    """
    _refuse_other_pixels(header, path)
    if "PerFrameFunctionalGroupsSequence" in header:
        return list(_enhanced(header, path))
    if is_sheet(header):
        return _read_tiles(header, path)
    if nuclear.is_tomogram(header):
        if (slices := nuclear.read_slices(header)) is not None:
            return _read_tomogram(header, path, slices)
        raise _no_geometry(
            path,
            "SliceVector, SpacingBetweenSlices or the position of the detector is missing, or does not fit the frames",
        )
    if (integer(header, "NumberOfFrames") or 1) != 1:
        raise _no_geometry(path, "several frames without functional groups")
    return [_frame(header, path, 0, header, header, header, header, plain_traits(header))]


def _read_tomogram(header: Any, path: Path, slices: nuclear.Slices) -> list[Frame]:
    if len(slices.steps_mm) > MAX_FRAMES:
        raise _no_geometry(path, f"{len(slices.steps_mm)} frames")
    first = _frame(header, path, 0, slices.place, slices.place, header, header, plain_traits(header))
    return [
        replace(
            first,
            index=i,
            position_mm=nuclear.moved(first.position_mm, first.orientation, step),
            traits={**first.traits, **traits},
        )
        for i, (step, traits) in enumerate(zip(slices.steps_mm, slices.traits, strict=True))
    ]


def _read_tiles(header: Any, path: Path) -> list[Frame]:
    """Read the slices of a sheet of tiles (mosaic). Each sheet is a volume."""
    from pydicom.dataset import Dataset

    sheet = read_sheet(header, path)
    place = Dataset()
    place.ImagePositionPatient = list(sheet.tiles[0].position_mm)
    whole = _frame(header, path, 0, header, place, header, header, plain_traits(header))
    volume = f"{whole.number or 0:08d} {whole.uid}"  # in the order of instance numbers
    return [
        replace(
            whole,
            index=i,
            rows=sheet.rows,
            columns=sheet.columns,
            position_mm=tile.position_mm,
            traits={**whole.traits, "volume": volume},
            tile=tile.start,
        )
        for i, tile in enumerate(sheet.tiles)
    ]


def _refuse_other_pixels(header: Any, path: Path) -> None:
    samples, photometric = integer(header, "SamplesPerPixel"), text(header, "PhotometricInterpretation").upper()
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SeriesError(
            f"{path.name}: not a greyscale image",
            code="not_image",
            path=path,
            expected="one sample per pixel, MONOCHROME1 or MONOCHROME2",
            found=f"{samples} samples, {photometric or 'no photometric interpretation'}"
            if samples
            else "no SamplesPerPixel",
            remedy="use the original series",
        )
    if value_of(header, "ModalityLUTSequence"):
        raise SeriesError(
            f"{path.name}: its values are rescaled by a lookup table (ModalityLUTSequence)",
            code="not_image",
            path=path,
            expected="RescaleSlope and RescaleIntercept",
            remedy="export the series with linear rescaling",
        )


def _enhanced(header: Any, path: Path) -> Iterator[Frame]:
    _refuse_other_mappings(header, path)
    per_frame, shared = value_of(header, "PerFrameFunctionalGroupsSequence"), None
    try:
        per_frame = list(per_frame or [])
        shared = next(iter(value_of(header, "SharedFunctionalGroupsSequence") or []), None)
    except TypeError:
        per_frame = []
    n = integer(header, "NumberOfFrames")
    if n is None or n != len(per_frame) or not 1 <= n <= MAX_FRAMES:
        raise _no_geometry(path, f"{n} frames, but functional groups for {len(per_frame)}")

    dimensions = dimension_names(header)
    for i, item in enumerate(per_frame):

        @cache
        def group(name: str, item: Any = item) -> Any:
            for place in (item, shared):
                found = value_of(place, name) if place is not None else None
                try:
                    if found is not None and hasattr(found[0], "get"):
                        return found[0]
                except (TypeError, IndexError, KeyError):
                    continue
            return {}

        yield _frame(
            header,
            path,
            i,
            group("PlaneOrientationSequence"),
            group("PlanePositionSequence"),
            group("PixelMeasuresSequence"),
            _mapped(header, group("RealWorldValueMappingSequence"))
            or group("PixelValueTransformationSequence")
            or header,
            frame_traits(group, dimensions),
            mapping=group("RealWorldValueMappingSequence") or value_of(header, "RealWorldValueMappingSequence"),
        )


def _refuse_other_mappings(header: Any, path: Path) -> None:
    """Refuse a parametric map whose values are mapped by a lookup table, or differently in several ranges."""
    if text(header, "SOPClassUID") != PARAMETRIC_MAP:
        return
    groups = [g for name in GROUPS for g in _items(header, name)]
    for found in (_items(g, "RealWorldValueMappingSequence") for g in (header, *groups)):
        lines = {(number(m, "RealWorldValueSlope"), number(m, "RealWorldValueIntercept")) for m in found}
        if any(value_of(m, "RealWorldValueLUTData") for m in found) or len(lines) > 1:
            raise SeriesError(
                f"{path.name}: its stored values are mapped to real values by a lookup table, or by several lines",
                code="not_image",
                path=path,
                expected="one RealWorldValueSlope and RealWorldValueIntercept",
                found=f"{len(found)} real-world value mappings",
                remedy="export the map with real values as NIfTI",
            )


def _items(dataset: Any, name: str) -> list[Any]:
    """Return the items of a sequence; none if it is absent or damaged."""
    try:
        return [item for item in value_of(dataset, name) or [] if hasattr(item, "get")]
    except TypeError:
        return []


def _mapped(header: Any, mapping: Any) -> Any:
    """Return the real-world value mapping of a parametric map as rescaling; None for other files."""
    from pydicom.dataset import Dataset

    slope, intercept = number(mapping, "RealWorldValueSlope"), number(mapping, "RealWorldValueIntercept")
    if text(header, "SOPClassUID") != PARAMETRIC_MAP or slope is None or intercept is None:
        return None
    scale = Dataset()
    scale.RescaleSlope, scale.RescaleIntercept = slope, intercept
    return scale


def _is_quantity(header: Any, scale: Any, mapping: Any) -> bool:
    return (
        modality_of(header) in QUANTITY_MODALITIES
        or text(scale, "RescaleType").upper() in QUANTITY_TYPES
        or bool(text(header, "Units"))
        or bool(mapping)
    )


def _inverted_from(header: Any) -> int | None:
    """Return the number from which MONOCHROME1 values are subtracted: lowest plus highest stored value; else None."""
    n_bits = integer(header, "BitsStored")
    if text(header, "PhotometricInterpretation").upper() != "MONOCHROME1" or n_bits is None or not 1 <= n_bits <= 64:
        return None
    return -1 if integer(header, "PixelRepresentation") == 1 else 2**n_bits - 1


def _frame(
    header: Any,
    path: Path,
    i: int,
    turn: Any,
    place: Any,
    measures: Any,
    scale: Any,
    traits: dict[str, str],
    mapping: Any = None,
) -> Frame:
    orientation = numbers(turn, "ImageOrientationPatient", 6)
    position = numbers(place, "ImagePositionPatient", 3)
    spacing = numbers(measures, "PixelSpacing", 2)
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    has_no_place = is_projection(header)
    notes: tuple[str, ...] = ()
    if has_no_place:
        orientation, position = PROJECTION_PLANE, (0.0, 0.0, 0.0)
        spacing, notes = _projection_spacing(header)
        if is_secondary_capture(header):
            notes = (*notes, CAPTURED)
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
    lengths = [float(np.linalg.norm(v)) for v in (row, column)]
    if abs(row @ column) > MAX_COSINE or max(abs(length - 1) for length in lengths) > 1e-2:
        raise _no_geometry(
            path,
            "ImageOrientationPatient is not a pair of unit vectors at right angles",
            expected="lengths 1 and 1, inner product 0",
            found=f"lengths {', '.join(format_apart([*lengths, 1.0])[:2])}, inner product {format_apart([row @ column])[0]}",
        )
    if min(spacing) <= 0 or min(rows, columns) < 1 or max(rows, columns) > 65535:
        raise _no_geometry(path, "size or spacing is not positive")
    rescaling = read_rescaling(header, scale, path)
    is_quantity = _is_quantity(
        header, scale, value_of(header, "RealWorldValueMappingSequence") if mapping is None else mapping
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
        slope=rescaling.slope,
        intercept=rescaling.intercept,
        is_rescaled=rescaling.is_given,
        number=integer(header, "InstanceNumber"),
        traits=traits,
        is_quantity=is_quantity,
        inverted_from=None if is_quantity else _inverted_from(header),
        is_projection=has_no_place,
        notes=(*notes, *rescaling.notes),
        thickness_mm=_positive(number(measures, "SliceThickness")),
    )


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def is_secondary_capture(header: Any) -> bool:
    """Return whether a file is of one of the classes of secondary capture."""
    uid = text(header, "SOPClassUID")
    return uid == SECONDARY_CAPTURE or uid.startswith(f"{SECONDARY_CAPTURE}.")


def is_projection(header: Any) -> bool:
    """Return True for a radiograph of one frame without position and orientation in the patient, which may be empty."""
    is_placed = all(value_of(header, n) is not None for n in ("ImagePositionPatient", "ImageOrientationPatient"))
    if is_placed or "PerFrameFunctionalGroupsSequence" in header or (integer(header, "NumberOfFrames") or 1) != 1:
        return False
    return modality_of(header) in PROJECTIONS


def _projection_spacing(header: Any) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the pixel size of a projection in mm, and a note on what it means."""
    for name, note in PIXEL_SIZES.items():
        spacing = numbers(header, name, 2)
        if spacing and min(spacing) > 0:
            return spacing, ((note,) if note else ())
    ratio = numbers(header, "PixelAspectRatio", 2)  # height and width
    if ratio and min(ratio) > 0 and ratio[0] != ratio[1]:
        return (ratio[0] / ratio[1], 1.0), (NO_PIXEL_WIDTH,)
    return (1.0, 1.0), (NO_PIXEL_SIZE,)


def _no_geometry(path: Path, what: str, *, expected: str = "", found: str = "") -> SeriesError:
    return SeriesError(
        f"{path.name}: {what}",
        code="no_geometry",
        path=path,
        expected=expected,
        found=found,
        remedy="export the series with its geometry, which is needed to place masks; "
        "convert images that have none by nature, such as ultrasound, to PNG",
    )
