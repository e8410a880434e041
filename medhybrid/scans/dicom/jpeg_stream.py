"""The markers of a JPEG or JPEG-LS stream, checked before it is decoded: damaged ones can end the process in a decoder."""

from __future__ import annotations

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
FRAME_MARKERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7)
"""Starts of a frame; 0xF7 is that of JPEG-LS."""

SEGMENT_MARKERS = (*range(0xC0, 0xD0), *range(0xDA, 0xF0), *range(0xF0, 0xFF), 0xFE)
"""Markers of segments that have a length."""

SYNTAXES = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
)
"""Transfer syntaxes of JPEG and JPEG-LS."""


def find_damage(stream: bytes, rows: int, columns: int) -> str:
    """Say what is wrong with a stream's markers; empty if nothing is.

    Parameters
    ----------
    rows, columns : int
        Of the image, by the header of its file.
    """
    if stream[:2] != bytes((0xFF, SOI)):
        return "a stream that does not begin with its marker"
    if not _ends_whole(stream):
        return "a stream without its end"
    at = 2
    has_frame = False
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            return f"byte {stream[at]:#04x} in place of a marker"
        marker = stream[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker not in SEGMENT_MARKERS:
            return f"marker {marker:#04x} before the values"
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(stream):
            return f"a segment of {length} bytes"
        if marker in FRAME_MARKERS and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8:
                return f"a frame header of {length} bytes"
            found = int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(stream[at + 7 : at + 9], "big")
            if found != (rows, columns):
                return f"{found[0]} x {found[1]} pixels"
            has_frame = True
        if marker == SOS:
            return "" if has_frame else "values without a frame header"
        at += 2 + length
    return "a stream without values"


def _ends_whole(stream: bytes) -> bool:
    """Whether the last bytes that are not padding are the end marker."""
    return stream.rstrip(b"\0")[-2:] == bytes((0xFF, EOI))
