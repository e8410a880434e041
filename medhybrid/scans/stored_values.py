"""Storage of the values of NRRD and MetaImage files, and reading them with all checksums."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.files import check_file
from medhybrid.scans.claims import MAX_BZIP2_RATIO, MAX_DEFLATE_RATIO
from medhybrid.scans.streams import (
    DAMAGE,
    count_to_end,
    inflate,
    open_bzip2,
    read_exactly,
    report_damage,
)

Encoding = Literal["raw", "gzip", "zlib", "bzip2", "text", "hex"]


@dataclass(frozen=True, slots=True)
class StoredValues:
    """Position, type and encoding of the values in a file.

    Attributes
    ----------
    path : Path
        The file that holds the values.
    shape : tuple of int
        Shape with the fastest axis first.
    dtype : numpy dtype
        Type, with its byte order.
    start : int
        First byte of the values or of the compressed stream; -1 if the values are the last bytes of the file.
    n_stored : int, optional
        Number of compressed bytes, if the header gives it.
    n_lines, n_skipped : int
        Number of lines before the values in the file, and number of decompressed bytes before them.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    encoding: Encoding
    start: int = 0
    n_stored: int | None = None
    n_lines: int = 0
    n_skipped: int = 0

    @property
    def max_ratio(self) -> int:
        """Return the largest number of bytes of values that one byte of the file can hold."""
        ratios = {"raw": 1, "hex": 1, "gzip": MAX_DEFLATE_RATIO, "zlib": MAX_DEFLATE_RATIO, "bzip2": MAX_BZIP2_RATIO}
        return ratios.get(self.encoding, self.dtype.itemsize)  # text: a number takes at least one digit

    @property
    def n_bytes(self) -> int:
        """Return the number of bytes of all values in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_values(name: str, stored: StoredValues) -> tuple[NDArray[np.generic], int]:
    """Read values in native byte order, with their axes as stored.

    Parameters
    ----------
    name : str
        The header's file, for messages.

    Returns
    -------
    values : ndarray
        The values, with the shape of `stored`.
    n_surplus : int
        Number of bytes after them.

    Raises
    ------
    ScanError
        If the values are damaged or incomplete.
    """
    try:
        check_file(stored.path)
        with stored.path.open("rb") as file:
            _seek(file, stored)
            content, n_surplus = _read(file, stored)
        values = _from_bytes(content, stored.dtype) if isinstance(content, bytearray) else content
    except (*DAMAGE, ValueError, OverflowError) as error:
        raise report_damage(Path(name), error) from error
    except MemoryError as error:
        raise ScanError(
            f"{name} is too large for the available memory", found=f"{stored.n_bytes} bytes of values"
        ) from error
    return values.reshape(stored.shape, order="F"), n_surplus


def _seek(file: BinaryIO, stored: StoredValues) -> None:
    """Move to the first byte of the values or of their stream."""
    if stored.start < 0:
        length = file.seek(0, 2)
        if length < stored.n_bytes:
            raise EOFError(f"expected {stored.n_bytes} bytes of values, found {length}")
        file.seek(length - stored.n_bytes)
        return
    file.seek(stored.start)
    for _ in range(stored.n_lines):
        file.readline()


def _read(file: BinaryIO, stored: StoredValues) -> tuple[Any, int]:
    """Read the bytes of the values (or parsed values of a text file), and the number of surplus bytes."""
    if stored.encoding == "text":
        return _parse_text(file.read().decode("ascii"), stored), 0
    if stored.encoding == "hex":
        digits = "".join(file.read().decode("ascii").split())
        content = bytearray.fromhex(digits)
        if len(content) < stored.n_bytes:
            raise EOFError(f"expected {stored.n_bytes} bytes of values, found {len(content)}")
        return content[: stored.n_bytes], len(content) - stored.n_bytes
    if stored.encoding in ("zlib", "gzip"):
        try:
            content, n_surplus = inflate(file, stored.n_skipped + stored.n_bytes, stored.n_stored)
        except zlib.error as error:
            raise ValueError(f"the compressed data are damaged ({error})") from error
        del content[: stored.n_skipped]
        if stored.n_stored is not None:
            n_surplus += len(file.read().rstrip(b"\0"))  # bytes after CompressedDataSize
        return content, n_surplus
    stream = open_bzip2(file) if stored.encoding == "bzip2" else file
    if stored.n_skipped > 0:
        read_exactly(stream, stored.n_skipped)
    content = read_exactly(stream, stored.n_bytes)
    return content, count_to_end(stream)


def _from_bytes(content: bytearray, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """View bytes as values, and swap them in place to native byte order."""
    values = np.frombuffer(content, dtype)
    if dtype.isnative:
        return values
    return values.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _parse_text(text: str, stored: StoredValues) -> NDArray[np.generic]:
    """Parse numbers separated by white space or commas; raises `ValueError`, also if they exceed the type's range."""
    words = text.replace(",", " ").split()
    n_values = math.prod(stored.shape)
    if len(words) != n_values:
        raise ValueError(f"expected {n_values} numbers, found {len(words)}")
    plain = stored.dtype.newbyteorder("=")
    if plain.kind == "f":
        return np.array([float(w) for w in words]).astype(plain)
    numbers = [int(w) for w in words]
    bounds = np.iinfo(plain)
    if min(numbers) < bounds.min or max(numbers) > bounds.max:
        raise ValueError(f"expected numbers of the type {plain}, found {min(numbers)} to {max(numbers)}")
    return np.array(numbers, plain)
