"""Pixel data element of a file: its layout, its completeness and its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.attributes import integer, text
from medhybrid.scans.dicom.decoding import ITEM, frame_stream
from medhybrid.scans.dicom.surplus import ENCAPSULATED_UNCOMPRESSED, count_frames, find_surplus

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
PLAIN_SYNTAXES = (IMPLICIT_LITTLE_ENDIAN, "1.2.840.10008.1.2.1")
"""Transfer syntaxes of uncompressed little-endian pixels, which numpy reads directly."""

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = {0x7FE00008: 32, 0x7FE00009: 64}
"""Bits per value of FloatPixelData and DoubleFloatPixelData."""

BINARY_VRS = ("OB", "OW", "OB or OW", "OF", "OD", "UN", None)
"""VRs of pixel data. None occurs with implicit VR."""

MORE_THAN_COUNTED = "holds more pixel data than its header states"

NOT_COMPRESSED = "its pixels are not compressed, although its transfer syntax is of compressed pixels"

UNDEFINED_LENGTH = 0xFFFFFFFF


class PixelBytes:
    """Pixel data element of one file, with its layout.

    Attributes
    ----------
    syntax : str
        Transfer syntax; derived from the data set's encoding if the file does not name it.
    rows, columns, n_frames, bits, bits_stored, high_bit : int
        Values of the header, with defaults for missing ones.
    is_float : bool
        True for IEEE floats.
    note : str
        Note on ignored bytes after the pixels, or on pixels that are not compressed, or empty.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self.tag = next((t for t in FLOAT_PIXEL_DATA if t in dataset), PIXEL_DATA)
        self.is_float = self.tag in FLOAT_PIXEL_DATA
        self.n_frames = integer(dataset, "NumberOfFrames") or 1
        self.rows, self.columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
        self.bits = integer(dataset, "BitsAllocated") or 0
        self.bits_stored = integer(dataset, "BitsStored") or self.bits
        high_bit = integer(dataset, "HighBit")
        self.high_bit = self.bits_stored - 1 if high_bit is None else high_bit
        self.is_signed = integer(dataset, "PixelRepresentation") == 1
        self.syntax = syntax_of(dataset)
        self.note = ""

    @classmethod
    def of(cls, dataset: Any, path: Path) -> PixelBytes:
        """Find the pixel data, and check it; raises `SeriesError` if it is absent, incomplete or in an unsupported format."""
        found = cls(dataset, path)
        n_bytes = found._n_bytes()
        if not n_bytes:
            raise truncated(path, "pixel data", "none")
        if found.is_encapsulated and found._is_plain(n_bytes):
            found.syntax, found.note = PLAIN_SYNTAXES[1], NOT_COMPRESSED
        found._refuse_undecodable_syntax()
        found._refuse_layout()
        if found.is_encapsulated:
            found._refuse_further_frames()
        else:
            found._refuse_wrong_length(n_bytes)
        return found

    @property
    def is_encapsulated(self) -> bool:
        """Return True if the element holds a separate stream per frame."""
        from pydicom.uid import UID

        syntax = UID(self.syntax)
        return bool(not syntax.is_private and syntax.is_transfer_syntax and syntax.is_encapsulated)

    def _is_plain(self, n_bytes: int) -> bool:
        """Return whether the element holds exactly the uncompressed pixels, with a padding byte if their number is odd."""
        expected = self.n_frames * self.rows * self.columns * self.bits // 8
        element = self._dataset.get_item(self.tag, keep_deferred=True)
        has_length = getattr(element, "length", n_bytes) != UNDEFINED_LENGTH
        return has_length and n_bytes == expected + expected % 2 and self._read_bytes(0, len(ITEM)) != ITEM

    def plain_frame(self, index: int) -> NDArray[np.generic]:
        """Read a frame (Y, X) of uncompressed little-endian pixels."""
        kind = self._kind
        n_values = self.rows * self.columns
        start = index * n_values * kind.itemsize
        element = self._dataset.get_item(self.tag, keep_deferred=True)
        if element.value is None:
            with self._path.open("rb") as file:
                file.seek(element.value_tell + start)
                values = np.fromfile(file, kind, n_values)
            if values.size < n_values:
                raise truncated(self._path, f"{n_values} pixels per frame", str(values.size))
        else:
            values = np.frombuffer(element.value, kind, n_values, start)
        return values.reshape(self.rows, self.columns)

    @property
    def _kind(self) -> np.dtype[Any]:
        return np.dtype(f"<{'f' if self.is_float else 'i' if self.is_signed else 'u'}{self.bits // 8}")

    def encapsulated_frame(self, index: int) -> NDArray[np.generic]:
        """Read a frame (Y, X) of uncompressed pixels in fragments."""
        kind, n_values = self._kind, self.rows * self.columns
        try:
            content = self.stream(index)
        except Exception as error:  # damaged fragments raise many kinds of exceptions
            raise truncated(self._path, "complete fragments", type(error).__name__) from error
        if len(content) < n_values * kind.itemsize:
            raise truncated(self._path, f"{n_values * kind.itemsize} bytes per frame", str(len(content)))
        self._refuse_surplus(content)
        return np.frombuffer(content, kind, n_values).reshape(self.rows, self.columns)

    def stream(self, index: int) -> bytes:
        """Return the compressed stream of a frame."""
        return frame_stream(self._dataset, index)

    def whole_stream(self, index: int) -> bytes:
        """Return the compressed stream of a frame; raises `SeriesError` if it is damaged or holds surplus data."""
        try:
            stream = self.stream(index)
        except Exception as error:  # damaged fragments raise many kinds of exceptions
            raise truncated(self._path, "pixels that can be decoded", type(error).__name__) from error
        self._refuse_surplus(stream)
        return stream

    def _refuse_surplus(self, stream: bytes) -> None:
        if found := find_surplus(self.syntax, stream, self.rows * self.columns, self.bits):
            expected = f"a stream of {self.rows} x {self.columns} pixels"
            raise truncated(self._path, expected, found, what=MORE_THAN_COUNTED)

    def _refuse_further_frames(self) -> None:
        """Refuse more frames than NumberOfFrames. Missing frames are reported when they are read."""
        try:
            n_frames = count_frames(self._dataset, self.syntax)
        except Exception as error:  # damaged fragments raise many kinds of exceptions
            raise truncated(self._path, "complete fragments", type(error).__name__) from error
        if n_frames > self.n_frames:
            raise truncated(self._path, f"NumberOfFrames {self.n_frames}", f"{n_frames} frames", what=MORE_THAN_COUNTED)

    def _refuse_layout(self) -> None:
        if self.is_float:
            if self.bits != FLOAT_PIXEL_DATA[self.tag]:
                raise self._unreadable(f"BitsAllocated {FLOAT_PIXEL_DATA[self.tag]}", str(self.bits))
            return
        for name in ("BitsAllocated", "PixelRepresentation"):
            if not text(self._dataset, name):
                raise self._unreadable(name, f"none; {name} is absent or empty")
        if self.bits not in (8, 16, 32):
            raise self._unreadable("8, 16 or 32 bits per pixel", f"{self.bits} bits")
        sign = text(self._dataset, "PixelRepresentation")
        if integer(self._dataset, "PixelRepresentation") not in (0, 1):
            raise self._unreadable("PixelRepresentation 0 or 1", sign)
        if not 1 <= self.bits_stored <= self.bits:
            raise self._unreadable(f"BitsStored of 1 to {self.bits}", str(self.bits_stored))
        if not 0 <= self.high_bit < self.bits:
            raise self._unreadable(f"HighBit of 0 to {self.bits - 1}", str(self.high_bit))

    def _unreadable(self, expected: str, found: str) -> SeriesError:
        return SeriesError(
            f"{self._path.name}: its pixels cannot be read",
            code="not_image",
            path=self._path,
            expected=expected,
            found=found,
            remedy="export the series again",
        )

    def _refuse_wrong_length(self, n_bytes: int) -> None:
        """Refuse missing bytes and surplus pixels. Padding after the pixels is accepted (PS3.5 8.1.1)."""
        expected = self.n_frames * self.rows * self.columns * self.bits // 8
        excess = n_bytes - expected
        element = self._dataset.get_item(self.tag, keep_deferred=True)
        has_length = getattr(element, "length", 0) != UNDEFINED_LENGTH and not getattr(
            element, "is_undefined_length", False
        )
        is_stream = not has_length or (excess > 1 and self._read_bytes(0, len(ITEM)) == ITEM)
        if is_stream or excess < 0 or (excess > 1 and not self._is_padding(expected, excess)):
            found = "compressed frames" if is_stream else str(n_bytes)
            raise truncated(
                self._path,
                f"{expected} bytes of pixels",
                found,
                what="is incomplete or damaged" if excess < 0 else MORE_THAN_COUNTED,
            )
        if excess > 1:
            self.note = f"{excess} bytes after the pixels are padding"

    def _is_padding(self, expected: int, excess: int) -> bool:
        """Return True if surplus bytes are padding, and not rows, columns or frames that the header does not count."""
        if not self._read_bytes(expected, excess).strip(b"\0"):
            return True
        pixel_bytes = self.n_frames * self.bits // 8
        is_whole = excess % (pixel_bytes * self.columns) == 0 or excess % (pixel_bytes * self.rows) == 0
        return excess * self.n_frames < expected and not is_whole

    def _read_bytes(self, start: int, n_bytes: int) -> bytes:
        """Read bytes of the pixel data element."""
        element = self._dataset.get_item(self.tag, keep_deferred=True)
        if element.value is not None:
            return bytes(element.value[start : start + n_bytes])
        with self._path.open("rb") as file:
            file.seek(element.value_tell + start)
            return file.read(n_bytes)

    def _n_bytes(self) -> int:
        """Return the number of bytes of pixel data that exist in the file; 0 if the element does not hold bytes."""
        element = self._dataset.get_item(self.tag, keep_deferred=True)
        if element is None or element.VR not in BINARY_VRS:
            return 0
        if element.value is None:
            there = self._path.stat().st_size - element.value_tell
            return int(there if element.length == UNDEFINED_LENGTH else min(element.length, there))
        return len(element.value) if isinstance(element.value, (bytes, bytearray)) else 0

    def _refuse_undecodable_syntax(self) -> None:
        from pydicom.pixels import get_decoder
        from pydicom.uid import UID

        syntax = UID(self.syntax)
        try:
            is_known = syntax.is_transfer_syntax and not syntax.is_private
            if self.syntax == ENCAPSULATED_UNCOMPRESSED or (is_known and get_decoder(syntax).is_available):
                return
        except (NotImplementedError, ValueError):
            pass
        raise SeriesError(
            f"{self._path.name}: its transfer syntax cannot be decoded",
            code="unsupported_codec",
            path=self._path,
            found=str(syntax.name),
            remedy="export it uncompressed, or as JPEG 2000, JPEG-LS or RLE",
        )


def syntax_of(dataset: Any) -> str:
    """Return the transfer syntax in a file's meta information, or else the one that its data set was read with."""
    named = text(getattr(dataset, "file_meta", {}), "TransferSyntaxUID")
    if named:
        return named
    is_little_endian = getattr(dataset, "original_encoding", (True, True))[1]
    return EXPLICIT_BIG_ENDIAN if is_little_endian is False else IMPLICIT_LITTLE_ENDIAN


def truncated(path: Path, expected: str, found: str, *, what: str = "is incomplete or damaged") -> SeriesError:
    """Return the error for incomplete or damaged pixel data."""
    return SeriesError(
        f"{path.name} {what}",
        code="truncated",
        path=path,
        expected=expected,
        found=found,
        remedy="export or copy the series again",
    )
