"""Files of the user's among the outputs of `predict`: they are neither removed nor written over."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medhybrid.errors import OutputError
from medhybrid.inference.outputs import files_of
from medhybrid.inference.records import Records


class ForeignFileError(OutputError):
    """A file under an output's name that medhybrid did not write, or that was changed since."""


def refuse_foreign_files(out: Path, records: Records, case: str) -> None:
    """Raise `ForeignFileError` where an output of a case is not ours, or its mask was edited: it would be overwritten."""
    earlier = records.done(case)
    mask = out / files_of(case)[0]
    present = [name for name in files_of(case)[:-2] if (out / name).exists() or (out / name).is_symlink()]
    if present and not records.is_known(case):
        raise ForeignFileError(
            f"{case} is not predicted: medhybrid did not make a file that its mask would overwrite",
            found=", ".join(present),
            remedy="move it elsewhere, or choose another folder",
        )
    if earlier is not None and earlier.mask_sha256 and mask.is_file() and hash_mask(mask) != earlier.mask_sha256:
        raise ForeignFileError(
            f"{case} is not predicted again: its mask was changed after medhybrid wrote it, and would be overwritten",
            found=files_of(case)[0],
            remedy="move it elsewhere, for example into corrected/",
        )


def hash_mask(path: Path) -> str:
    """Return the SHA-256 of a mask's file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
