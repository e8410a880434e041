"""What a reviewer says of masks: `review.json` in the folder of them.

The page of a report writes the same, as a download where no server saves it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medhybrid.errors import DataError
from medhybrid.files import held, write_atomically
from medhybrid.names import escape_name

FILE = "review.json"


class Mark(BaseModel):
    """What was decided of one mask, by whom and when (ISO 8601); `of` is the sign of that mask, where it is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Literal["accepted", "to correct", "rejected"]
    comment: str = Field("", max_length=2000)
    reviewer: str = Field("", max_length=200)
    time: str = Field("", max_length=40)
    of: str = Field("", max_length=64)

    def is_of(self, sign: str) -> bool:
        """Whether it was said of the mask with this sign, and not of one before it."""
        return self.of in ("", sign)


class Marks(BaseModel):
    """Marks by case.

    Attributes
    ----------
    key : str
        Of which masks: that of the report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    key: str = ""
    marks: dict[str, Mark] = {}


def read_marks(folder: Path) -> Marks:
    """The marks of a folder of masks, none where there is no file; raises `DataError` where it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return Marks()
    try:
        return Marks.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} holds no marks of a review",
            found=str(error)[:200],
            remedy="download it from the report again, or remove it",
        ) from error


def write_mark(folder: Path, key: str, case: str, mark: Mark | None) -> Marks:
    """Set the mark of a case, or take it away; two processes may do so at once. Returns all marks.

    Marks of other masks (another key) are put aside under a name of their own.
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
    """Return a new path for marks of other masks; the key stands in a file that somebody else may have written."""
    name = f"review-{escape_name(key)}"
    numbers = ("", *(f"-{i}" for i in range(2, 10_000)))
    return next(path for n in numbers if not os.path.lexists(path := folder / f"{name}{n}.json"))
