"""Copies of files in another format: in folders with the names of formats, or packed beside the plain file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from medhybrid.draft.words import is_mask_path, stem_of

FORMATS = frozenset({"png", "tif", "tiff", "bmp", "gif", "jpg", "jpeg", "nii", "nifti", "nrrd", "mha", "mhd"})
"""Names of folders with the same files in a format each."""

LOSSY = frozenset({".jpg", ".jpeg"})

BLOCK = 2**22


def without_copies(root: Path, paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files, and those left out.

    Copies are in folders with the names of formats (`PNG`, `TIF`), or are `a.nii` and `a.nii.gz` with the same content.

    Parameters
    ----------
    paths : sequence of Path
        Files relative to `root`.
    """
    by_place: dict[tuple[object, ...], list[Path]] = {}
    for path in paths:
        folders = ["" if part.lower() in FORMATS else part for part in path.parts[:-1]]
        by_place.setdefault((*folders, stem_of(path), is_mask_path(path)), []).append(path)
    copies = {
        p
        for same in by_place.values()
        if len({p.suffix.lower() for p in same}) == len(same) > 1 and len({p.parent for p in same}) == len(same)
        for p in sorted(same, key=lambda p: (p.suffix.lower() in LOSSY, p))[1:]
    }
    names = set(paths)
    plain = [p for p in paths if p.name.lower().endswith(".nii") and p.with_name(f"{p.name}.gz") in names]
    copies |= {p.with_name(f"{p.name}.gz") for p in plain if _is_packed(root / p, root / f"{p}.gz")}
    return [p for p in paths if p not in copies], sorted(copies)


def _is_packed(plain: Path, packed: Path) -> bool:
    """Return whether a gzip file has the content of another file, by the checksum at its end."""
    with suppress(OSError):
        checksum = 0
        with plain.open("rb") as file:
            while block := file.read(BLOCK):
                checksum = zlib.crc32(block, checksum)
        with packed.open("rb") as file:
            file.seek(-8, 2)
            stated, size = (int.from_bytes(file.read(4), "little") for _ in range(2))
        return stated == checksum and size == plain.stat().st_size % 2**32
    return False
