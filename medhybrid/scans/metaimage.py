"""Interpretation of MetaImage headers (`.mha`, `.mhd`): affine (read by SimpleITK) and storage of the values."""

from __future__ import annotations

from typing import Any

import numpy as np

from medhybrid.errors import ScanError
from medhybrid.scans.image_header import UNKNOWN_THICKNESS, ImageHeader, affine_from_lps, unit_notes
from medhybrid.scans.itk_path import plain_link
from medhybrid.scans.stored_values import StoredValues
from medhybrid.scans.text_headers import TextHeader

MATRIX_FIELDS = ("transformmatrix", "rotation", "orientation")

ORDER_FIELDS = ("binarydatabyteordermsb", "elementbyteordermsb")

TYPES = (
    "CHAR",
    "UCHAR",
    "SHORT",
    "USHORT",
    "INT",
    "UINT",
    "LONG",
    "ULONG",
    "LONG_LONG",
    "ULONG_LONG",
    "FLOAT",
    "DOUBLE",
)
"""Numeric types, without their prefix MET_ and, with channels, their suffix _ARRAY."""

LENGTH_FIELDS = ("elementspacing", "elementsize")

PLACE_FIELDS = ("offset", "position", "origin")

UNSTATED = {
    LENGTH_FIELDS: "the header states no spacing; 1 mm is assumed",
    PLACE_FIELDS: "the header states no position; the origin is assumed",
}
"""Notes on absent fields."""

MAX_LINE = 4096
"""Longest line that ITK reads, in characters."""

MAX_CHANNELS = 10_000

LPS_NAMES = ("RAI", "???", "")
"""AnatomicalOrientation of LPS axes, or unknown. ITK names the side where an axis starts, so LPS is RAI."""


def read_meta_header(header: TextHeader) -> ImageHeader:
    """Interpret a MetaImage header; raises `ScanError`."""
    import SimpleITK as sitk

    _refuse_fields(header)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    try:
        with plain_link(header.path) as link:
            reader.SetFileName(link)
            reader.ReadImageInformation()
        n_components = reader.GetNumberOfComponents()
        dtype = _dtypes()[reader.GetPixelID()]
    except (RuntimeError, KeyError) as error:
        raise ScanError(
            f"{header.path.name} cannot be read",
            expected="a header that ITK can read",
            found=_last_line(error),
            remedy="export it again",
        ) from error
    dimension = reader.GetDimension()
    if dimension not in (2, 3, 4):
        raise ScanError(f"{header.path.name} is not a volume", expected="3 or 4 axes", found=f"{dimension} axes")
    notes: tuple[str, ...] = ()
    n_spatial = min(dimension, 3)
    lps = np.eye(4)
    direction = np.array(reader.GetDirection()).reshape(dimension, dimension)
    lps[:n_spatial, :n_spatial] = (direction * np.array(reader.GetSpacing()))[:n_spatial, :n_spatial]
    lps[:n_spatial, 3] = reader.GetOrigin()[:n_spatial]
    if dimension == 2:
        notes += (UNKNOWN_THICKNESS,)
    notes += tuple(note for fields, note in UNSTATED.items() if header.get(*fields) is None)
    letters = header.get("anatomicalorientation") or ""
    if header.get(*MATRIX_FIELDS) is None and letters.upper() not in LPS_NAMES:
        notes += (f"AnatomicalOrientation {letters} is not used: without a TransformMatrix, LPS is assumed",)
    unit, unit_note = unit_notes(header.path, header.get("distanceunits") or "")
    lps[:3] *= unit
    shape = tuple(int(n) for n in reader.GetSize())
    stored_shape = (n_components, *shape) if n_components > 1 else shape
    stored = _stored(header, stored_shape, np.dtype(dtype))
    spatial = range(1, 4) if n_components > 1 else range(3)
    return ImageHeader(
        affine=affine_from_lps(lps),
        stored=stored,
        spatial_axes=tuple(a for a in spatial if a < len(stored_shape)),
        notes=notes + unit_note,
    )


