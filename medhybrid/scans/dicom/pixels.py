"""Reading of the values of frames: decoding, removal of unused bits, and rescaling per frame.

Uncompressed pixels are read directly from the file into the volume. All other transfer syntaxes are decoded by pydicom, with
decoders under permissive licences. Tests compare both ways.

A stored value has BitsStored bits (PS3.5 8.1.1). Other bits may hold overlays, and are ignored in compressed and uncompressed
pixels. MONOCHROME1 defines the display of values. Values with a unit (Hounsfield, activity) are therefore not inverted. Other
values are inverted before rescaling, so that high values are bright in all images.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError
from medhybrid.scans.claims import MAX_VALUES
from medhybrid.scans.dicom import jpeg_stream
from medhybrid.scans.dicom.attributes import text
from medhybrid.scans.dicom.decoding import DecodingError, decode_frame
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.pixel_bytes import PLAIN_SYNTAXES, PixelBytes, truncated
from medhybrid.scans.dicom.surplus import ENCAPSULATED_UNCOMPRESSED

THREADS = min(4, os.cpu_count() or 1)

UNUSED_BITS_NOTE = "bits above BitsStored are set; they are not part of the values"

LOSSY_OVERSHOOT = 1 / 16
"""Largest overshoot of lossy compression beyond the stored range, as a part of this range."""


def read_values(frames: Sequence[Frame], datasets: Mapping[Path, Any]) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Read the rescaled values of frames of one size.

    Parameters
    ----------
    frames : sequence of Frame
        The frames, in slice order.
    datasets : mapping
        Data sets by file. Pixel data may be deferred.

    Returns
    -------
    values : (Z, Y, X) ndarray
        int16 or uint16 if it holds all possible values of the frames, else float32.
    notes : tuple of str
        Remarks on unused bits and padding.

    Raises
    ------
    SeriesError
        If pixel data is absent, incomplete, or cannot be decoded.
    """
    shape = (len(frames), frames[0].rows, frames[0].columns)
    if int(np.prod(shape, dtype=object)) > MAX_VALUES:
        raise SeriesError(f"{frames[0].name}: too many values", code="truncated", found=str(shape))
    pixels = {path: _Pixels(datasets[path], path) for path in dict.fromkeys(f.path for f in frames)}
    try:
        values = _fill(frames, pixels, np.empty(shape, _value_type(frames, pixels)))
    except MemoryError as error:
        raise SeriesError(f"{frames[0].name}: not enough memory for {shape} values", code="truncated") from error
    notes = [UNUSED_BITS_NOTE] if any(p.has_unused_bits for p in pixels.values()) else []
    notes += [p.bytes.note for p in pixels.values() if p.bytes.note][:1]
    return values, tuple(notes)


def read_stored(frame: Frame, dataset: Any) -> NDArray[np.generic]:
    """Read the stored values (Y, X) of one frame: inverted for MONOCHROME1, not rescaled."""
    return _Pixels(dataset, frame.path).stored(frame)


def _fill(frames: Sequence[Frame], pixels: Mapping[Path, _Pixels], out: NDArray[np.generic]) -> NDArray[np.generic]:
    def fill(k: int) -> None:
        frame = frames[k]
        stored = pixels[frame.path].stored(frame)
        if out.dtype == np.float32:
            _refuse_overflow(frame, stored)
            if stored.dtype.itemsize > 2:  # float32 would round the product before the intercept brings it back
                out[k] = stored.astype(np.float64) * frame.slope + frame.intercept
                return
            np.multiply(stored, np.float32(frame.slope), out=out[k], casting="unsafe")
            out[k] += np.float32(frame.intercept)
            return
        if frame.slope < 0:  # the product may be below the range of the result
            out[k] = stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)
            return
        out[k] = stored
        if frame.slope != 1:
            out[k] *= int(frame.slope)
        if frame.intercept != 0:
            out[k] += int(frame.intercept)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(frames))))
    return out


def _refuse_overflow(frame: Frame, stored: NDArray[np.generic]) -> None:
    """Refuse 64-bit float values that overflow in float32."""
    if stored.dtype != np.float64:
        return
    finite = np.abs(stored[np.isfinite(stored)])
    largest = float(finite.max(initial=0)) * abs(frame.slope) + abs(frame.intercept)
    if largest > float(np.finfo(np.float32).max):
        raise SeriesError(
            f"{frame.name}: its values are too large",
            code="not_image",
            path=frame.path,
            expected="values that float32 holds",
            found=f"{largest:g}",
            remedy="scale the values before they are exported",
        )


