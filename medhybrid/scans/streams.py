"""Reading of values from raw and compressed files, with the checksum of every compressed stream.

The checksum of a stream follows its last byte. A reader that stops at the last needed value would never compare it, and
would accept damaged bytes as valid values.
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from isal import igzip, isal_zlib

from medhybrid.errors import ScanError
from medhybrid.files import check_file

GZIP_MAGIC = b"\x1f\x8b"

BLOCK = 1 << 20

ANY_ZLIB_WRAPPER = 47
"""Window bits for which zlib accepts both zlib and gzip headers."""

T = TypeVar("T")

DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError, OSError)
"""Exceptions that Python's decompressors raise for damaged data."""


def is_gzip(path: Path) -> bool:
    """Return True if a file's content is gzip, regardless of its name; raises `OSError`."""
    check_file(path)
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


@contextmanager
def open_plain_or_gzip(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and decompress gzip content; raises `OSError`."""
    if is_gzip(path):
        with gzip.open(path, "rb") as stream:
            yield cast(BinaryIO, stream)
    else:
        with path.open("rb") as file:
            yield file


def read_plain_or_gzip(path: Path, read: Callable[[BinaryIO], T]) -> T:
    """Return what `read` returns for a file; its gzip content is decompressed by ISA-L, two to three times as fast as by zlib.

    If this fails, `read` is called again with Python's gzip module, whose result or exception counts.
    """
    if is_gzip(path):
        with suppress(Exception), igzip.IGzipFile(path, "rb") as stream:
            return read(cast(BinaryIO, stream))
    with open_plain_or_gzip(path) as file:
        return read(file)


def open_bzip2(file: BinaryIO) -> BinaryIO:
    """Open a bzip2 stream at the position of `file`."""
    return cast(BinaryIO, bz2.BZ2File(file))


def count_to_end(stream: BinaryIO) -> int:
    """Count the bytes up to the end of a stream, which also compares its checksums; raises one of `DAMAGE`.

    Bytes after the last gzip stream that are not gzip count as one byte: the values before them are complete.
    """
    n_bytes = 0
    try:
        while block := stream.read(BLOCK):
            n_bytes += len(block)
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):
            raise
        n_bytes += 1
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


def inflate(file: BinaryIO, n_bytes: int, n_stored: int | None = None) -> tuple[bytearray, int]:
    """Decompress zlib or gzip streams from the position of `file`, and compare their checksums.

    Parameters
    ----------
    n_bytes : int
        Expected number of decompressed bytes.
    n_stored : int, optional
        Number of compressed bytes; by default, all bytes up to the end of the file.

    Returns
    -------
    content : bytearray
        The values.
    n_surplus : int
        Number of surplus bytes, compressed or not. Zeros after the last stream do not count.

    Raises
    ------
    EOFError
        If a stream ends early.
    zlib.error
        If a stream is damaged.
    """
    start = file.tell()
    with suppress(Exception):
        return _inflate(file, n_bytes, n_stored, isal_zlib.decompressobj)
    file.seek(start)
    return _inflate(file, n_bytes, n_stored, zlib.decompressobj)  # its result or exception counts


def _inflate(
    file: BinaryIO, n_bytes: int, n_stored: int | None, new_engine: Callable[[int], Any]
) -> tuple[bytearray, int]:
    content = bytearray(n_bytes)
    view = memoryview(content)
    n_read = 0
    for block in _inflated_blocks(file, n_stored, new_engine):
        left = n_bytes - n_read
        if left >= len(block):
            view[n_read : n_read + len(block)] = block
        elif left > 0:
            view[n_read:] = block[:left]
        n_read += len(block)
    if n_read < n_bytes:
        raise EOFError(f"expected {n_bytes} bytes of values, found {n_read}")
    return content, n_read - n_bytes


def _inflated_blocks(file: BinaryIO, n_stored: int | None, new_engine: Callable[[int], Any]) -> Iterator[bytes]:
    """Yield the decompressed bytes of consecutive streams, and one byte for other content after them."""
    engine = new_engine(ANY_ZLIB_WRAPPER)
    for packed in _blocks(file, n_stored):
        while packed:
            if engine.eof:
                packed = packed.lstrip(b"\0")
                if not GZIP_MAGIC.startswith(packed[:2]):
                    yield b"?"
                    return
                if not packed:
                    break
                engine = new_engine(ANY_ZLIB_WRAPPER)
            yield engine.decompress(packed, BLOCK)
            packed = engine.unused_data if engine.eof else engine.unconsumed_tail
    if not engine.eof:
        raise EOFError("the compressed data end early")


def _blocks(file: BinaryIO, n_bytes: int | None) -> Iterator[bytes]:
    """Yield `n_bytes` bytes of a file from its position, or all up to its end."""
    left = n_bytes
    while block := file.read(BLOCK if left is None else min(BLOCK, left)):
        left = None if left is None else left - len(block)
        yield block


def report_damage(path: Path, error: Exception) -> ScanError:
    """Return the error for a file with damaged or incomplete values."""
    return ScanError(
        f"{path.name} is damaged or incomplete",
        found=str(error) or type(error).__name__,
        remedy="copy or export it again",
    )


def check_surplus(path: Path, n_surplus: int, n_bytes: int, n_slices: int) -> tuple[str, ...]:
    """Return a note if a file holds surplus bytes after the values of its header.

    Parameters
    ----------
    n_surplus : int
        Number of surplus bytes.
    n_bytes, n_slices : int
        Number of bytes and slices of the values.

    Raises
    ------
    ScanError
        If the surplus is one slice or more: the header is then wrong.
    """
    if n_surplus and n_surplus * max(n_slices, 1) >= n_bytes:
        raise ScanError(
            f"{path.name} holds more values than its header describes",
            expected=f"{n_bytes} bytes",
            found=f"{n_bytes + n_surplus} bytes",
            remedy="repair its header, or export it again",
        )
    return ("the file holds surplus bytes after the values of its header",) if n_surplus else ()
