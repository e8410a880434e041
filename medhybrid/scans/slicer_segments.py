"""Segment names of 3D Slicer segmentations (`.seg.nrrd`)."""

from __future__ import annotations

import re
from pathlib import Path

from medhybrid.errors import ScanError
from medhybrid.scans.itk import SUFFIXES, read_image_header
from medhybrid.scans.text_headers import is_meta, read_text_header

FIELD = re.compile(r"Segment(\d{1,6})_(Name|ID|LabelValue|Layer)")


Segments = dict[str, tuple[tuple[int, int], ...]]
"""Layers and label values by segment name."""


def segments_of_nrrd(path: Path) -> Segments:
    """Read the layer and the label value of each segment.

    Segments of one layer do not overlap. A layer is a channel of the scan that `read_scan` returns. Segments with equal
    names are joined. A segment without a name gets its ID as name. Older versions of 3D Slicer wrote no layer and value:
    each segment then has a separate layer and the value 1.

    Returns
    -------
    segments : dict of str to tuple of (int, int)
        Layers and values by name, in the order of the header; empty for a file without segments.

    Raises
    ------
    ScanError
        If the header cannot be read, a layer or value is not usable, or two segments share a value of a layer.
    """
    if is_meta(path) or not path.name.lower().endswith(SUFFIXES):
        return {}
    header = read_image_header(path)
    n_layers = header.shape[3] if len(header.shape) == 4 else 1
    fields: dict[int, dict[str, str]] = {}
    for key, text in read_text_header(path).pairs.items():
        match = FIELD.fullmatch(key.strip())
        if match:
            fields.setdefault(int(match[1]), {})[match[2]] = text.strip()
    segments: Segments = {}
    for number, field in sorted(fields.items()):
        name = field.get("Name") or field.get("ID") or f"Segment{number}"
        layer = _whole_number(path, name, "layer", field.get("Layer"), number if n_layers > 1 else 0)
        value = _whole_number(path, name, "label value", field.get("LabelValue"), 1)
        if not 0 <= layer < n_layers:
            raise _unusable(path, name, f"a layer from 0 to {n_layers - 1}", f"layer {layer}")
        if value < 1:
            raise _unusable(path, name, "a label value of 1 or more", str(value))
        if any((layer, value) in places for places in segments.values()):
            raise _unusable(path, name, "different values in a layer", f"value {value} twice in layer {layer}")
        segments[name] = (*segments.get(name, ()), (layer, value))
    return segments


def _whole_number(path: Path, name: str, field: str, text: str | None, default: int) -> int:
    if not text:
        return default
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise _unusable(path, name, f"a whole number as {field}", text[:40])
    return int(text)


def _unusable(path: Path, name: str, expected: str, found: str) -> ScanError:
    return ScanError(
        f"{path.name}: segment {name[:60]!r} cannot be used",
        expected=expected,
        found=found,
        remedy="save the segmentation again with 3D Slicer",
    )