def _value_type(frames: Sequence[Frame], pixels: Mapping[Path, _Pixels]) -> Any:
    """Return int16, uint16 or float32: the first that holds all values possible with these bits, slopes and intercepts."""
    low = high = 0
    for f in {(f.path, f.slope, f.intercept): f for f in frames}.values():
        p = pixels[f.path]
        if p.bytes.is_float or not f.slope.is_integer() or not f.intercept.is_integer():
            return np.float32
        ends = [int(f.slope) * v + int(f.intercept) for v in p.limits]
        # the stored values must fit before they are rescaled, too
        low, high = min(low, *ends, *p.limits), max(high, *ends, *p.limits)
    for kind in (np.int16, np.uint16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return np.float32


class _Pixels:
    """Pixels of one file, checked to be present, complete and in a supported format.

    Attributes
    ----------
    has_unused_bits : bool
        True if a value read so far had bits above BitsStored.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self.bytes = PixelBytes.of(dataset, path)
        self.is_inverted = text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
        self.has_unused_bits = False
        self._sheet: NDArray[np.generic] | None = None
        self._lock = threading.Lock()

    @property
    def limits(self) -> tuple[int, int]:
        """Return the lowest and highest value that the stored bits can hold."""
        n_bits = self.bytes.bits_stored
        if self.bytes.is_signed:
            return -(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1
        return 0, 2**n_bits - 1

    def stored(self, frame: Frame) -> NDArray[np.generic]:
        """Return the stored values (Y, X) of a frame. MONOCHROME1 values without a unit are inverted."""
        values = self._read(frame) if frame.tile is None else self._read_tile(frame)
        if self.is_inverted and not frame.is_quantity and not self.bytes.is_float:
            return np.asarray(sum(self.limits) - values.astype(np.int64))
        return values

    def _read_tile(self, frame: Frame) -> NDArray[np.generic]:
        """Return the values of one tile of a sheet. The sheet is decoded once for all tiles."""
        with self._lock:
            if self._sheet is None:
                self._sheet = self._read(frame)
        row, column = frame.tile or (0, 0)
        return self._sheet[row : row + frame.rows, column : column + frame.columns]

    def _read(self, frame: Frame) -> NDArray[np.generic]:
        index = frame.index if frame.tile is None else 0
        if self.bytes.syntax in PLAIN_SYNTAXES:
            values = self.bytes.plain_frame(index)
            return values if self.bytes.is_float else self._keep_stored_bits(values)
        if self.bytes.syntax == ENCAPSULATED_UNCOMPRESSED:
            return self._keep_stored_bits(self.bytes.encapsulated_frame(index))
        stream = self._whole_stream(index)
        values = self._decode(index)
        if self.bytes.is_float:
            return values
        error = self._lossy_error(stream)
        if error != 0:
            is_extended = (
                self.bytes.bits_stored < 8 * values.dtype.itemsize and values.min() < 0
            )  # the sign is extended to all bits
            if self.bytes.is_signed and not is_extended and not self._has_signs(stream):
                self._refuse_turned_sign(values, error)
            else:
                values = self._clip_overshoot(values)
        kept = self._keep_stored_bits(values)
        self._refuse_other_sign(kept, index)
        return kept

    def _keep_stored_bits(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Replace the bits above BitsStored by the sign of signed values, or by 0."""
        # a stream may have fewer bits than the header
        unused = max(values.dtype.itemsize * 8 - self.bytes.bits_stored, 0)
        raw = values.view(f"u{values.dtype.itemsize}")
        if self.bytes.high_bit != self.bytes.bits_stored - 1:
            self._refuse_shifted(raw)
        if not unused:
            return values
        kept: NDArray[np.generic] = (values << unused) >> unused  # type: ignore[operator]
        if not self.has_unused_bits and ((kept != values) & (raw >> self.bytes.bits_stored > 0)).any():
            self.has_unused_bits = True
        return kept

    def _refuse_shifted(self, raw: NDArray[np.unsignedinteger[Any]]) -> None:
        """Refuse pixels that may not start at the lowest bit. Some headers give a wrong HighBit, which is accepted."""
        n_below = self.bytes.high_bit + 1 - self.bytes.bits_stored
        is_above = self.bytes.bits_stored < raw.dtype.itemsize * 8 and bool((raw >> self.bytes.bits_stored).any())
        is_low_empty = n_below > 0 and bool(raw.any()) and not (raw & ((1 << n_below) - 1)).any()
        if is_above or is_low_empty:
            raise SeriesError(
                f"{self._path.name}: its pixels do not start at the lowest bit",
                code="not_image",
                path=self._path,
                expected=f"HighBit {self.bytes.bits_stored - 1}",
                found=f"HighBit {self.bytes.high_bit}",
                remedy="export the series again",
            )

    # --- compressed and other encodings -------------------------------------------------------------------------------

    def _decode(self, index: int) -> NDArray[np.generic]:
        expected = (self.bytes.rows, self.bytes.columns)
        try:
            options = {} if self.bytes.is_float else {"correct_unused_bits": False}
            values = decode_frame(self._dataset, index, self.bytes.syntax, **options)
        except DecodingError as error:
            if "not support" in str(error) or "cannot decode" in str(error).lower():
                raise SeriesError(
                    f"{self._path.name}: no installed decoder can read its pixels",
                    code="unsupported_codec",
                    path=self._path,
                    found=" ".join(str(error).split())[-300:],  # the reasons of the decoders are at the end
                    remedy="export it uncompressed, or as JPEG 2000, JPEG-LS or RLE",
                ) from error
            raise truncated(self._path, "pixels that can be decoded", error.kind) from error
        if values.shape != expected:
            raise truncated(self._path, f"{expected[0]} x {expected[1]} pixels", str(values.shape))
        return values

    def _whole_stream(self, index: int) -> bytes:
        """Return the JPEG stream of a frame, or empty bytes for other formats. Damage and other sizes are refused."""
        stream = self.bytes.whole_stream(index) if self.bytes.is_encapsulated else b""
        if self.bytes.syntax not in jpeg_stream.CHECKED_SYNTAXES:
            return b""
        rows, columns = self.bytes.rows, self.bytes.columns
        if found := jpeg_stream.find_damage_of(self.bytes.syntax, stream, rows, columns, self.bytes.bits):
            raise truncated(self._path, f"a stream of {rows} x {columns} pixels", found)
        return stream

    def _lossy_error(self, stream: bytes) -> int | None:
        """Return the largest error of a lossy stream; see `jpeg_stream.lossy_error`."""
        was_lossy = text(self._dataset, "LossyImageCompression") == "01"
        return jpeg_stream.lossy_error(stream, self.bytes.syntax, was_lossy=was_lossy) if stream else 0

    def _has_signs(self, stream: bytes) -> bool:
        """Return True if a stream states that its values are signed, which only JPEG 2000 can."""
        from pydicom.pixels.utils import get_j2k_parameters

        is_jpeg_2000 = self.bytes.syntax in jpeg_stream.JPEG_2000_SYNTAXES
        return is_jpeg_2000 and bool(get_j2k_parameters(stream).get("is_signed"))

    def _clip_overshoot(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Clip values that lossy compression moved slightly beyond the stored range; refuse a larger overshoot."""
        low, high = self.limits
        over = max(int(values.max()) - high, low - int(values.min()))
        if 0 < over <= (high - low) * LOSSY_OVERSHOOT:
            return np.asarray(np.clip(values, low, high), values.dtype)
        if over > 0:
            raise SeriesError(
                f"{self._path.name}: its lossy stream has values beyond the stored bits",
                code="not_image",
                path=self._path,
                expected=f"{low} to {high} (BitsStored {self.bytes.bits_stored})",
                found=f"{int(values.min())} to {int(values.max())}",
                remedy="export the series without lossy compression",
            )
        return values

    def _refuse_turned_sign(self, values: NDArray[np.generic], error: int | None) -> None:
        """Refuse signed values in a lossy stream of unsigned numbers, if the compression error may have changed their sign.

        In two's complement, a small error at the end of the range changes the sign. Values further from the end are accepted.
        Without a limit of the format, `LOSSY_OVERSHOOT` is used as error.
        """
        low, high = self.limits
        error = int((high - low) * LOSSY_OVERSHOOT) if error is None else error
        wide = values.astype(np.int64)
        wide[wide < 0] += high - low + 1  # unsigned, as in the stream
        near = (wide > high - error) & (wide <= high + error)
        if near.any():
            raise SeriesError(
                f"{self._path.name}: lossy compression may have changed the sign of its largest values",
                code="not_image",
                path=self._path,
                expected=f"no value within {error} of {high} or {-high - 1}",
                found=f"{int(near.sum())} such values in a frame",
                remedy="export the series without lossy compression",
            )

    def _refuse_other_sign(self, kept: NDArray[np.generic], index: int) -> None:
        """Refuse a stream with negative values if the header states unsigned values: one of them is wrong."""
        if self.bytes.is_signed or self.bytes.syntax not in jpeg_stream.JPEG_2000_SYNTAXES:
            return
        if not (kept.astype(np.int64) >> (self.bytes.bits_stored - 1)).any():
            return  # with the highest bit unset, signed and unsigned values are equal
        if self._has_signs(self.bytes.stream(index)):
            raise SeriesError(
                f"{self._path.name}: its stream has negative values, but its header states unsigned values",
                code="not_image",
                path=self._path,
                expected="PixelRepresentation 1",
                found="PixelRepresentation 0",
                remedy="export the series again",
            )
