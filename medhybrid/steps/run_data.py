"""What data a run is of: so that it is never gone on with, or joined with others, on data that have changed since.

RUN/data.json     the hash of the prepared cases, and which of them train and validate
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import DataError
from medhybrid.files import write_atomically
from medhybrid.steps.prepared import prepared_folder

FILE = "data.json"


class RunData(BaseModel):
    """Hash of the prepared cases, and the names of those that train and validate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_hash: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


def remember_data(folder: Path, config: StudyConfig, dataset: PreparedDataset) -> None:
    """Write what a new run is of."""
    write_atomically(folder / FILE, _data_now(config, dataset).model_dump_json())


def check_data(folder: Path, config: StudyConfig) -> None:
    """Raise `DataError` where the data or the fold of a run are not what they were when it began."""
    try:
        then = RunData.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):  # of a version that did not write it
        return
    now = _data_now(config, PreparedDataset(prepared_folder(config)))
    if now != then:
        what = "cases, or their files, are others" if now.data_hash != then.data_hash else "another fold"
        raise DataError(
            f"the data have changed since the run {folder.name} began",
            found=what,
            remedy="prepare the data as they were, or begin anew (training.pretrained takes the weights along)",
        )


def _data_now(config: StudyConfig, dataset: PreparedDataset) -> RunData:
    fold, present = dataset.fold_for(config), set(dataset.names())
    train, validation = (tuple(n for n in names if n in present) for names in (fold.train, fold.validation))
    return RunData(data_hash=dataset.data_hash(), train=train, validation=validation)
