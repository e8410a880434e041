"""Run folders: creation, and the lock of the process that trains a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from medhybrid.config import StudyConfig
from medhybrid.errors import ConfigError, DataError, OutputError
from medhybrid.files import held, make_folder
from medhybrid.runs.places import remember_working_folder
from medhybrid.tracking.mlflow_store import is_default_store


def new_run_folder(config: StudyConfig, what: str = "") -> Path:
    """Create a folder RUNS/<study>/<time>[-what]-<network>-fold<n>-seed<n> (`foldall`); raises as `study_folder`."""
    base = study_folder(config)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S") + (f"-{what}" if what else "")
    name = f"{stamp}-{config.network.kind}-fold{config.training.fold}-seed{config.training.seed}"
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        folder = base / (name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        remember_working_folder(folder)
        return folder
    raise DataError(f"too many runs started in one second in {base}")


def study_folder(config: StudyConfig) -> Path:
    """Create the folder RUNS/<study> if absent, and return it.

    Raises
    ------
    ConfigError
        If the path has characters that MLflow cannot use, since the path becomes part of an address.
    OutputError
        If it cannot be created.
    """
    if config.tracking.kind == "mlflow" and is_default_store(config.tracking.uri, Path(config.runs)):
        place = str(Path(config.runs).resolve())
        if found := sorted(set(place) & set("%?#")):
            raise ConfigError(
                f"MLflow cannot keep records in {place}",
                found=f"{' '.join(found)} in the path",
                remedy="set runs to another folder, tracking.uri to another store, or tracking.kind=jsonl",
            )
    return make_folder(Path(config.runs) / config.name, remedy="choose another folder: runs=FOLDER")


@contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Lock a run for this process; raises `OutputError` if another process trains it."""
    with held(folder / ".lock", wait=False) as is_free:
        if not is_free:
            raise OutputError(f"another process trains the run {folder.name}", remedy="wait for it, or stop it")
        yield
