"""Record of a run's data, so that it is not resumed, or combined with other runs, after the data have changed.

RUN/data.json     hash of the prepared cases, and names of the training and validation cases
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import StudyConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import DataError
from medhybrid.files import write_atomically
from medhybrid.runs.prepared import prepared_folder

FILE = "data.json"


class RunData(BaseModel):
    """Hash of the prepared cases, and names of the training and validation cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_hash: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


def remember_data(folder: Path, config: StudyConfig, dataset: PreparedDataset) -> None:
    """Write the record of a new run's data."""
    write_atomically(folder / FILE, _data_now(config, dataset).model_dump_json())


def check_data(folder: Path, config: StudyConfig) -> None:
    """Raise `DataError` if the data or the fold of a run have changed since it started."""
    try:
        then = RunData.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):  # earlier versions wrote no record
        return
    now = _data_now(config, PreparedDataset(prepared_folder(config)))
    if now != then:
        what = "other cases, or changed files" if now.data_hash != then.data_hash else "another fold"
        raise DataError(
            f"the data have changed since the run {folder.name} started",
            found=what,
            remedy="restore and prepare the earlier data, or start a new run (training.pretrained can take its weights)",
        )


def _data_now(config: StudyConfig, dataset: PreparedDataset) -> RunData:
    fold, present = dataset.fold_for(config), set(dataset.names())
    train, validation = (tuple(n for n in names if n in present) for names in (fold.train, fold.validation))
    return RunData(data_hash=dataset.data_hash(), train=train, validation=validation)
