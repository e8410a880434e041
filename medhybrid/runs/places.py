"""Current paths of a run's data, runs and store, after its project was moved or from another working directory.

RUN/working_folder    working directory of the training, relative to the run folder

Relative paths in a run's `config.yaml` start at the working directory of the training. The folder of runs is the parent of
the run folder, regardless of the config.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from medhybrid.addresses import complete_address
from medhybrid.config import StudyConfig
from medhybrid.files import write_atomically
from medhybrid.remote import is_remote
from medhybrid.runs.resume import run_config
from medhybrid.tracking.mlflow_store import sqlite_path, sqlite_url

WORKING_FOLDER = "working_folder"


def remember_working_folder(folder: Path) -> None:
    """Write the working directory of a new run, unless it is on another drive than the run folder."""
    with suppress(ValueError):
        write_atomically(folder / WORKING_FOLDER, os.path.relpath(Path.cwd(), folder.resolve()))


def config_here(folder: Path) -> StudyConfig:
    """Return the config of a run with its current paths."""
    return with_places_here(run_config(folder), folder)


def with_places_here(config: StudyConfig, folder: Path) -> StudyConfig:
    """Return a run's config with the current, absolute paths of its runs, data and store."""
    runs = folder.resolve().parents[1] if folder.resolve().parent.name == config.name else None
    base = _base(config, folder)
    moved = _moved(config, runs)

    def here(place: str) -> str:
        return place if is_remote(place) else str(_followed(base / place, moved))

    data, start, uri = config.data, config.training.pretrained, config.tracking.uri
    changes = {
        "runs": str(runs or base / config.runs),
        "data": data.model_copy(
            update={
                "root": None if data.root is None else here(data.root),
                "corrections": tuple(map(here, data.corrections)),
            }
        ),
        "prepare": config.prepare.model_copy(update={"folder": here(config.prepare.folder)}),
        "training": config.training.model_copy(update={"pretrained": None if start is None else here(start)}),
        "tracking": config.tracking.model_copy(update={"uri": None if uri is None else _store_from(uri, base)}),
    }
    return config.model_copy(update=changes)


def _base(config: StudyConfig, folder: Path) -> Path:
    """Return the folder that relative paths start at: the first candidate that has the prepared cases."""
    bases = [base for base in (_kept_base(folder), _base_above(config, folder), Path.cwd()) if base is not None]
    prepared = Path(config.prepare.folder) / config.name
    return next((base for base in bases if (base / prepared).is_dir()), bases[0])


def _kept_base(folder: Path) -> Path | None:
    """Return the working directory in a run's record, None without a record."""
    path = folder / WORKING_FOLDER
    return (folder.resolve() / path.read_text().strip()).resolve() if path.is_file() else None


def _base_above(config: StudyConfig, folder: Path) -> Path | None:
    """Return the folder that the relative path `runs` starts at, for a run of an earlier version without record."""
    inside = Path(config.runs) / config.name
    parts = folder.resolve().parent.parts
    is_below = not inside.is_absolute() and ".." not in inside.parts and parts[-len(inside.parts) :] == inside.parts
    return Path(*parts[: -len(inside.parts)]) if is_below else None


def _moved(config: StudyConfig, runs: Path | None) -> tuple[Path, Path] | None:
    """Return the folder of the project in the config and its current one, if the config has an absolute path."""
    then = Path(config.runs)
    if runs is None or not then.is_absolute() or then.resolve() == runs or then.name != runs.name:
        return None
    return then.parent, runs.parent


def _followed(place: Path, moved: tuple[Path, Path] | None) -> Path:
    """Return the current path of a file in a project that was moved, if it exists."""
    if moved is not None and place.is_relative_to(moved[0]):
        now = moved[1] / place.relative_to(moved[0])
        return now if now.exists() else place
    return place


def _store_from(uri: str, base: Path) -> str:
    """Return the address of a store; the relative path of an SQLite file starts at `base`."""
    path = sqlite_path(uri)
    if path is None:
        return complete_address(uri)
    return uri if path.is_absolute() else sqlite_url(base / path)
