"""Parts of a concatenation: one multi-frame instance that was divided into several files (PS3.3 C.7.6.16.2.2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.attributes import integer, text

TAGS = ("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber")


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a concatenation: its number from 1, and the number of parts, 0 if the header does not state it."""

    uid: str
    number: int
    total: int


def part_of_concatenation(header: Any) -> Part | None:
    """Return the part that a file is, or None for a complete instance."""
    uid, number = text(header, TAGS[0]), integer(header, TAGS[1])
    total = integer(header, TAGS[2]) or 0
    if number is None or number < 1 or total == 1:
        return None
    return Part(uid, number, max(total, 0))


def refuse_missing_parts(parts: Sequence[Part | None], path: Path, series: str) -> None:
    """Raise `SeriesError` if parts of a concatenation are missing: their frames would be missing in a volume.

    Parameters
    ----------
    path : Path
        A file of the series, for the message.
    """
    present = [p for p in parts if p is not None]
    has_own_uids = len({p.uid for p in present}) == len(present)  # of a program that gives each part another one
    by_uid: dict[str, list[Part]] = {}
    for part in present:
        by_uid.setdefault("" if has_own_uids else part.uid, []).append(part)
    for found in by_uid.values():
        numbers = sorted({p.number for p in found})
        total = max(*numbers, *(p.total for p in found))
        if len(numbers) < total:
            raise SeriesError(
                f"{series}: parts of a concatenation are missing",
                code="truncated",
                path=path,
                expected=f"the parts 1 to {total}",
                found=f"part{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:8]))}",
                remedy="copy or export all files of the series",
            )
