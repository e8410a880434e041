"""A reviewer's marks of masks: `review.json` in the folder of masks.

The page of a report saves the same format through the server of `medhybrid review`, or as a download.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medhybrid.errors import DataError, reason_of
from medhybrid.files import held, write_atomically
from medhybrid.names import escape_name

FILE = "review.json"


class Mark(BaseModel):
    """Mark of one mask, with reviewer and time (ISO 8601).

    Attributes
    ----------
    decision : str, optional
        None for a comment without a decision.
    of : str
        Sign of the mask, if known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Literal["accepted", "to correct", "rejected"] | None = None
    comment: str = Field("", max_length=2000)
    reviewer: str = Field("", max_length=200)
    time: str = Field("", max_length=40)
    of: str = Field("", max_length=64)

    def is_of(self, sign: str) -> bool:
        """Return whether this mark is for the mask with a sign, and not for an earlier mask of the case."""
        return self.of in ("", sign)


class Marks(BaseModel):
    """Marks of the cases of a folder.

    Attributes
    ----------
    key : str
        Key of the report, which identifies the masks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    key: str = ""
    marks: dict[str, Mark] = {}


def read_marks(folder: Path) -> Marks:
    """Read the marks of a folder of masks; empty if it has no file of marks. Raises `DataError` for a damaged file."""
    path = folder / FILE
    return read_marks_file(path) if path.is_file() else Marks()


def read_marks_file(path: Path) -> Marks:
    """Read a file of marks; raises `DataError` if it is absent or damaged."""
    try:
        return Marks.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} is not a valid file of review marks",
            found=reason_of(error),
            remedy="download it from the report again, or remove it",
        ) from error


def write_mark(folder: Path, key: str, case: str, mark: Mark | None) -> Marks:
    """Set or remove the mark of a case; return all marks. A lock allows several processes at the same time.

    Marks of other masks (with another key) are moved to a separate file first.
    """
    with held(folder / ".review.lock"):
        earlier = read_marks(folder)
        if earlier.marks and earlier.key not in ("", key):
            (folder / FILE).replace(_free_path(folder, earlier.key))
            earlier = Marks()
        marks = {c: m for c, m in earlier.marks.items() if c != case} | ({} if mark is None else {case: mark})
        now = Marks(key=key, marks=marks)
        write_atomically(folder / FILE, now.model_dump_json(indent=1))
    return now


def _free_path(folder: Path, key: str) -> Path:
    """Return a new path for marks of other masks. The key is escaped: it is from a file that may come from elsewhere."""
    name = f"review-{escape_name(key)}"
    numbers = ("", *(f"-{i}" for i in range(2, 10_000)))
    return next(path for n in numbers if not os.path.lexists(path := folder / f"{name}{n}.json"))
