"""Values of TIFF pages as their tags define them, where Pillow returns others.

Pillow inverts pages of 1 and 8 bits whose white is stored as 0 (an inverting LUT of ImageJ), but none of 16 bits. It
exchanges the bytes of compressed big-endian pages, ignores the sign of 8 bits, reads unsigned 32 bits as signed, and drops
further values of a pixel. ITK and tifffile return the stored values.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.scans.raster_size import description_of

BITS, PHOTOMETRIC, SAMPLES, PLANES, TILE_WIDTH, SAMPLE_FORMAT = 258, 262, 277, 284, 322, 339
"""Tags of TIFF."""

UNSIGNED, SIGNED = 1, 2

WHITE_IS_ZERO = "its white is stored as 0: images are inverted, so that bright is bright; labels are the stored values"

CALIBRATED = "its values are those of ImageJ's calibration, a line; labels are the stored values"

NATIVE = {"I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF"}
"""Pillow's names of big-endian values, and of the same values in the byte order of this computer."""

INVERTED_BITS = ("group3", "group4", "tiff_ccitt")
"""Compressions of single bits of which white is 0 by definition, also in masks that Pillow writes."""

PLAIN = (0.0, 1.0)
"""Offset and factor of values that are not calibrated."""

FOURTH_VALUE = "the fourth value of its pixels is not used"


def line_of(image: Any) -> tuple[float, float]:
    """Return offset and factor of ImageJ's calibration of grey values of 8 and 16 bits; `PLAIN` without one.

    ImageJ writes signed values of 16 bits as unsigned ones, with an offset of -32768.
    """
    is_calibrated = image.format == "TIFF" and image.mode.startswith(("L", "I;16"))
    described = description_of(image) if is_calibrated else ""
    if not described.startswith("ImageJ="):
        return PLAIN
    values = dict(re.findall(r"^(cf|c0|c1)=(\S+)\s*$", described, re.MULTILINE))
    try:
        offset, factor = float(values["c0"]), float(values["c1"])
    except (KeyError, ValueError):
        return PLAIN
    is_line = values.get("cf") == "0" and math.isfinite(offset) and math.isfinite(factor) and factor != 0
    return (offset, factor) if is_line else PLAIN


def calibrated(values: NDArray[np.generic], line: tuple[float, float]) -> NDArray[np.generic]:
    """Apply a calibration to grey values; integers stay integers if they can."""
    offset, factor = line
    if line == PLAIN:
        return values
    if factor == 1 and offset.is_integer():
        return values.astype(np.int32) + np.int32(offset)
    return values.astype(np.float32) * np.float32(factor) + np.float32(offset)


def is_white_zero(image: Any) -> bool:
    """Return whether a page of unsigned grey values, or of single bits without a compression of fax, stores white as 0."""
    is_fax = image.mode == "1" and image.info.get("compression") in INVERTED_BITS
    is_grey = image.format == "TIFF" and image.mode.startswith(("1", "L", "I;16")) and not is_fax
    return bool(is_grey and image.tag_v2.get(PHOTOMETRIC) == 0)


def value_notes(path: Path, image: Any) -> tuple[str, ...]:
    """Return notes on the values of a TIFF; raise `ScanError` if its pixels have two values, of which Pillow keeps one."""
    if image.format != "TIFF":
        return ()
    n_values = int(image.tag_v2.get(SAMPLES, 1))
    if n_values == 2 and image.mode == "L":
        raise ScanError(
            f"{path.name}: its pixels have two values",
            expected="one, three (red, green and blue), or one with transparency",
            found="two channels",
            remedy="save each channel as a separate file",
        )
    notes = (WHITE_IS_ZERO,) if is_white_zero(image) else ()
    return (*notes, FOURTH_VALUE) if n_values > 3 and image.mode == "RGBX" else notes


def in_native_order(image: Any) -> None:
    """Let Pillow take the values of a compressed page as libtiff returns them, which is in the byte order of this computer.

    Pillow does so for unsigned values of 16 bits only, and exchanges the bytes of the others.
    """
    if image.format == "TIFF":
        image.tile = [t._replace(args=_native(t.args)) if t.codec_name == "libtiff" else t for t in image.tile]


def _native(args: Any) -> Any:
    return (NATIVE.get(args[0], args[0]), *args[1:]) if isinstance(args, tuple) and args else args


def has_deep_colours(image: Any) -> bool:
    """Return whether a TIFF has colours of 16 bits, of which Pillow keeps 8."""
    return int(image.tag_v2.get(SAMPLES, 1)) > 2 and max(image.tag_v2.get(BITS, (1,))) > 8


def has_split_colours(image: Any) -> bool:
    """Return whether a TIFF stores colours in separate planes or in tiles."""
    return bool(image.format == "TIFF" and (image.tag_v2.get(PLANES) == 2 or TILE_WIDTH in image.tag_v2))


def as_stored(image: Any, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Convert grey values that Pillow read from a page to the stored ones."""
    if image.format != "TIFF":
        return values
    if image.mode == "1":
        return 1 - values if is_white_zero(image) else values
    if is_white_zero(image) and values.dtype == np.uint8:
        values = np.invert(values)
    number_format = image.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    if values.dtype == np.uint8 and number_format == SIGNED:
        return values.view(np.int8)
    if values.dtype == np.int32 and number_format == UNSIGNED:
        return values.view(np.uint32)
    return values


def as_shown(image: Any, stored: NDArray[np.generic]) -> NDArray[np.generic]:
    """Invert stored values if white is 0, so that bright is bright."""
    if not is_white_zero(image):
        return stored
    return 1 - stored if image.mode == "1" else np.invert(stored)
