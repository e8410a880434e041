"""Protection of the user's files in an output folder of `predict`: they are neither removed nor overwritten."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from medhybrid.errors import OutputError
from medhybrid.inference.outputs import files_of
from medhybrid.inference.records import Prediction, Records

logger = logging.getLogger(__name__)

COPYING_S = 1.0
"""Tolerance in seconds for outputs of versions that stored no hashes: a copied file may be newer than its record."""


class ForeignFileError(OutputError):
    """Error for a file at the path of an output that medhybrid did not write, or that was changed afterwards."""


def refuse_foreign_files(out: Path, records: Records, case: str) -> None:
    """Raise `ForeignFileError` if an output of a case would overwrite a file of the user's or an edited output."""
    present = [name for name in files_of(case)[:-2] if (out / name).exists() or (out / name).is_symlink()]
    if not present:
        return
    if damaged := records.damaged(case):
        raise ForeignFileError(
            f"{case} is not predicted: its record is damaged, so it is unknown whether medhybrid wrote its outputs",
            found=", ".join([damaged, *present]),
            remedy="remove the record and these files, or move them to another folder, and run again",
        )
    hashes, earlier = records.outputs_of(case), records.earlier_record(case)
    unknown = [n for n in present if n not in hashes and (earlier is None or (out / n).is_symlink())]
    changed = [n for n in present if n not in unknown and _is_changed(out / n, hashes.get(n), earlier)]
    if unknown:
        raise ForeignFileError(
            f"{case} is not predicted: its outputs would overwrite a file that medhybrid did not write",
            found=", ".join(unknown),
            remedy="move the file to another folder, or choose another --out",
        )
    if changed:
        raise ForeignFileError(
            f"{case} is not predicted again: it would overwrite an output that was changed after medhybrid wrote it",
            found=", ".join(changed),
            remedy="move the file to another folder, for example corrected/",
        )


def with_changes_named(done: Prediction, out: Path) -> Prediction:
    """Return the record of a scan that is not predicted again, with a note on outputs that were changed afterwards."""
    changed = [n for n, sha256 in done.outputs.items() if _is_changed(out / n, sha256, None)]
    if not changed:
        return done
    logger.warning("%s: changed since medhybrid wrote them: %s", done.case, ", ".join(changed))
    return done.model_copy(
        update={
            "message": "; ".join(filter(None, [done.message, f"changed since it was written: {', '.join(changed)}"]))
        }
    )


def is_edited(out: Path, records: Records, case: str) -> bool:
    """Return whether the mask of a case was changed after `predict` wrote it."""
    name = files_of(case)[0]
    path = out / name
    return path.is_file() and _is_changed(path, records.outputs_of(case).get(name), records.earlier_record(case))


def _is_changed(path: Path, sha256: str | None, record: Path | None) -> bool:
    """Return whether a file differs from its hash; without a hash, whether it is newer than its record."""
    if sha256 is not None:
        return not path.is_file() or path.is_symlink() or hash_file(path) != sha256
    return record is not None and path.stat().st_mtime > record.stat().st_mtime + COPYING_S


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
