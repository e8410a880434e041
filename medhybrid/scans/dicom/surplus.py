"""Detection of compressed pixel data with more values or frames than the header states.

A decoder silently ignores the surplus. With wrong Rows or Columns, slices would be sheared; with a wrong NumberOfFrames, slices
would be missing.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import Any

from medhybrid.scans.dicom.jpeg_stream import JPEG_2000_SYNTAXES, SYNTAXES

RLE = "1.2.840.10008.1.2.5"

ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
"""Transfer syntax of uncompressed pixels in fragments."""

SPARE_VALUES = 1
"""Largest surplus that counts as padding: a byte for an even length, or two bytes of RLE, which decode to one value."""

BEGINS = {
    **dict.fromkeys(SYNTAXES, b"\xff\xd8\xff"),
    **dict.fromkeys(JPEG_2000_SYNTAXES, b"\xff\x4f\xff\x51"),
}
"""First bytes of a stream, by transfer syntax."""


def find_surplus(syntax: str, stream: bytes, n_values: int, bits: int) -> str:
    """Describe the surplus in a frame's stream; empty without surplus, or for a syntax that is not checked.

    Parameters
    ----------
    syntax : str
        Transfer syntax.
    stream : bytes
        The compressed stream of the frame.
    n_values : int
        Number of values per frame, by the header.
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
    """Return the decoded length of each RLE segment in bytes (PS3.5 annex G); empty for a damaged RLE header."""
    if len(stream) < 64:
        return []
    n_segments, *offsets = struct.unpack("<16L", stream[:64])
    ends = [*offsets[1:n_segments], len(stream)]
    return [_unpacked_length(stream[a:b]) for a, b in zip(offsets[:n_segments], ends, strict=False)]


def _unpacked_length(segment: bytes) -> int:
    n_bytes = at = 0
    last = len(segment) - 1  # a count at the end without a value is ignored
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
    """Count the frames of encapsulated pixel data, from its offset table or from the fragments that start a stream.

    Without a table, each fragment of another format than JPEG is a frame, or all fragments are parts of a single frame.
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
