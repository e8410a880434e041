"""The values of a NRRD or MetaImage file: where and how they are stored, and reading them with every checksum compared."""

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
    """How values are stored.

    Attributes
    ----------
    path : Path
        The file that holds them.
    shape : tuple of int
        The fastest axis first.
    dtype : numpy dtype
        With its byte order.
    start : int
        Byte at which they, or the compressed stream, start; -1 if they end with the file.
    n_stored : int, optional
        Compressed bytes, where the header gives them.
    n_lines, n_skipped : int
        Lines before them in the file; bytes before them after decompression.
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
        """Bytes of values that one byte of the file can hold."""
        ratios = {"raw": 1, "hex": 1, "gzip": MAX_DEFLATE_RATIO, "zlib": MAX_DEFLATE_RATIO, "bzip2": MAX_BZIP2_RATIO}
        return ratios.get(self.encoding, self.dtype.itemsize)  # a number takes a digit at least

    @property
    def n_bytes(self) -> int:
        """Bytes of all values in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_values(name: str, stored: StoredValues) -> tuple[NDArray[np.generic], int]:
    """Read values in the machine's byte order, with the axes as stored, and count the bytes beyond them.

    Parameters
    ----------
    name : str
        The header's file, for messages.

    Raises
    ------
    ScanError
        If they are damaged, or fewer than the header says.
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
        raise ScanError(f"{name} is too large for the memory", found=f"{stored.n_bytes} bytes of values") from error
    return values.reshape(stored.shape, order="F"), n_surplus


def _seek(file: BinaryIO, stored: StoredValues) -> None:
    """Go to the first byte of the values or of their stream."""
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
    """Return the bytes of the values, or the values where they are text, and the number of bytes beyond them."""
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
            n_surplus += len(file.read().rstrip(b"\0"))  # after the bytes that the header counts
        return content, n_surplus
    stream = open_bzip2(file) if stored.encoding == "bzip2" else file
    if stored.n_skipped > 0:
        read_exactly(stream, stored.n_skipped)
    content = read_exactly(stream, stored.n_bytes)
    return content, count_to_end(stream)


def _from_bytes(content: bytearray, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """View bytes as values, swapped in place to the machine's byte order."""
    values = np.frombuffer(content, dtype)
    if dtype.isnative:
        return values
    return values.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _parse_text(text: str, stored: StoredValues) -> NDArray[np.generic]:
    """Parse numbers between white space or commas; raises `ValueError`, also if they do not fit the type."""
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
