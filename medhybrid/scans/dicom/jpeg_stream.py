"""Checks of the markers in JPEG, JPEG-LS and JPEG 2000 streams before decoding.

Damaged markers can crash a decoder, and some decoders silently fill the missing part of an incomplete stream. Markers also show
whether the compression is lossy. LossyImageCompression of the header does not: it stays set after any earlier lossy step.

Decoders also return the values of a stream in the shape of the file's header. A stream of another shape, of colours or of more
bits would give wrong values, so it is compared with the header.
"""

from __future__ import annotations

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
FRAME_MARKERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7)
"""Markers of frame headers; 0xF7 is that of JPEG-LS."""

SEGMENT_MARKERS = (*range(0xC0, 0xD0), *range(0xDA, 0xF0), *range(0xF0, 0xFF), 0xFE)
"""Markers of segments with a length."""

LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)
LS_FRAME = 0xF7

SYNTAXES = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
)
"""Transfer syntaxes of JPEG and JPEG-LS."""

JPEG_2000_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
"""Transfer syntaxes of JPEG 2000. Its streams state if values are signed."""

CHECKED_SYNTAXES = (*SYNTAXES, *JPEG_2000_SYNTAXES)

JPEG_2000_MAY_LOSE = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")
"""Transfer syntaxes of JPEG 2000 that may be lossy even with the reversible wavelet."""

SOC, SOT, COD = b"\xff\x4f\xff\x51", b"\xff\x90", b"\xff\x52"


LEAST_BITS = 8
"""Smallest number of bits of a decoded value. Streams of masks with 1 bit may state 8 bits."""


def find_damage_of(syntax: str, stream: bytes, rows: int, columns: int, bits: int) -> str:
    """Describe damage of a stream, or its difference from the header; empty without any, or if the syntax is not checked.

    Parameters
    ----------
    rows, columns, bits : int
        Size of the image and BitsAllocated, by the header of its file.
    """
    if syntax in JPEG_2000_SYNTAXES:
        return find_damage_2000(stream) or _find_difference_2000(stream, rows, columns, bits)
    return find_damage(stream, rows, columns, bits) if syntax in SYNTAXES else ""


def find_damage(stream: bytes, rows: int, columns: int, bits: int = 16) -> str:
    """Describe damaged markers in a JPEG or JPEG-LS stream, or its difference from the header; empty without any.

    Parameters
    ----------
    rows, columns, bits : int
        Size of the image and BitsAllocated, by the header of its file.
    """
    if stream[:2] != bytes((0xFF, SOI)):
        return "a stream without its start marker"
    if not _ends_whole(stream):
        return "a stream without its end"
    at = 2
    has_frame = False
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            return f"byte {stream[at]:#04x} in place of a marker"
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
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
            if difference := _find_difference(found, stream[at + 9], stream[at + 4], (rows, columns), bits):
                return difference
            has_frame = True
        if marker == SOS:
            return "" if has_frame else "values without a frame header"
        at += 2 + length
    return "a stream without values"


def precision_of(stream: bytes) -> int | None:
    """Return the bits of a value by the frame header of a JPEG stream; None without one."""
    at = 2
    while at + 4 < len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in FRAME_MARKERS and marker not in (0xC4, 0xC8, 0xCC):
            return stream[at + 4]
        if marker == SOS:
            return None
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def find_damage_2000(stream: bytes) -> str:
    """Describe damaged markers in a JPEG 2000 stream; empty if none are damaged.

    Each tile-part has a length, so the parts are followed up to the end marker.
    """
    if not _ends_whole(stream):
        return "a stream without its end"
    start = stream.find(SOC)
    at = stream.find(SOT, start)
    if start < 0 or at < 0:
        return "a stream without values"
    end = len(stream.rstrip(b"\0")) - 2
    while at < end:
        length = int.from_bytes(stream[at + 6 : at + 10], "big")
        if stream[at : at + 2] != SOT or 0 < length < 14:
            return f"byte {stream[at]:#04x} in place of a part of the values"
        at = at + length if length else end  # length 0: the part extends to the end
    return "" if at == end else f"a part of {length} bytes that ends beyond the stream"


def _find_difference_2000(stream: bytes, rows: int, columns: int, bits: int) -> str:
    """Describe the difference between the size marker of a JPEG 2000 stream and the header; empty without any."""
    size = stream[stream.find(SOC) :][8:43]  # ITU-T T.800 A.5.1, after the markers, their length and the profile
    if len(size) < 35:
        return "a stream without its size"
    right, bottom, left, top = (int.from_bytes(size[i : i + 4], "big") for i in range(0, 16, 4))
    depth = (size[34] & 0x7F) + 1  # the highest bit is the sign
    return _find_difference(
        (bottom - top, right - left), int.from_bytes(size[32:34], "big"), depth, (rows, columns), bits
    )


def _find_difference(found: tuple[int, int], n_samples: int, depth: int, expected: tuple[int, int], bits: int) -> str:
    """Describe the first difference of a stream in size, samples for each pixel or bits; empty without any."""
    size = f"{found[0]} x {found[1]} pixels"
    if found != expected:
        return size
    if n_samples != 1:
        return f"{size} of {n_samples} colours"
    return f"{size} of {depth} bits, in BitsAllocated {bits}" if depth > max(bits, LEAST_BITS) else ""


def lossy_error(stream: bytes, syntax: str, *, was_lossy: bool) -> int | None:
    """Return the largest error of lossy compression: 0 for lossless streams, None without a limit.

    Parameters
    ----------
    was_lossy : bool
        LossyImageCompression of the header, for this stream or an earlier one. It is used if the stream does not state it.
    """
    if syntax in JPEG_2000_SYNTAXES:
        at = stream.find(COD)
        is_irreversible = 0 <= at < len(stream) - 13 and stream[at + 13] == 0  # transformation 0: the 9-7 wavelet
        return None if is_irreversible or (was_lossy and syntax in JPEG_2000_MAY_LOSE) else 0
    if syntax not in SYNTAXES:
        return 0
    at, kind = 2, 0
    while at + 4 <= len(stream):
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
            continue
        if marker in FRAME_MARKERS:
            kind = marker
        if marker == SOS:
            near = at + 5 + 2 * stream[at + 4]
            return stream[near] if kind == LS_FRAME else 0 if kind in LOSSLESS_FRAMES else None
        at += 2 + length
    return 0


def _ends_whole(stream: bytes) -> bool:
    """Return True if a stream ends with its end marker, apart from padding with 0 or the fill byte 0xFF."""
    return stream.rstrip(b"\0\xff")[-2:] == bytes((0xFF, EOI))