def _refuse_fields(header: TextHeader) -> None:
    """Refuse fields that ITK would refuse without a reason, or misinterpret."""
    n = int(header.get("ndims") or 0)
    if not n:
        raise header.refuse("ndims", "the number of axes")
    for name, value in header.fields.items():
        if len(name) + len(value) > MAX_LINE:
            raise header.refuse(name, f"lines of at most {MAX_LINE} characters")
    sizes = _numbers_of(header, "dimsize")
    if len(sizes) != n or any(v < 1 or not v.is_integer() for v in sizes):
        raise header.refuse("dimsize", f"{n} whole numbers above 0")
    kind = (header.get("elementtype") or "").upper()
    if kind.removeprefix("MET_").removesuffix("_ARRAY") not in TYPES:
        raise header.refuse("elementtype", "a numeric type, such as MET_SHORT")
    for fields, n_wanted in ((LENGTH_FIELDS, n), (PLACE_FIELDS, n), (MATRIX_FIELDS, n * n)):
        for field in fields:
            values = _numbers_of(header, field)
            if field in header.fields and (len(values) != n_wanted or not np.isfinite(values).all()):
                raise header.refuse(field, f"{n_wanted} finite numbers")
    if not 1 <= (_whole_number(header, "elementnumberofchannels") or 0 if _has_channels(header) else 1) <= MAX_CHANNELS:
        raise header.refuse("elementnumberofchannels", f"1 to {MAX_CHANNELS}")
    n_stored = _whole_number(header, "compresseddatasize")
    if n_stored is not None and n_stored < 0:
        raise header.refuse("compresseddatasize", "0 or more")


def _has_channels(header: TextHeader) -> bool:
    return "elementnumberofchannels" in header.fields


def _numbers_of(header: TextHeader, field: str) -> list[float]:
    """Return the numbers of a field, or an empty list if it is absent."""
    try:
        return [float(v) for v in (header.get(field) or "").split()]
    except ValueError as error:
        raise header.refuse(field, "numbers") from error


def _stored(header: TextHeader, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StoredValues:
    """Interpret the fields for byte order, compression and position of the values."""
    is_local = header.values_path == header.path
    orders = {_is_true(header.get(n)) for n in ORDER_FIELDS if n in header.fields}
    if len(orders) > 1:
        raise header.refuse(ORDER_FIELDS[0], "the same byte order in both of its fields")
    is_text = (header.get("binarydata") or "True").lower() in ("false", "0", "f")
    is_compressed = _is_true(header.get("compresseddata")) and not is_text
    n_stored = _whole_number(header, "compresseddatasize") if is_compressed else None
    skip = _whole_number(header, "headersize") or 0
    start = skip if skip else header.end if is_local else 0
    if skip < 0 and (is_compressed or is_text):
        raise header.refuse("headersize", "0 or more for values that are not raw")
    return StoredValues(
        path=header.values_path,
        shape=shape,
        dtype=dtype.newbyteorder(">" if True in orders else "<"),
        encoding="text" if is_text else "zlib" if is_compressed else "raw",
        start=-1 if skip < 0 else start,
        n_stored=n_stored or None,
    )


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1", "t", "y", "yes")


def _whole_number(header: TextHeader, field: str) -> int | None:
    value = header.get(field)
    if value is None:
        return None
    try:
        return int(float(value))
    except (ValueError, OverflowError) as error:
        raise header.refuse(field, "a whole number") from error


def _dtypes() -> dict[int, str]:
    """Return the numpy type of each numeric pixel type of ITK."""
    import SimpleITK as sitk

    names = {"UInt8": "u1", "Int8": "i1", "UInt16": "u2", "Int16": "i2", "UInt32": "u4", "Int32": "i4"}
    names |= {"UInt64": "u8", "Int64": "i8", "Float32": "f4", "Float64": "f8"}
    plain = {int(getattr(sitk, f"sitk{name}")): kind for name, kind in names.items()}
    return plain | {int(getattr(sitk, f"sitkVector{name}")): kind for name, kind in names.items()}


def _last_line(error: Exception) -> str:
    """Return the last line of an ITK error. ITK gives no details for a field that it does not accept."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "a field with a value that ITK does not accept" if lines[-1].startswith("Reason:") else lines[-1]
