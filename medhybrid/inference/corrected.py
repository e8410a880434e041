"""Corrected masks beside the masks of `predict`, and the scan to which each of them belongs.

OUT/corrected/<case>.nii.gz       saved by a reviewer; the file does not name its scan

The name of a case may go to another scan later. Hashes and times keep a correction from being used for that scan.
"""

from __future__ import annotations

import math
import os
import unicodedata
from contextlib import suppress
from pathlib import Path

from medhybrid.data.store import hash_files
from medhybrid.errors import MedHybridError
from medhybrid.scans.image_files import files_of

FOLDER = "corrected"

COPYING_S = 1.0
"""Tolerance in seconds when times of files are compared: copying changes them."""


def hash_corrections(out: Path, case: str, *, before: float = math.inf) -> tuple[str, ...]:
    """Return the sorted hashes of a case's corrected masks in an output folder that are older than `before`."""
    folder, stem = out / FOLDER, unicodedata.normalize("NFC", case) + "."
    if not folder.is_dir():
        return ()
    names = [n for n in os.listdir(folder) if unicodedata.normalize("NFC", n).startswith(stem)]
    hashes = set()
    for name in names:
        with suppress(OSError, MedHybridError):
            if is_older(folder / name, before):
                hashes.add(hash_correction(folder / name))
    return tuple(sorted(hashes))


def hash_correction(path: Path) -> str:
    """Return the hash of a corrected mask, over all of its files: some formats keep the voxel values in a second file."""
    files: tuple[Path, ...] = (path,)
    with suppress(OSError, MedHybridError):
        files = files_of(path)
    return hash_files(files)


def is_older(path: Path, made_at: float) -> bool:
    """Return whether a corrected mask was saved before a time (seconds since 1970)."""
    return path.stat().st_mtime + COPYING_S < made_at
