"""Record of a run's data, so that it is not resumed, or combined with other runs, after the data have changed.

RUN/data.json     hash of the prepared cases, and names of the training and validation cases
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.errors import DataError
from medhybrid.files import write_atomically

FILE = "data.json"


class RunData(BaseModel):
    """Hash of the prepared cases, and names of the training and validation cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_hash: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


def remember_data(folder: Path, data: RunData) -> None:
    """Write the record of a new run's data."""
    write_atomically(folder / FILE, data.model_dump_json())


def read_data(folder: Path) -> RunData | None:
    """Read the record of a run's data; None for a run of an earlier version, which wrote no record."""
    try:
        return RunData.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def check_data(folder: Path, now: RunData) -> None:
    """Raise `DataError` if the data or the fold of a run have changed since it started."""
    then = read_data(folder)
    if then is not None and now != then:
        what = "other cases, or changed files" if now.data_hash != then.data_hash else "another fold"
        raise DataError(
            f"the data have changed since the run {folder.name} started",
            found=what,
            remedy="restore and prepare the earlier data, or start a new run (training.pretrained can take its weights)",
        )
