"""Read values from raw and compressed files, each compressed stream checked to its end.

A stream that is decompressed only as far as its values are needed never reaches its checksum: damaged bytes would be read as
good values.
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from medhybrid.errors import ScanError

GZIP_MAGIC = b"\x1f\x8b"

BLOCK = 1 << 20

ANY_ZLIB_WRAPPER = 47
"""Window bits by which zlib accepts both a zlib and a gzip wrapper."""

DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError, OSError)
"""Errors by which Python's decompressors report damaged data."""


def is_gzip(path: Path) -> bool:
    """Report whether the content, not the name, is compressed by gzip; raises `OSError`."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


@contextmanager
def open_plain_or_gzip(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed where its content is gzip; raises `OSError`."""
    if is_gzip(path):
        with gzip.open(path, "rb") as stream:
            yield cast(BinaryIO, stream)
    else:
        with path.open("rb") as file:
            yield file


def open_gzip(file: BinaryIO) -> BinaryIO:
    """Open a gzip stream at the position of `file`."""
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def open_bzip2(file: BinaryIO) -> BinaryIO:
    """Open a bzip2 stream at the position of `file`."""
    return cast(BinaryIO, bz2.BZ2File(file))


def count_to_end(stream: BinaryIO) -> int:
    """Read a stream to its end, so that its checksums are compared, and count the bytes; raises one of `DAMAGE`."""
    n_bytes = 0
    while block := stream.read(BLOCK):
        n_bytes += len(block)
    return n_bytes


def read_exactly(stream: BinaryIO, n_bytes: int) -> bytearray:
    """Read `n_bytes`; raises `EOFError` if there are fewer, or one of `DAMAGE`."""
    content = bytearray(n_bytes)
    view = memoryview(content)
    n_read = 0
    while n_read < n_bytes:
        n = cast(int, stream.readinto(view[n_read:]))  # type: ignore[attr-defined]
        if not n:
            raise EOFError(f"expected {n_bytes} bytes of values, found {n_read}")
        n_read += n
    return content


def inflate(file: BinaryIO, n_bytes: int, n_stored: int | None) -> tuple[bytearray, int]:
    """Decompress a zlib or gzip stream at the position of `file`, and compare its checksum.

    Parameters
    ----------
    n_bytes : int
        Bytes of values that are expected.
    n_stored : int, optional
        Compressed bytes; up to the end of the file if not given.

    Returns
    -------
    content : bytearray
        The values.
    n_surplus : int
        Bytes beyond them.

    Raises
    ------
    EOFError
        If the stream ends early.
    zlib.error
        If it is damaged.
    """
    content = bytearray(n_bytes)
    n_read = 0
    engine = zlib.decompressobj(ANY_ZLIB_WRAPPER)
    left = n_stored
    while not engine.eof:
        packed = file.read(BLOCK if left is None else min(BLOCK, left))
        if not packed:
            raise EOFError(f"compressed data break off ({min(n_read, n_bytes)} of {n_bytes} bytes of values)")
        left = None if left is None else left - len(packed)
        while packed and not engine.eof:
            block = engine.decompress(packed, BLOCK)
            packed = engine.unconsumed_tail
            kept = block[: max(n_bytes - n_read, 0)]
            content[n_read : n_read + len(kept)] = kept
            n_read += len(block)
    if n_read < n_bytes:
        raise EOFError(f"expected {n_bytes} bytes of values, found {n_read}")
    return content, n_read - n_bytes


def report_damage(path: Path, error: Exception) -> ScanError:
    """Return the error for a file whose values are damaged or incomplete."""
    return ScanError(
        f"{path.name} is damaged or incomplete",
        found=str(error) or type(error).__name__,
        remedy="copy or export it again",
    )


def report_surplus(n_surplus: int) -> tuple[str, ...]:
    """Return a note for bytes beyond the values that a header describes, or nothing."""
    return (f"the file holds {n_surplus} bytes more than its header describes",) if n_surplus else ()
