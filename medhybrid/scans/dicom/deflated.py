"""Detection of deflated data sets that inflate to an excessive size (zip bombs), without keeping the content."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

DEFLATED = "1.2.840.10008.1.2.1.99"

MAX_RATIO = 200
"""Largest ratio of inflated to deflated size, as for archives."""

MIN_CHECKED_BYTES = 64 << 20
"""Data sets with a smaller inflated size are not checked against `MAX_RATIO`."""

BLOCK = 1 << 16

HEAD_BYTES = 4096
MAX_META_BYTES = 1 << 24
"""Number of bytes that are searched if the file meta information is long, or its length is missing."""


def inflates_beyond(chunks: Iterable[bytes], limit: int) -> bool:
    """Return True if a raw deflate stream inflates to more than `limit` bytes.

    A damaged stream returns False: the reader reports the damage.

    Parameters
    ----------
    chunks : iterable of bytes
        The stream, in parts.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    n_bytes = 0
    try:
        for chunk in chunks:
            inflated = bytes(BLOCK)
            while chunk or len(inflated) == BLOCK:  # of a full block, some may still be waiting without further input
                inflated = engine.decompress(chunk, BLOCK)
                n_bytes += len(inflated)
                if n_bytes > limit:
                    return True
                chunk = b"" if engine.eof else engine.unconsumed_tail  # padding may follow the stream
    except zlib.error:
        return False
    return False


def find_bomb(path: Path) -> str:
    """Describe a deflated file that inflates to an excessive size; empty for every other file."""
    with path.open("rb") as file:
        return find_bomb_in(file, path.stat().st_size)


def find_bomb_in(file: BinaryIO, size: int) -> str:
    """Describe a deflated file, as `find_bomb`, from its opened file and its size in bytes."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    if not _may_be_deflated(file):
        return ""
    file.seek(0)
    try:  # with pydicom's own functions, so that its reader finds the same data set
        read_preamble(file, force=True)
        meta = _read_file_meta_info(file)
    except Exception:  # damaged headers raise many kinds of exceptions; the reader reports them
        return ""
    if str(meta.get("TransferSyntaxUID", "")).strip() != DEFLATED:
        return ""
    return bomb_of(iter(lambda: file.read(BLOCK), b""), size)


def bomb_of(chunks: Iterable[bytes], size: int) -> str:
    """Describe a raw deflate stream of a size in bytes that inflates to far more than an image; empty for others."""
    limit = max(MIN_CHECKED_BYTES, MAX_RATIO * size)
    if not inflates_beyond(chunks, limit):
        return ""
    return f"{size} bytes that inflate to more than {limit / 2**20:.0f} MiB, far more than an image of this size"


def _may_be_deflated(file: BinaryIO) -> bool:
    """Return True if the deflated transfer syntax is named near the start of a file.

    More of the file is searched only if its meta information is longer, or has no length.
    """
    head = file.read(HEAD_BYTES)
    if DEFLATED.encode() in head:
        return True
    first = 132 if head[128:132] == b"DICM" else 0
    has_length = head[first : first + 8] == b"\x02\x00\x00\x00UL\x04\x00"
    length = int.from_bytes(head[first + 8 : first + 12], "little") if has_length else 0
    is_short = has_length and length < HEAD_BYTES // 2
    is_other = head[first : first + 2] != b"\x02\x00"
    return not (is_short or is_other) and DEFLATED.encode() in file.read(MAX_META_BYTES)
