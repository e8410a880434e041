"""Writing of masks of PNG, JPEG, TIFF, BMP, GIF, PGM and PPM images as label images on the same pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import OutputError
from medhybrid.scans.raster import RasterHeader
from medhybrid.scans.scan import Source


def label_image_suffix(source: Source) -> str:
    """Return the suffix of the label image of a source: `.tif` for a TIFF, else `.png`."""
    header: RasterHeader = source.header
    return ".tif" if header.file_format == "TIFF" else ".png"


def write_label_image(path: Path, mask: NDArray[np.generic], source: Source) -> None:
    """Write a label map as a grey image without loss, atomically: columns, rows and pages as in its source.

    Parameters
    ----------
    path : Path
        Path with any suffix; the format is that of `label_image_suffix`.
    mask : (X, Y, Z) integer ndarray
        Label values, at most 65535.
    source : Source
        Source of an image file. Its pixel size is written where it is known.

    Raises
    ------
    OutputError
        If a value does not fit into 16 bits.
    """
    from PIL import Image

    header: RasterHeader = source.header
    largest = int(mask.max()) if mask.size else 0
    if largest > np.iinfo(np.uint16).max:
        raise OutputError(f"{path.name}: a label image has 16 bits", expected="values up to 65535", found=str(largest))
    values = mask.astype(np.uint8 if largest < 256 else np.uint16).transpose(2, 1, 0)  # (X, Y, Z) -> (Z, Y, X)
    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in values)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if header.file_format == "TIFF":
            first.save(temporary, "TIFF", save_all=True, append_images=others, **_tiff_options(header))
        else:
            dpi = {} if header.size is None else {"dpi": (25.4 / header.size[0], 25.4 / header.size[1])}
            first.save(temporary, "PNG", **dpi)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _tiff_options(header: RasterHeader) -> dict[str, Any]:
    """Return compression, and the pixel size as in a TIFF of ImageJ, which states the distance of pages, too."""
    options: dict[str, Any] = {"compression": "tiff_adobe_deflate"}
    if header.size is None:
        return options
    x, y, z = header.size
    n = len(header.pages)
    text = f"ImageJ=1.11a\nimages={n}\nslices={n}\nunit=mm\nspacing={z:.9g}\n"
    return options | {"description": text, "x_resolution": 1 / x, "y_resolution": 1 / y, "resolution_unit": 1}
