"""Corrected masks beside those of `predict`: of which scan they are, where another scan got the name since.

OUT/corrected/<case>.nii.gz       a reviewer's; nothing in it says of which scan it is
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
"""A correction may be older than the record beside it by this, as copies are."""


def hash_corrections(out: Path, case: str, *, before: float = math.inf) -> tuple[str, ...]:
    """Return the hashes of the corrected masks of a case that lie in an output folder, and are older than a time, sorted."""
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
    """Return the hash of a corrected mask, that of its values where these lie in another file."""
    files: tuple[Path, ...] = (path,)
    with suppress(OSError, MedHybridError):
        files = files_of(path)
    return hash_files(files)


def is_older(path: Path, made_at: float) -> bool:
    """Whether a corrected mask was saved before a time (seconds since 1970)."""
    return path.stat().st_mtime + COPYING_S < made_at
