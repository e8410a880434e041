"""Checksums of prepared files: CRC-32, which detects damage and takes a fraction of the time for reading."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

BLOCK = 1 << 22


def checksum_of(path: Path) -> str:
    """Compute the CRC-32 of a file, as eight hexadecimal digits; raise `OSError` if it cannot be read."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def checksum_of_json(text: bytes) -> str:
    """Compute the CRC-32 of a JSON object without its field `checksums`, regardless of spacing.

    Raises
    ------
    ValueError
        If the text is not valid JSON.
    """
    values = json.loads(text)
    values.pop("checksums", None)
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"
