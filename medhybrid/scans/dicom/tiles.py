"""Reading of slices that are tiled into one image: Siemens mosaics and UIH VFRAME sheets.

The header of a Siemens mosaic gives the position of the whole sheet. The first slice is offset by half the difference between
the sizes of sheet and tile. The slices are stacked along SliceNormalVector of the private CSA header. If its scan protocol
(ASCCONV) lists the slice centres, every slice must lie at its listed centre. A UIH sheet has a private sequence with the
position of each slice. A sheet without these data is refused.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError
from medhybrid.number_text import format_apart
from medhybrid.scans.dicom.attributes import integer, number, numbers, text

SIEMENS_CREATOR = 0x00190010
SIEMENS_COUNT = 0x0019100A
"""Private tags of NumberOfImagesInMosaic outside the CSA header, and of its private creator."""

CSA_TAGS = [0x00290000 + creator for creator in range(0x10, 0x18)] + [
    0x00290000 + (creator << 8) + element for creator in range(0x10, 0x18) for element in (0x10, 0x20)
]
UIH_TAGS = [0x00650010, 0x00651004, 0x00651050, 0x00651051]
UIH_MATRIX, UIH_SLICES = 0x00651004, 0x00651051

MAX_TILES = 4096
"""Largest number of slices in a sheet. A larger number is treated as damage."""

PLACE_TOLERANCE = 0.02
"""Largest distance of a slice from its position in the protocol, along the normal, in slice distances."""

SIDE_TOLERANCE_PIXEL = 0.52
"""Largest distance within the slice, in pixels. The protocol gives the centre of the field of view, half a pixel off."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Slice in a sheet: its first row and column, and the centre of its first pixel (LPS mm)."""

    start: tuple[int, int]
    position_mm: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """Slices of one sheet, in the sheet's order, with `rows` x `columns` pixels each."""

    rows: int
    columns: int
    tiles: tuple[Tile, ...]


def is_sheet(header: Any) -> bool:
    """Return True if an image is a sheet of tiled slices."""
    kinds = text(header, "ImageType").upper().split("\\")
    if "MOSAIC" in kinds or "VFRAME" in kinds:
        return True
    creator = header[SIEMENS_CREATOR].value if SIEMENS_CREATOR in header else "SIEMENS"
    if SIEMENS_COUNT not in header or "SIEMENS" not in str(creator).upper():  # other vendors use the tag for other data
        return False
    return _private_count(header) != 1


def _private_count(header: Any) -> int | None:
    """Return NumberOfImagesInMosaic of Siemens' private group, or None."""
    if SIEMENS_COUNT not in header:
        return None
    value = header[SIEMENS_COUNT].value
    with contextlib.suppress(TypeError, ValueError):
        return int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    return None


def read_sheet(header: Any, path: Path) -> Sheet:
    """Read the slices of a sheet and their positions.

    Raises
    ------
    SeriesError
        If the header does not give the position of each slice, or is contradictory.
    """
    if "VFRAME" in text(header, "ImageType").upper().split("\\"):
        return _read_uih(header, path)
    return _read_siemens(header, path)


# --- Siemens ----------------------------------------------------------------------------------------------------------


