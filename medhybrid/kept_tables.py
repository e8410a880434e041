"""Tables that a command rewrites and that users annotate: an edited table is renamed, not overwritten.

.NAME.sha256     hashes of the last two versions of a table; two, since a process may be killed between both files
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medhybrid.files import text_of_csv, write_atomically

logger = logging.getLogger(__name__)

KEPT_HASHES = 2


def write_kept_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, with the column names first; raises `OSError`.

    A table of this name that was edited since it was written is first renamed to NAME-edited.csv, with a warning.
    """
    text = text_of_csv(rows)
    beside = path.with_name(f".{path.name}.sha256")
    known = _hashes_in(beside)
    if path.is_file() and _is_edited(path, known, text):
        kept = _free_name(path)
        path.rename(kept)
        logger.warning("%s was edited after it was written; the edited table is kept as %s", path.name, kept.name)
    new = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    if new not in known[-1:]:
        write_atomically(beside, "\n".join([*known, new][-KEPT_HASHES:]) + "\n")
    write_atomically(path, text)


def _hashes_in(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().split()
    return []


def _is_edited(path: Path, known: Sequence[str], text: str) -> bool:
    """Return whether a table was edited since it was written; without a hash, compare the columns."""
    try:
        content = path.read_bytes()
    except OSError:
        return True
    if known:
        return hashlib.sha256(content).hexdigest() not in known
    return content.splitlines()[:1] != text.encode("utf-8", "backslashreplace").splitlines()[:1]


def _free_name(path: Path) -> Path:
    numbers = ("", *(f"-{n}" for n in range(2, 10_000)))
    names = (path.with_name(f"{path.stem}-edited{n}{path.suffix}") for n in numbers)
    return next(p for p in names if not os.path.lexists(p))
