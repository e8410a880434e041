"""Compressed pixel data that holds more than its header counts: values of a frame, or frames of a file.

A decoder takes the first values, or the first frames, and is silent about the rest: slices would be sheared, or left out.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import Any

from medhybrid.scans.dicom.jpeg_stream import JPEG_2000_SYNTAXES, SYNTAXES

RLE = "1.2.840.10008.1.2.5"

ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
"""Plain pixels in the fragments of compressed streams."""

SPARE_VALUES = 1
"""So many bytes more than a frame has are padding: a byte that makes its length even, or two of RLE, which say one value."""

BEGINS = {
    **dict.fromkeys(SYNTAXES, b"\xff\xd8\xff"),
    **dict.fromkeys(JPEG_2000_SYNTAXES, b"\xff\x4f\xff\x51"),
}
"""How a stream begins."""


def find_surplus(syntax: str, stream: bytes, n_values: int, bits: int) -> str:
    """Say what the stream of a frame holds beyond its values; empty where nothing is, or its syntax is of no such kind.

    Parameters
    ----------
    n_values : int
        Of a frame, by its header.
    bits : int
        BitsAllocated.
    """
    if syntax == RLE:
        longest = max(_segment_lengths(stream), default=0)
        return f"{longest} values" if longest > n_values + SPARE_VALUES else ""
    if syntax == ENCAPSULATED_UNCOMPRESSED:
        n_bytes = (n_values * bits + 7) // 8
        return f"{len(stream)} bytes" if len(stream) > n_bytes + SPARE_VALUES else ""
    begin = BEGINS.get(syntax)
    if begin and re.search(rb"\xff\xd9\x00*" + re.escape(begin), stream):
        return "a second stream"
    return ""


def _segment_lengths(stream: bytes) -> list[int]:
    """Return how many bytes each segment of RLE holds (PS3.5 annex G); none where its header is damaged."""
    if len(stream) < 64:
        return []
    n_segments, *offsets = struct.unpack("<16L", stream[:64])
    ends = [*offsets[1:n_segments], len(stream)]
    return [_unpacked_length(stream[a:b]) for a, b in zip(offsets[:n_segments], ends, strict=False)]


def _unpacked_length(segment: bytes) -> int:
    n_bytes = at = 0
    last = len(segment) - 1  # a count without its value says nothing
    while at < last:
        count = segment[at]
        if count < 128:
            n_bytes += min(count + 1, last - at)
            at += count + 2
        else:
            n_bytes += 257 - count if count > 128 else 0
            at += 2 if count > 128 else 1
    return n_bytes


def count_frames(dataset: Any, syntax: str) -> int:
    """Count the frames of encapsulated pixel data, by its table of offsets, else by streams that begin a fragment.

    Without a table, fragments of other than JPEG streams are one each, or parts of a single frame.
    """
    from pydicom.encaps import parse_basic_offsets, parse_fragments

    table = getattr(dataset, "ExtendedOffsetTable", None)
    if table:
        return len(table) // 8
    content = BytesIO(dataset.PixelData)
    if offsets := parse_basic_offsets(content):
        return len(offsets)
    n_frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
    n_fragments, places = parse_fragments(content)
    begin = BEGINS.get(syntax)
    if n_fragments <= n_frames or begin is None:
        return n_frames if n_frames == 1 else n_fragments
    view = content.getbuffer()
    return sum(view[at + 8 : at + 8 + len(begin)] == begin for at in places)  # after tag and length
