"""Values of frames: decoded, rescaled frame by frame, MONOCHROME1 inverted.

Uncompressed pixels go from the file straight into the volume. Every other transfer syntax is pydicom's, with decoders of
permissive licence; the tests hold the one way against the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError
from medhybrid.scans.claims import MAX_VALUES
from medhybrid.scans.dicom.frames import Frame, integer, text

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
PLAIN_SYNTAXES = (IMPLICIT_LITTLE_ENDIAN, "1.2.840.10008.1.2.1")
"""Uncompressed and little endian: the pixels stand in the file as numpy has them."""

PIXEL_DATA = 0x7FE00010
BINARY_VRS = ("OB", "OW", "OB or OW", "UN", None)
"""VRs that pixel data may have; None stands in implicit VR."""

THREADS = min(4, os.cpu_count() or 1)


def read_values(frames: Sequence[Frame], datasets: Mapping[Path, Any]) -> NDArray[np.generic]:
    """Rescaled values (Z, Y, X) of frames of one size, in their order.

    int16 or uint16 where every value that the frames can hold is a whole number in that range, else float32.

    Parameters
    ----------
    datasets : mapping
        By file; pixel data may be deferred.

    Raises
    ------
    SeriesError
        If pixel data is absent, cut off, or cannot be decoded.
    """
    shape = (len(frames), frames[0].rows, frames[0].columns)
    if int(np.prod(shape, dtype=object)) > MAX_VALUES:
        raise SeriesError(f"{frames[0].name}: too many values", code="truncated", found=str(shape))
    pixels = {path: _Pixels.of(datasets[path], path) for path in dict.fromkeys(f.path for f in frames)}
    try:
        try:
            return _fill(frames, pixels, np.empty(shape, _value_type(frames, pixels)))
        except _BeyondStoredBits:  # the header understates what a decoder gives
            return _fill(frames, pixels, np.empty(shape, np.float32))
    except MemoryError as error:
        raise SeriesError(f"{frames[0].name}: not enough memory for {shape} values", code="truncated") from error


class _BeyondStoredBits(Exception):
    """A decoded value needs more bits than the header says are stored."""


def _fill(frames: Sequence[Frame], pixels: Mapping[Path, _Pixels], out: NDArray[np.generic]) -> NDArray[np.generic]:
    def fill(k: int) -> None:
        frame, source = frames[k], pixels[frames[k].path]
        stored = source.stored(frame)
        if out.dtype == np.float32:
            np.multiply(stored, np.float32(frame.slope), out=out[k], casting="unsafe")
            out[k] += np.float32(frame.intercept)
            return
        if not source.is_plain and (stored.min() < source.limits[0] or stored.max() > source.limits[1]):
            raise _BeyondStoredBits
        out[k] = stored
        if frame.slope != 1:
            out[k] *= int(frame.slope)
        if frame.intercept != 0:
            out[k] += int(frame.intercept)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(frames))))
    return out


def _value_type(frames: Sequence[Frame], pixels: Mapping[Path, _Pixels]) -> Any:
    """The smallest type that holds whatever the stored bits, slopes and intercepts can give."""
    low = high = 0
    for f in {(f.path, f.slope, f.intercept): f for f in frames}.values():
        if not f.slope.is_integer() or not f.intercept.is_integer():
            return np.float32
        p = pixels[f.path]
        ends = [int(f.slope) * v + int(f.intercept) for v in p.limits]
        # the stored values must fit before they are rescaled, too
        low, high = min(low, *ends, *p.limits), max(high, *ends, *p.limits)
    for kind in (np.int16, np.uint16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return np.float32


class _Pixels:
    """The pixel data of one file."""

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self.n_frames = integer(dataset, "NumberOfFrames") or 1
        self.rows, self.columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
        self.bits = integer(dataset, "BitsAllocated") or 0
        self.bits_stored = integer(dataset, "BitsStored") or self.bits
        high_bit = integer(dataset, "HighBit")
        self.high_bit = self.bits_stored - 1 if high_bit is None else high_bit
        self.is_signed = integer(dataset, "PixelRepresentation") == 1
        self.is_inverted = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
        self.syntax = text(getattr(dataset, "file_meta", {}), "TransferSyntaxUID") or IMPLICIT_LITTLE_ENDIAN

    @classmethod
    def of(cls, dataset: Any, path: Path) -> _Pixels:
        """Checked: present, whole, and of a kind that is decoded here."""
        pixels = cls(dataset, path)
        pixels._refuse_unreadable()
        return pixels

    @property
    def limits(self) -> tuple[int, int]:
        """Least and largest value that the stored bits can hold."""
        return (
            (-(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1)
            if self.is_signed
            else (
                0,
                2**self.bits_stored - 1,
            )
        )

    def stored(self, frame: Frame) -> NDArray[np.generic]:
        """Stored values (Y, X) of a frame, MONOCHROME1 inverted."""
        values = self._plain(frame) if self.is_plain else self._decoded(frame)
        if self.is_inverted:
            return np.asarray(sum(self.limits) - values.astype(np.int64))
        return values

    @property
    def is_plain(self) -> bool:
        """Whether the pixels stand in the file as numpy has them."""
        return self.syntax in PLAIN_SYNTAXES and 1 <= self.bits_stored <= self.bits

    def _plain(self, frame: Frame) -> NDArray[np.generic]:
        kind = np.dtype(f"<{'i' if self.is_signed else 'u'}{self.bits // 8}")
        n_values = self.rows * self.columns
        start = frame.index * n_values * kind.itemsize
        element = self._dataset.get_item(PIXEL_DATA, keep_deferred=True)
        if element.value is None:
            with self._path.open("rb") as file:
                file.seek(element.value_tell + start)
                values = np.fromfile(file, kind, n_values)
            if values.size < n_values:
                raise _truncated(self._path, f"{n_values} pixels a frame", str(values.size))
        else:
            values = np.frombuffer(element.value, kind, n_values, start)
        if unused := self.bits - self.bits_stored:  # what stands in unused bits is not part of the value
            if self.high_bit != self.bits_stored - 1 and (values.view(f"<u{kind.itemsize}") >> self.bits_stored).any():
                raise SeriesError(
                    f"{self._path.name}: its pixels do not begin at the lowest bit",
                    code="not_image",
                    path=self._path,
                    expected=f"HighBit {self.bits_stored - 1}",
                    found=f"HighBit {self.high_bit}",
                    remedy="export the series again",
                )
            values = (values << unused) >> unused
        return values.reshape(self.rows, self.columns)

    def _decoded(self, frame: Frame) -> NDArray[np.generic]:
        from pydicom.pixels import pixel_array

        try:
            values = np.asarray(pixel_array(self._dataset, index=frame.index, raw=True))
        except Exception as error:  # each decoder raises its own kinds
            raise _truncated(self._path, "pixels that can be decoded", type(error).__name__) from error
        if values.shape != (frame.rows, frame.columns):
            raise _truncated(self._path, f"{frame.rows} x {frame.columns} pixels", str(values.shape))
        return values

    def _refuse_unreadable(self) -> None:
        n_bytes = self._n_bytes()
        if not n_bytes:
            raise _truncated(self._path, "pixel data", "none")
        syntax = self._decodable_syntax()
        if self.bits not in (8, 16, 32) or integer(self._dataset, "PixelRepresentation") not in (0, 1):
            raise SeriesError(
                f"{self._path.name}: its pixels cannot be read",
                code="not_image",
                path=self._path,
                expected="8, 16 or 32 bits a pixel, signed or unsigned",
                found=f"{self.bits} bits",
                remedy="export the series again",
            )
        if not syntax.is_encapsulated:
            expected = self.n_frames * self.rows * self.columns * self.bits // 8
            if not expected <= n_bytes <= expected + 1:
                raise _truncated(self._path, f"{expected} bytes of pixels", str(n_bytes))

    def _n_bytes(self) -> int:
        """Length of the pixel data as far as it stands in the file; 0 where it is no row of bytes."""
        element = self._dataset.get_item(PIXEL_DATA, keep_deferred=True)
        if element is None or element.VR not in BINARY_VRS:
            return 0
        if element.value is None:
            there = self._path.stat().st_size - element.value_tell
            return int(there if element.length == 0xFFFFFFFF else min(element.length, there))
        return len(element.value) if isinstance(element.value, (bytes, bytearray)) else 0

    def _decodable_syntax(self) -> Any:
        from pydicom.pixels import get_decoder
        from pydicom.uid import UID

        syntax = UID(self.syntax)
        try:
            is_known = syntax.is_transfer_syntax and not syntax.is_private
            if is_known and get_decoder(syntax).is_available:
                return syntax
        except (NotImplementedError, ValueError):
            pass
        raise SeriesError(
            f"{self._path.name}: nothing here decodes its transfer syntax",
            code="unsupported_codec",
            path=self._path,
            found=str(syntax.name),
            remedy="export it uncompressed, or as JPEG 2000, JPEG-LS or RLE",
        )


def _truncated(path: Path, expected: str, found: str) -> SeriesError:
    return SeriesError(
        f"{path.name} is cut off or damaged",
        code="truncated",
        path=path,
        expected=expected,
        found=found,
        remedy="export or copy the series again",
    )