def _read_siemens(header: Any, path: Path) -> Sheet:
    image, protocol = _read_csa(path)
    centres = _slice_centres(protocol)
    n = _count_slices(header, image, centres, path)
    n_a_side = ceil(sqrt(n))
    sheet_rows, sheet_columns = integer(header, "Rows") or 0, integer(header, "Columns") or 0
    if sheet_rows < n_a_side or sheet_rows % n_a_side or sheet_columns % n_a_side or not sheet_columns:
        raise _unusable(
            path,
            "its sheet cannot be divided into its slices",
            expected=f"rows and columns in multiples of {n_a_side} for {n} slices",
            found=f"{sheet_rows} x {sheet_columns}",
        )
    rows, columns = sheet_rows // n_a_side, sheet_columns // n_a_side
    turn = numbers(header, "ImageOrientationPatient", 6)
    corner = numbers(header, "ImagePositionPatient", 3)
    spacing = numbers(header, "PixelSpacing", 2)
    if turn is None or corner is None or spacing is None:
        raise _unusable(
            path, "its geometry is missing", expected="orientation, position and spacing", found="one is missing"
        )
    right, down = np.array(turn[:3]) * spacing[1], np.array(turn[3:]) * spacing[0]
    first = np.array(corner) + right * (sheet_columns - columns) / 2 + down * (sheet_rows - rows) / 2
    normal = np.cross(turn[:3], turn[3:])
    to_centre = right * columns / 2 + down * rows / 2
    step = _find_step(header, image, centres, first + to_centre, normal, n, path)
    positions = first + np.outer(np.arange(n), step)
    if centres is not None and len(centres) == n:
        _refuse_other_places(positions + to_centre, centres, (right, down, step), path)
    elif n > 1:
        _refuse_other_corner(image, corner, path)
    starts = [(i // n_a_side * rows, i % n_a_side * columns) for i in range(n)]
    return Sheet(
        rows,
        columns,
        tuple(Tile(s, tuple(map(float, p))) for s, p in zip(starts, positions, strict=True)),
    )


def _read_csa(path: Path) -> tuple[Mapping[str, Any], str]:
    """Return the names and values of the CSA image header, and the protocol's text; both empty if absent or damaged."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel warns that its readers are experimental
        from nibabel.nicom import csareader

        values: dict[str, Any] = {}
        protocol = ""
        try:
            private = pydicom.dcmread(path, force=True, specific_tags=CSA_TAGS, stop_before_pixels=True)
            image = csareader.get_csa_header(private, "image")
            values = {name: tag["items"] for name, tag in image["tags"].items()} if image else {}
        except Exception:  # damaged headers raise many kinds of exceptions; without a header the sheet is refused
            values = {}
        try:
            series = csareader.get_csa_header(private, "series")
            tags = series["tags"] if series else {}
            texts = [
                str(v) for name in ("MrPhoenixProtocol", "MrProtocol") for v in tags.get(name, {}).get("items", [])
            ]
            protocol = next((t for t in texts if "ASCCONV BEGIN" in t), "")
        except Exception:
            protocol = ""
    return values, protocol


def _count_slices(header: Any, image: Mapping[str, Any], centres: NDArray[np.float64] | None, path: Path) -> int:
    """Return the number of slices; raises `SeriesError` if it is missing or parts of the header disagree."""
    counts = []
    if items := image.get("NumberOfImagesInMosaic"):
        counts.append(int(items[0]))
    if (private := _private_count(header)) is not None:
        counts.append(private)
    if not counts and centres is not None:
        counts.append(len(centres))
    if not counts:
        raise _unusable(
            path, "its header does not give the number of slices", expected="NumberOfImagesInMosaic", found="none"
        )
    if len(set(counts)) > 1 or not 1 <= counts[0] <= MAX_TILES:
        raise _unusable(
            path,
            "its header gives a wrong number of slices",
            expected=f"one number from 1 to {MAX_TILES}",
            found=" and ".join(map(str, counts)),
        )
    return counts[0]


def _slice_centres(protocol: str) -> NDArray[np.float64] | None:
    """Return the slice centres (N, 3) in LPS mm in the protocol's order, or None if it does not list them."""
    size = re.search(r"^sSliceArray\.lSize\s*=\s*(\d+)", protocol, re.MULTILINE)
    n = int(size[1]) if size else 0
    if not 1 <= n <= MAX_TILES:
        return None
    centres = np.zeros((n, 3))  # components of 0 are not listed
    found = re.findall(
        r"^sSliceArray\.asSlice\[(\d+)\]\.sPosition\.d(Sag|Cor|Tra)\s*=\s*([-+.\deE]+)", protocol, re.MULTILINE
    )
    for at, axis, value in found:
        if int(at) < n:
            centres[int(at), ("Sag", "Cor", "Tra").index(axis)] = float(value)
    return centres if len(found) and (n == 1 or np.ptp(centres, axis=0).max() > 0) else None


def _find_step(
    header: Any,
    image: Mapping[str, Any],
    centres: NDArray[np.float64] | None,
    first_centre: NDArray[np.float64],
    normal: NDArray[np.float64],
    n: int,
    path: Path,
) -> NDArray[np.float64]:
    """Return the step from slice to slice (LPS mm)."""
    has_centres = centres is not None and len(centres) == n > 1
    distance = number(header, "SpacingBetweenSlices")
    if distance is None and has_centres:
        assert centres is not None
        distance = float(np.abs(np.diff(centres @ normal)).mean())
    if distance is None or distance <= 0:
        raise _unusable(path, "its slice distance is missing", expected="SpacingBetweenSlices", found=str(distance))
    items = image.get("SliceNormalVector") or []
    if len(items) == 3:
        direction = np.array([float(v) for v in items])
        cosine = float(direction @ normal)
        if abs(abs(cosine) - 1) > 1e-3:
            raise _unusable(
                path,
                "SliceNormalVector is not at right angles to its slices",
                expected="a cosine of 1 or -1 to row x column",
                found=format_apart([cosine, 1.0, -1.0])[0],
            )
        return np.asarray(normal * np.sign(cosine) * distance)
    if not has_centres:
        raise _unusable(
            path,
            "its header does not give the stacking direction of its slices",
            expected="SliceNormalVector in the CSA header, or slice positions in its protocol",
            found="neither",
        )
    assert centres is not None
    is_behind = (centres.mean(0) - first_centre) @ normal < 0
    return np.asarray(normal * (-distance if is_behind else distance))


def _refuse_other_places(
    found: NDArray[np.float64],
    listed: NDArray[np.float64],
    steps: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    path: Path,
) -> None:
    """Refuse slices at other positions than in the protocol, which may list them in reverse order."""
    to_voxel = np.linalg.inv(np.stack(steps, axis=1))
    offs = [np.abs((found - places) @ to_voxel.T).max(axis=0) for places in (listed, listed[::-1])]
    off = min(offs, key=lambda o: float(o[2]))
    if off[2] > PLACE_TOLERANCE or off[:2].max() > SIDE_TOLERANCE_PIXEL:
        raise _unusable(
            path,
            "its slices do not lie at the positions in its protocol",
            expected="the same positions in ImagePositionPatient and sSliceArray",
            found=f"up to {off[2]:.2f} slice distances and {off[:2].max():.2f} pixels apart",
        )


def _refuse_other_corner(image: Mapping[str, Any], corner: tuple[float, ...], path: Path) -> None:
    """Refuse a sheet with another position in its CSA header. Used if the protocol does not list the slices."""
    items = image.get("SlicePosition_PCS") or []
    if len(items) == 3 and np.abs(np.subtract([float(v) for v in items], corner)).max() > 0.01:
        raise _unusable(
            path,
            "its position differs from the one in its CSA header",
            expected=f"({', '.join(f'{float(v):.4f}' for v in items)})",
            found=f"({', '.join(f'{v:.4f}' for v in corner)})",
        )


# --- UIH --------------------------------------------------------------------------------------------------------------


def _read_uih(header: Any, path: Path) -> Sheet:
    import pydicom
    from pydicom.values import convert_SQ

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            private = pydicom.dcmread(path, force=True, specific_tags=UIH_TAGS, stop_before_pixels=True)
            items = private[UIH_SLICES].value
            items = list(convert_SQ(items, True, True) if isinstance(items, bytes) else items)
            matrix = private[UIH_MATRIX].value
            words = (matrix.decode("latin-1") if isinstance(matrix, bytes) else str(matrix)).strip(" \0").split("*")
            rows, columns = (int(w) for w in words)
            positions = [numbers(item, "ImagePositionPatient", 3) for item in items]
    except Exception as error:  # damaged or de-identified headers raise many kinds of exceptions
        raise _unusable(
            path,
            "its private header does not give the positions of its slices",
            expected="the private sequence of slices and the matrix of UIH",
            found=type(error).__name__,
        ) from error
    sheet_rows, sheet_columns = integer(header, "Rows") or 0, integer(header, "Columns") or 0
    n_down, n_across = sheet_rows // rows if rows > 0 else 0, sheet_columns // columns if columns > 0 else 0
    is_divided = (n_down * rows, n_across * columns) == (sheet_rows, sheet_columns)
    if rows != columns or not is_divided or not 1 <= len(items) <= n_down * n_across or None in positions:
        raise _unusable(
            path,
            "its sheet cannot be divided into its slices",
            expected="square tiles, and one position per tile",
            found=f"{len(items)} slices of {rows} x {columns} in {sheet_rows} x {sheet_columns}",
        )
    starts = [(i // n_across * rows, i % n_across * columns) for i in range(len(items))]
    return Sheet(rows, columns, tuple(Tile(s, p) for s, p in zip(starts, positions, strict=True) if p is not None))


def _unusable(path: Path, what: str, *, expected: str, found: str) -> SeriesError:
    return SeriesError(
        f"{path.name}: a sheet of tiled slices: {what}",
        code="mosaic",
        path=path,
        expected=expected,
        found=found,
        remedy="export it as enhanced DICOM, or convert it with dcm2niix first",
    )
