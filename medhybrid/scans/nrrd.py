"""Interpretation of NRRD headers (`.nrrd`, `.nhdr`): affine, axes and storage of the values.

References
----------
Definition of the format: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from medhybrid.errors import ScanError
from medhybrid.geometry import Affine
from medhybrid.scans.image_header import MASK_ELSEWHERE, UNKNOWN_THICKNESS, ImageHeader, affine_from_lps, unit_notes
from medhybrid.scans.stored_values import Encoding, StoredValues
from medhybrid.scans.text_headers import TextHeader

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}

ENCODINGS: dict[str, Encoding] = {
    "raw": "raw",
    "gz": "gzip",
    "gzip": "gzip",
    "bz2": "bzip2",
    "bzip2": "bzip2",
    "txt": "text",
    "text": "text",
    "ascii": "text",
    "hex": "hex",
}

SIGNS_TO_LPS = {
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
}
"""Signs that convert the axes of a named space to LPS (left, posterior, superior)."""

SPACES_WITHOUT_PATIENT = {"scanner-xyz", "3d-right-handed", "3d-left-handed"}
"""Spaces without an orientation in the patient; LPS is assumed, as in ITK."""

TIMED_SPACES = ("right-anterior-superior-time", "left-anterior-superior-time", "rast", "last")
"""Spaces whose X or Y axis ITK does not turn, in contrast to those without time."""

DOMAIN_KINDS = {"domain", "space", "time"}

UNKNOWN_KINDS = {"", "???", "none"}

COLOUR_KINDS = {"3-color", "rgb-color", "hsv-color", "xyz-color", "4-color", "rgba-color"}

VECTOR = re.compile(r"none|\([^()]*\)", re.IGNORECASE)

Vector = tuple[float, ...] | None


def read_nrrd_header(header: TextHeader) -> ImageHeader:
    """Interpret a NRRD header; raises `ScanError`."""
    with header.path.open("rb") as file:
        if not file.read(4) == b"NRRD":
            raise ScanError(f"{header.path.name} cannot be read", found="not an NRRD header", remedy="export it again")
    try:
        sizes = tuple(int(n) for n in (header.get("sizes") or "").split())
    except ValueError as error:
        raise header.refuse("sizes", "whole numbers") from error
    if not sizes or min(sizes) < 1 or len(sizes) != int(header.get("dimension") or 0):
        raise header.refuse("sizes", f"{header.get('dimension') or 'the dimension and as many'} sizes above 0")
    _refuse_other_kinds(header)
    directions = _directions(header, len(sizes))
    spatial = _spatial_axes(header, sizes, directions)
    place = _place_in_space if directions is not None else _place_without_space
    lps, notes = place(header, spatial, directions)
    if (header.get("space") or "").lower() in TIMED_SPACES:
        notes += (f"ITK-based programs take the space {header.get('space')} for that of DICOM, {MASK_ELSEWHERE}",)
    return ImageHeader(affine_from_lps(lps), _stored(header, sizes), spatial, notes)


def _stored(header: TextHeader, sizes: tuple[int, ...]) -> StoredValues:
    """Interpret the fields for type, encoding and position of the values."""
    kind = " ".join((header.get("type") or "").lower().split())
    if kind not in TYPES:
        raise header.refuse("type", "a numeric type")
    encoding = ENCODINGS.get((header.get("encoding") or "").lower())
    if encoding is None:
        raise header.refuse("encoding", "raw, gzip, bzip2, ascii or hex")
    dtype = np.dtype(TYPES[kind])
    endian = (header.get("endian") or "").lower()
    if endian not in ("little", "big"):
        if dtype.itemsize > 1 and encoding != "text":
            raise header.refuse("endian", "little or big")
        endian = "little"
    n_lines = _whole_number(header, "line skip", "lineskip")
    n_skipped = _whole_number(header, "byte skip", "byteskip")
    if n_lines < 0 or n_skipped < -1 or (n_skipped and encoding in ("text", "hex")):
        raise header.refuse("byte skip", "0 or more, or -1 for raw values")
    if n_skipped < 0 and encoding != "raw":
        raise header.refuse("byte skip", "0 or more for values that are not raw")
    return StoredValues(
        path=header.values_path,
        shape=sizes,
        dtype=dtype.newbyteorder("<" if endian == "little" else ">"),
        encoding=encoding,
        start=-1 if n_skipped < 0 else header.end if header.values_path == header.path else 0,
        n_lines=n_lines,
        n_skipped=max(n_skipped, 0),
    )


def _refuse_other_kinds(header: TextHeader) -> None:
    """Raise `ScanError` for colours, complex numbers and quaternions."""
    for kind in (header.get("kinds") or "").lower().split():
        if kind in COLOUR_KINDS:
            raise ScanError(
                f"{header.path.name} holds colours",
                expected="one number for each voxel",
                found=kind,
                remedy="convert it to greyscale",
            )
        if kind in ("complex", "quaternion"):
            raise ScanError(
                f"{header.path.name} does not hold real numbers",
                expected="integers or floats",
                found=f"kind {kind}",
                remedy="save only magnitude or phase",
            )


def _directions(header: TextHeader, n_axes: int) -> list[Vector] | None:
    """Return the step along each axis, with None for a non-spatial axis; None if the header has no directions."""
    text = header.get("space directions")
    if text is None:
        return None
    vectors = [_vector(header, "space directions", v) for v in VECTOR.findall(text)]
    if len(vectors) != n_axes:
        raise header.refuse("space directions", f"{n_axes} vectors")
    return _in_three_dimensions(header, vectors)


def _in_three_dimensions(header: TextHeader, vectors: list[Vector]) -> list[Vector]:
    """Convert vectors of 2 or 4 components to 3 components; ITK writes such vectors for images of 2 and 4 axes."""
    lengths = {len(v) for v in vectors if v is not None}
    if lengths == {2}:
        return [None if v is None else (*v, 0.0) for v in vectors]
    if lengths != {4}:
        return vectors
    if any(v is None or (i < 3 and v[3] != 0) or (i == 3 and any(v[:3])) for i, v in enumerate(vectors)):
        raise header.refuse("space directions", "three axes in space, and a fourth of time")
    return [None if v is None or i == 3 else v[:3] for i, v in enumerate(vectors)]


def _vector(header: TextHeader, field: str, text: str) -> Vector:
    """Parse a vector `(a,b,c)`; return None for `none` and for a vector of NaN."""
    if text.lower() == "none":
        return None
    try:
        numbers = tuple(float(n) for n in text.strip("()").split(","))
    except ValueError as error:
        raise header.refuse(field, "vectors of numbers") from error
    return None if all(math.isnan(n) for n in numbers) else numbers


def _spatial_axes(header: TextHeader, sizes: tuple[int, ...], directions: list[Vector] | None) -> tuple[int, ...]:
    """Return the indices of the axes X and Y, and of Z if it exists."""
    kinds = (header.get("kinds") or "").lower().split()
    if kinds and len(kinds) != len(sizes):
        raise header.refuse("kinds", f"{len(sizes)} kinds")
    if directions is not None:
        spatial = [a for a, vector in enumerate(directions) if vector is not None]
    else:
        outside = {a for a, kind in enumerate(kinds) if kind not in DOMAIN_KINDS | UNKNOWN_KINDS or kind == "time"}
        spatial = [a for a in range(len(sizes)) if a not in outside][:3]
    others = [a for a in range(len(sizes)) if a not in spatial and sizes[a] != 1]
    if len(spatial) not in (2, 3) or len(others) > 1:
        raise ScanError(
            f"{header.path.name} is not a volume",
            expected="2 or 3 axes in space, and 1 of channels",
            found=f"sizes {' x '.join(map(str, sizes))}, kinds {' '.join(kinds) or 'unknown'}",
            remedy="split it into volumes",
        )
    return tuple(spatial)


def _place_in_space(
    header: TextHeader, spatial: tuple[int, ...], directions: list[Vector] | None
) -> tuple[Affine, tuple[str, ...]]:
    """Compute the affine to LPS mm from space directions and origin; raises `ScanError`."""
    steps = [(directions or [])[a] for a in spatial]
    if any(v is None or len(v) != 3 or not np.isfinite(v).all() for v in steps):
        raise header.refuse("space directions", "vectors of 3 finite numbers")
    space = _space(header)
    notes: tuple[str, ...] = ()
    if space and space not in SIGNS_TO_LPS and space not in SPACES_WITHOUT_PATIENT:
        raise header.refuse("space", "RAS, LAS or LPS")
    if space not in SIGNS_TO_LPS:
        notes += ("the header does not give the orientation of its axes in the patient; LPS is assumed",)
    lps = np.eye(4)
    for column, step in enumerate(steps):
        lps[:3, column] = step
    if len(steps) == 2:
        lps[:3, 2] = _normal(lps)
        notes += (UNKNOWN_THICKNESS,)
    origin = _origin(header)
    if origin is None:
        notes += ("the header does not give the position of the volume; the first voxel is placed at the origin",)
    lps[:3, 3] = origin or (0.0, 0.0, 0.0)
    factor, unit_note = _unit(header)
    lps[:3] *= factor
    signs = SIGNS_TO_LPS.get(space, (1.0, 1.0, 1.0))
    return np.diag([*signs, 1.0]) @ lps, notes + unit_note


def _place_without_space(
    header: TextHeader, spatial: tuple[int, ...], _: list[Vector] | None
) -> tuple[Affine, tuple[str, ...]]:
    """Compute the affine to LPS mm from spacings and an origin, with axes along LPS as in ITK; raises `ScanError`."""
    notes: tuple[str, ...] = ()
    n_axes = len((header.get("sizes") or "").split())
    spacings, starts, note = _spacings_and_starts(header, n_axes)
    lps = np.eye(4)
    for column, axis in enumerate(spatial):
        size = spacings[axis]
        if not math.isfinite(size):
            size = 1.0
            notes = tuple(dict.fromkeys((*notes, "a spacing is unknown; 1 mm is assumed")))
        lps[column, column] = size
        if math.isfinite(starts[axis]):
            lps[column, 3] = starts[axis] + (0.0 if _is_node(header, axis) else size / 2)  # teem's default is a cell
    has_place = all(math.isfinite(starts[a]) for a in spatial)
    origin = _origin(header)
    if origin is not None:
        space = _space(header)
        if space and space not in SIGNS_TO_LPS and space not in SPACES_WITHOUT_PATIENT:
            raise header.refuse("space", "RAS, LAS or LPS")
        lps[:3, 3] = np.array(SIGNS_TO_LPS.get(space, (1.0, 1.0, 1.0))) * origin
        has_place = True
    unknown = "orientation; LPS is assumed" if has_place else "position and orientation"
    notes = (f"the header does not give {unknown}", *note, *notes)
    if len(spatial) == 2:
        notes += (UNKNOWN_THICKNESS,)
    factor, unit_note = _unit(header)
    lps[:3] *= factor
    return lps, notes + unit_note


def _spacings_and_starts(header: TextHeader, n_axes: int) -> tuple[list[float], list[float], tuple[str, ...]]:
    """Return the spacing and start of each axis, with NaN where unknown, and notes.

    Missing spacings are computed from `axis mins` and `axis maxs`.
    """
    spacings = _numbers(header, "spacings", n_axes)
    starts = _numbers(header, "axis mins", n_axes, "axismins")
    ends = _numbers(header, "axis maxs", n_axes, "axismaxs")
    sizes = [int(n) for n in (header.get("sizes") or "").split()]
    notes: tuple[str, ...] = ()
    for axis, (start, end, size) in enumerate(zip(starts, ends, sizes, strict=True)):
        n_steps = size - 1 if _is_node(header, axis) else size
        if not math.isfinite(spacings[axis]) and end > start and n_steps > 0:  # not where either is NaN
            spacings[axis] = (end - start) / n_steps
            notes = (f"spacings are computed from axis mins and maxs; ITK-based programs use 1 mm, {MASK_ELSEWHERE}",)
    return spacings, starts, notes


def _is_node(header: TextHeader, axis: int) -> bool:
    """Return True if the samples of an axis are node-centred (first and last sample on the axis ends)."""
    centers = (header.get("centerings", "centers") or "").lower().split()
    return axis < len(centers) and centers[axis] == "node"


def _space(header: TextHeader) -> str:
    """Return the name of the space without a time axis."""
    space = (header.get("space") or "").lower()
    return space[:3] if space in ("rast", "last", "lpst") else space.removesuffix("-time")


def _unit(header: TextHeader) -> tuple[float, tuple[str, ...]]:
    """Return the factor to mm of the unit of all spatial axes, and notes; raises `ScanError` for several units."""
    text = header.get("space units", "units") or ""
    names = re.findall(r'"([^"]*)"', text) if '"' in text else text.split()
    if header.get("space units") is None:
        names = [n for n in names if n.strip()]
    names = names[:3]  # a fourth unit is that of the time axis
    results = {unit_notes(header.path, name) for name in names} or {(1.0, ())}
    if len(results) > 1:
        raise header.refuse("space units" if header.get("space units") else "units", "one unit for all axes")
    return results.pop()


def _origin(header: TextHeader) -> Vector:
    """Return the position of the first voxel, or None if the header does not give it; raises `ScanError`."""
    text = header.get("space origin")
    if text is None:
        return None
    origin = _vector(header, "space origin", text.strip())
    if origin is not None and len(origin) == 2:
        origin = (*origin, 0.0)  # of a single slice
    if origin is not None and len(origin) == 4:
        origin = origin[:3]  # of space and time
    if origin is not None and (len(origin) != 3 or not np.isfinite(origin).all()):
        raise header.refuse("space origin", "3 finite numbers")
    return origin


def _normal(lps: Affine) -> Any:
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    return normal / (float(np.linalg.norm(normal)) or 1.0)


def _numbers(header: TextHeader, field: str, n_axes: int, synonym: str = "") -> list[float]:
    """Return a number for each axis, with NaN for missing ones; raises `ScanError`."""
    text = header.get(field, synonym)
    if text is None:
        return [math.nan] * n_axes
    try:
        numbers = [float(n) for n in re.split(r"[\s,]+", text.strip(" \t,"))]
    except ValueError as error:
        raise header.refuse(field, "numbers") from error
    if len(numbers) != n_axes:
        raise header.refuse(field, f"{n_axes} numbers")
    return numbers


def _whole_number(header: TextHeader, *names: str) -> int:
    text = header.get(*names)
    try:
        return int(text or 0)
    except ValueError as error:
        raise header.refuse(names[0], "a whole number") from error
