"""Pixel size of an image file, where its metadata or a file beside it states it reliably.

Most programs write a resolution in dots per inch that only means a screen or a printer. Therefore usual values count as
unknown, and so does any value in a JPEG.
"""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from medhybrid.files import check_file

Size = tuple[float, float, float]

USUAL_DPI = (
    72,
    75,
    90,
    96,
    100,
    110,
    120,
    144,
    150,
    168,
    180,
    192,
    200,
    220,
    240,
    250,
    288,
    300,
    350,
    360,
    400,
    480,
    500,
)
"""Resolutions of screens and printers; above them, multiples of 100."""

DPI_TOLERANCE = 0.6
"""Resolutions in pixels per metre are rounded."""

MM = {"nm": 1e-6, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1000.0}
MM |= {"millimeter": 1.0, "inch": 25.4, "in": 25.4}

MIN_MM, MAX_MM = 1e-6, 50.0
"""Range of plausible pixel sizes."""

CHANNEL = re.compile(r"_\d{4}$")
"""Number of a channel at the end of a name, in datasets of nnU-Net."""

MAX_BESIDE_BYTES = 1 << 20
"""Size of a JSON file beside a TIFF above which it holds other things than a spacing, such as outlines."""

DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 270, 282, 283, 296
"""Tags of TIFF."""


def pixel_size(image: Any) -> Size | None:
    """Return the size of a voxel of a Pillow image in mm; None if its file does not state it reliably.

    The distance of pages is that of the metadata of ImageJ or OME; 0 if they do not state it.
    """
    if image.format == "PNG":
        return _of_dpi(*map(float, image.info.get("dpi", (0, 0))))
    if image.format != "TIFF":
        return None
    tags = image.tag_v2
    text = description_of(image)
    x, y = (_number(tags.get(t)) for t in (X_RESOLUTION, Y_RESOLUTION))
    if is_ome(text):
        return _of_ome(text)
    if text.startswith("ImageJ="):
        return _of_imagej(text, x, y)
    factor = {2: 1.0, 3: 2.54}.get(int(tags.get(RESOLUTION_UNIT, 0) or 0), 0.0)
    return _of_dpi(x * factor, y * factor)


def size_files_of(path: Path) -> list[Path]:
    """Return the paths of files that may state the size of a TIFF's voxels, which may not exist."""
    return [path.with_name(f"{stem}.json") for stem in dict.fromkeys((CHANNEL.sub("", path.stem), path.stem))]


def size_beside(path: Path) -> Size | None:
    """Return the size of a voxel of a TIFF in mm by the file of nnU-Net beside it; None without one.

    The file of `case_0000.tif`, and of its mask `case.tif`, is `case.json` with the spacing of pages, rows and columns.
    """
    for beside in size_files_of(path):
        try:
            check_file(beside)
            if beside.stat().st_size > MAX_BESIDE_BYTES:
                continue
            values = json.loads(beside.read_bytes())
            z, y, x = (float(v) for v in values["spacing"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError):  # absent, or of another program
            continue
        return _plausible(x, y, z) if z else None
    return None


def _of_dpi(x: float, y: float) -> Size | None:
    if min(x, y) <= 0 or any(_is_usual(d) for d in (x, y)):
        return None
    return _plausible(25.4 / x, 25.4 / y, 0.0)


def _is_usual(dpi: float) -> bool:
    nearest = 100 * round(dpi / 100)
    is_round = 500 < dpi < 10_000 and abs(dpi - nearest) <= DPI_TOLERANCE
    return is_round or dpi <= 2 or any(abs(dpi - usual) <= DPI_TOLERANCE for usual in USUAL_DPI)


def _of_imagej(text: str, x: float, y: float) -> Size | None:
    values: dict[str, str] = dict(re.findall(r"^(\w+)=(.+?)\s*$", text, re.MULTILINE))
    unit = values.get("unit", "")
    x_mm, y_mm, z_mm = _mm(unit), _mm(values.get("yunit", unit)), _mm(values.get("zunit", unit))
    if not x_mm or not y_mm or min(x, y) <= 0:
        return None
    z = _number(values.get("spacing")) * z_mm
    return _plausible(x_mm / x, y_mm / y, abs(z))


def description_of(image: Any) -> str:
    """Return the description in a TIFF. It is UTF-8 in OME and others, but Pillow decodes it as Latin-1."""
    text = str(image.tag_v2.get(DESCRIPTION, ""))
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def is_ome(text: str) -> bool:
    """Return whether a description is metadata of OME, with or without a prefix of its names."""
    return re.search(r"<(?:\w+:)?OME\b", text) is not None


def ome_images(text: str) -> list[str]:
    """Return the metadata of each image in a description of OME, at least one."""
    return re.split(r"<(?:\w+:)?Image\b", text)[1:] or [text]


def _of_ome(text: str) -> Size | None:
    sizes = {_of_ome_image(t) for t in ome_images(text)}
    return sizes.pop() if len(sizes) == 1 else None  # of images with different pixels, it is not known which are these


def _of_ome_image(text: str) -> Size | None:
    found = re.findall(r"""\bPhysicalSize([XYZ](?:Unit)?)\s*=\s*(["'])(.*?)\2""", text)
    values = {k: unescape(v) for k, _, v in found}
    sizes = [_number(values.get(axis)) * _mm(values.get(f"{axis}Unit", "um")) for axis in "XYZ"]
    return _plausible(sizes[0], sizes[1], sizes[2])


def _plausible(x: float, y: float, z: float) -> Size | None:
    return (x, y, z) if all(MIN_MM <= v <= MAX_MM for v in (x, y, *([z] if z else []))) else None


def _mm(unit: str) -> float:
    """Return the length of a unit in mm; 0 for an unknown one, such as `pixel`."""
    plain = unit.strip().lower().replace("\\u00b5", "u").replace("\u00b5", "u").replace("\u03bc", "u")
    return MM.get(plain, 0.0)


def _number(value: object) -> float:
    """Return a number in metadata; 0 if it is absent."""
    try:
        return float(value) if value is not None else 0.0  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
