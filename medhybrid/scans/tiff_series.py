"""Meaning of the pages of a TIFF, by its metadata: slices of one volume, or channels, time points and other images.

ImageJ, OME and tifffile write the sizes of the axes into the description of the first page. Pages are read as slices, so that
other axes would be joined to a volume.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medhybrid.errors import ScanError
from medhybrid.scans.raster_size import description_of, is_ome, ome_images

OTHER_ORDER = "slices in another order than the pages"

OTHER_AXES = {"C": "channels", "T": "time points", "S": "samples", "P": "positions"}
"""Letters of tifffile for axes that are not slices."""


def refuse_other_series(path: Path, image: Any, n_pages: int, *, n_samples: int) -> None:
    """Raise `ScanError` for a TIFF whose pages are not the slices of one volume, or are not all listed.

    Parameters
    ----------
    n_samples : int
        Number of values of a pixel.
    """
    text = description_of(image)
    if text.startswith("ImageJ="):
        others = _others_of_imagej(text, n_pages)
    elif is_ome(text):
        others = _others_of_ome(text, n_pages, n_samples)
    else:
        others = _others_of_tifffile(text, image.size, n_pages, n_samples)
    if others:
        raise ScanError(
            f"{path.name}: its pages are not the slices of one volume",
            expected="one channel and one time point, and each slice in one page, in their order",
            found=", ".join(others),
            remedy="save each channel and time point as a separate file, with its slices in order",
        )


def _others_of_imagej(text: str, n_pages: int) -> list[str]:
    counts = {k: int(v) for k, v in re.findall(r"^(images|channels|frames|slices)=(\d+)", text, re.MULTILINE)}
    if counts.get("images", n_pages) > n_pages:  # ImageJ lists only the first page of large files
        return [f"{counts['images']} images, {n_pages} of them in its list of pages"]
    return [f"{v} {k}" for k, v in counts.items() if k in ("channels", "frames") and v > 1]


def _others_of_ome(text: str, n_pages: int, n_samples: int) -> list[str]:
    first, *images = ome_images(text)
    counts = {k: int(v) for k, v in re.findall(r"""\bSize([CTZ])\s*=\s*["'](\d+)["']""", first)}
    others = [f"{v} {k}" for k, v in counts.items() if k != "Z" and v > 1 and not (k == "C" and v == n_samples)]
    if counts.get("Z", 1) > n_pages and not images:
        others.append(f"{counts['Z']} slices, {n_pages} of them in this file")
    if images:
        return [*others, f"{1 + len(images)} images"] if n_pages > counts.get("Z", 1) else others
    if not others and "Z" in counts and counts["Z"] < n_pages:
        others.append(f"{n_pages} pages, of which its metadata list {counts['Z']}")
    return others or ([OTHER_ORDER] if not _is_in_order(first) else [])


def _is_in_order(image: str) -> bool:
    """Return whether the metadata of an OME image assign its slices to the pages in their order."""
    both = []
    for element in re.findall(r"<(?:\w+:)?TiffData\b([^>]*)", image):
        found = dict(re.findall(r"""\b(IFD|FirstZ|PlaneCount)\s*=\s*["'](\d+)["']""", element))
        both.append((found.get("IFD"), found.get("FirstZ")))
    if not any(page and z for page, z in both):  # what a missing one means is not clear
        return True
    return all(int(page or 0) == int(z or 0) for page, z in both)


def _others_of_tifffile(text: str, size: tuple[int, int], n_pages: int, n_samples: int) -> list[str]:
    """Return what is not a slice in a description of tifffile, such as ``{"shape": [5, 10, 64, 64], "axes": "TZYX"}``."""
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else {}
        shape = [int(n) for n in values.get("shape", ())]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []
    axes = str(values.get("axes", "")).upper()
    letters = axes if len(axes) == len(shape) else "?" * len(shape)
    x, y = size
    for in_page in ([y, x, n_samples], [n_samples, y, x], [y, x]):
        if shape[-len(in_page) :] == in_page:
            n_before = len(shape) - len(in_page)
            return _others_of_axes([(n, k) for n, k in zip(shape[:n_before], letters, strict=False) if n > 1], n_pages)
    return []


def _others_of_axes(axes: Sequence[tuple[int, str]], n_pages: int) -> list[str]:
    """Return what is not a slice in the axes (length, letter) before those of a page."""
    n_described = math.prod(n for n, _ in axes)
    if n_described > n_pages:  # tifffile lists only the first page if it is asked to
        return [f"{n_described} images, {n_pages} of them in its list of pages"]
    named = [f"{n} {OTHER_AXES[letter]}" for n, letter in axes if letter in OTHER_AXES]
    return named or ([f"{' x '.join(str(n) for n, _ in axes)} images"] if len(axes) > 1 else [])
