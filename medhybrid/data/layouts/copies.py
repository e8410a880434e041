"""Detection of copies among the files of a dataset: by links, by pairs of header and value file, or by content.

A compressed file and its uncompressed copy have the same content. Copies with other values or another header are not detected.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from medhybrid.errors import MedHybridError
from medhybrid.scans.image_files import files_of, header_of

PAIRED = (".hdr", ".hdr.gz", ".nhdr", ".mhd")
"""Suffixes of headers that may have their voxel values in a separate file."""

BLOCK = 1 << 20
SAMPLE = 1 << 14
"""Number of bytes at the start of each `BLOCK` that are compared before the whole files."""

Stamp = tuple[str, int, int]
"""Path, size and modification time of a file."""

Stamps = tuple[Stamp, ...]


def same_file_keys(held: Iterable[Path], others: Iterable[Path]) -> dict[Path, str]:
    """Return a key for each file, equal for copies. Contents of `others` are compared only with those of `held`."""
    keys = {path: _place_of(path) for path in (*held, *others)}
    held_by_size, by_size = _by_size(held), _by_size(others)
    for size in held_by_size.keys() & by_size.keys():
        found = held_by_size[size]
        known = {keys[p] for p in found}
        ours = {p: stamps for p, stamps in by_size[size].items() if keys[p] not in known}
        # compressed files contain their checksums; others are compared by samples first, and read completely only if needed
        compressed = {p: s for p, s in ours.items() if all(map(_is_compressed, s))}
        plain = {p: s for p, s in ours.items() if p not in compressed}
        alike = _alike(compressed, found, [_checksum_of]) | _alike(plain, found, [_sample_of, _checksum_of])
        keys |= {path: keys[theirs] for path, theirs in alike.items()}
    return keys


def _alike(
    ours: Mapping[Path, Stamps], theirs: Mapping[Path, Stamps], signs: Sequence[Callable[[Stamp], str]]
) -> dict[Path, Path]:
    """Match files with equal signatures. Each signature function is applied only to files for which the previous ones agree.

    Parameters
    ----------
    ours, theirs : mapping
        File to the stamps of its value files.
    signs : sequence of callable
        Signature functions, the fastest first.

    Returns
    -------
    dict
        File of `ours` to its match in `theirs`.
    """
    if not ours or not theirs:
        return {}
    if not signs:
        return dict.fromkeys(ours, next(iter(theirs)))
    by_sign: dict[tuple[str, ...], tuple[dict[Path, Stamps], dict[Path, Stamps]]] = defaultdict(lambda: ({}, {}))
    for side, files in enumerate((ours, theirs)):
        for path, stamps in files.items():
            with suppress(OSError, EOFError, zlib.error):
                by_sign[tuple(sorted(map(signs[0], stamps)))][side][path] = stamps
    return {k: v for of_ours, of_theirs in by_sign.values() for k, v in _alike(of_ours, of_theirs, signs[1:]).items()}


def _place_of(path: Path) -> str:
    """Return the resolved path of a file, or of the header of a value file; for a file with hard links, device and inode."""
    path = Path(os.path.realpath(path))
    with suppress(OSError):
        if path.is_file():
            path = header_of(path)
            status = path.stat()
            return f"{status.st_dev}:{status.st_ino}" if status.st_nlink > 1 else str(path)
    return str(path)


def _values_of(path: Path) -> Stamps:
    """Return the stamps of the files with the values: all files of a folder, or the value file of a header."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        files: Sequence[Path] = sorted(p for p in path.iterdir() if p.is_file())
    else:
        files = [header_of(path)]
        if files[0].name.lower().endswith(PAIRED):
            with suppress(MedHybridError):
                files = files_of(files[0])[-1:]
    stamps = ((p, p.stat()) for p in files if p.is_file())
    return tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in stamps)


def _by_size(paths: Iterable[Path]) -> dict[tuple[int, ...], dict[Path, Stamps]]:
    found: dict[tuple[int, ...], dict[Path, Stamps]] = defaultdict(dict)
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            if stamps := _values_of(path):
                found[tuple(sorted(map(_size_of_content, stamps)))][path] = stamps
    return found


def _is_compressed(stamp: Stamp) -> bool:
    return stamp[0].lower().endswith(".gz")


@lru_cache(maxsize=1 << 16)
def _size_of_content(stamp: Stamp) -> int:
    """Return the uncompressed size in bytes, modulo 2^32 because gzip stores it in this form at the end of a file."""
    return _end_of(stamp)[1] if _is_compressed(stamp) else stamp[1] & 0xFFFFFFFF


@lru_cache(maxsize=1 << 16)
def _checksum_of(stamp: Stamp) -> str:
    if _is_compressed(stamp):
        return f"{_end_of(stamp)[0]:08x}"
    value = 0
    for block in _blocks_of(stamp):
        value = zlib.crc32(block, value)
    return f"{value:08x}"


def _end_of(stamp: Stamp) -> tuple[int, int]:
    """Read checksum and size from the last bytes of a compressed file."""
    with open(stamp[0], "rb") as file:
        file.seek(max(stamp[1] - 8, 0))
        end = file.read(8)
    return int.from_bytes(end[:4], "little"), int.from_bytes(end[4:], "little")


@lru_cache(maxsize=1 << 16)
def _sample_of(stamp: Stamp) -> str:
    digest = hashlib.sha256()
    if _is_compressed(stamp):
        for block in _blocks_of(stamp):
            digest.update(block[:SAMPLE])
    else:
        with open(stamp[0], "rb") as file:
            for begin in range(0, stamp[1], BLOCK):
                file.seek(begin)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _blocks_of(stamp: Stamp) -> Iterator[bytes]:
    with cast("BinaryIO", gzip.open(stamp[0]) if _is_compressed(stamp) else open(stamp[0], "rb")) as file:
        while block := file.read(BLOCK):
            yield block
