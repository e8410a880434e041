"""Deflated data sets: how much they inflate to is counted first, against a bound, without keeping it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

DEFLATED = "1.2.840.10008.1.2.1.99"

MAX_RATIO = 200
"""A data set that inflates to more than this many times its size is refused, as archives are."""

MIN_CHECKED_BYTES = 64 << 20
"""Data sets that inflate to less are not held against `MAX_RATIO`."""

BLOCK = 1 << 16


def inflates_beyond(chunks: Iterable[bytes], limit: int) -> bool:
    """Return whether a raw deflate stream holds more than `limit` bytes; damage is found by whoever reads it.

    Parameters
    ----------
    chunks : iterable of bytes
        The stream, in parts.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    n_bytes = 0
    try:
        for chunk in chunks:
            while chunk:
                n_bytes += len(engine.decompress(chunk, BLOCK))
                if n_bytes > limit:
                    return True
                chunk = engine.unconsumed_tail
    except zlib.error:
        return False
    return False


def find_bomb(path: Path) -> str:
    """Say what is wrong with a deflated file that inflates to far more than images do; empty for every other file."""
    from pydicom.filereader import read_file_meta_info

    with path.open("rb") as file:
        if DEFLATED.encode() not in file.read(4096):
            return ""
    try:
        meta = read_file_meta_info(path)
    except Exception:  # damaged headers raise many kinds; they are named where they are read
        return ""
    if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
        return ""
    size = path.stat().st_size
    limit = max(MIN_CHECKED_BYTES, MAX_RATIO * size)
    if inflates_beyond(_data_set_of(path, int(meta.get("FileMetaInformationGroupLength", 0))), limit):
        return f"{size} bytes that inflate to more than {limit / 2**20:.0f} MiB, far more than images do"
    return ""


def _data_set_of(path: Path, meta_bytes: int) -> Iterator[bytes]:
    """Read what follows the file meta information, of the length that its first element says."""
    with path.open("rb") as file:
        file.seek(128 + 4 + 12 + meta_bytes)
        while chunk := file.read(BLOCK):
            yield chunk
