"""Selection of the run for `--resume`, and the config values that may change."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medhybrid.config import StudyConfig, config_from_dict, load_config, with_values
from medhybrid.errors import ConfigError, reason_of
from medhybrid.remote import is_remote

PART_OF = "part_of"
"""File in a run folder with the path of the search, cross-validation or comparison that the run belongs to."""

LENGTHS = ("training.iterations=", "training.max_minutes=")

PLACES = ("prepare.folder=", "data.root=")
"""Overrides of the paths of a run's data; they apply to one call."""

RECORDS = "tracking."
"""Overrides of the tracking of a run; they are saved in its config."""


def find_run(config: str, overrides: Sequence[str], run: Path | None) -> tuple[Path, list[str]]:
    """Return the run folder to resume, and the overrides for it: length, paths of its data, tracking.

    Raises
    ------
    ConfigError
        If neither a run nor a config is given, or an override would change another value.
    """
    changes = [o for o in overrides if o.startswith((*LENGTHS, *PLACES, RECORDS))]
    finders = ("runs=", "name=") if run is None else ()
    if stuck := [o for o in overrides if o not in changes and not o.startswith(finders)]:
        raise ConfigError(
            f"{stuck[0]} cannot change on --resume",
            remedy="change only its length, the paths of its data (prepare.folder, data.root) and tracking",
        )
    if run is not None:
        return run, changes
    if not config:
        raise ConfigError("--resume needs --run FOLDER, or --config to find the study's newest run")
    return latest_run(load_config(config, [o for o in overrides if not o.startswith(LENGTHS)])), changes


def run_config(folder: Path) -> StudyConfig:
    """Read the resolved config of a run; raises `ConfigError`."""
    path = folder / "config.yaml"
    if not path.is_file():
        runs = sorted(p.parent.name for p in folder.glob("*/config.yaml")) if folder.is_dir() else []
        raise ConfigError(
            f"{folder} {'is not a run folder' if folder.is_dir() else 'does not exist'}",
            expected="the folder of a run, with config.yaml",
            found=f"a folder of runs: {', '.join(runs[-3:])}" if runs else "",
            remedy=f"name one of them, such as {folder / runs[-1]}" if runs else "give a folder below RUNS/STUDY/",
        )
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read", found=reason_of(error)) from error
    return config_from_dict(values, source=str(path))


def mark_part(run: Path, whole: Path) -> None:
    """Mark a run as part of a search, cross-validation or comparison, which resumes it."""
    (run / PART_OF).write_text(str(whole))


def latest_run(config: StudyConfig) -> Path:
    """Return the newest run folder of a study, without runs of searches, cross-validations and comparisons.

    Raises
    ------
    ConfigError
        If the study has no such run.
    """
    folders = sorted(p.parent for p in (Path(config.runs) / config.name).glob("*/config.yaml"))
    alone = [folder for folder in folders if not (folder / PART_OF).is_file()]
    if alone:
        return alone[-1]
    parts = f"{folders[-1].name} is part of {Path((folders[-1] / PART_OF).read_text()).name}" if folders else ""
    raise ConfigError(
        f"study {config.name} has no single run in {config.runs}",
        found=parts,
        remedy="repeat the command that started it, or name the run: --run FOLDER"
        if parts
        else "start one without --resume",
    )


def _number(text: str, item: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise ConfigError(f"{item} is not a length", expected="a finite number")
    return value


def with_places(config: StudyConfig, overrides: Sequence[str]) -> StudyConfig:
    """Change the paths of a run's data for one call; relative paths start at the working directory."""
    values = dict(o.split("=", 1) for o in overrides if o.startswith(PLACES))
    places = {key: place if is_remote(place) else str(Path.cwd() / place) for key, place in values.items()}
    return with_values(config, places, source="--resume") if places else config


def extend(config: StudyConfig, overrides: Sequence[str]) -> StudyConfig:
    """Change a run's length, absolute or relative (`+1000`), and its tracking; other overrides raise `ConfigError`."""
    records = dict(o.split("=", 1) for o in overrides if o.startswith(RECORDS))
    if records:
        values = {key: yaml.safe_load(text) for key, text in records.items()}
        config = with_values(config, values, source="--resume")
    length: dict[str, Any] = {}
    for item in (o for o in overrides if not o.startswith((*PLACES, RECORDS))):
        match = re.fullmatch(r"training\.(iterations|max_minutes)=(\+?)([0-9.e]+)", item)
        if match is None:
            raise ConfigError(
                f"{item} cannot change on --resume",
                expected="training.iterations=N or +N, training.max_minutes=M or +M, paths of data, or tracking",
                remedy="start a new run for other settings",
            )
        name, is_more, value = match.group(1), match.group(2), _number(match.group(3), item)
        old = getattr(config.training, name)
        if is_more and old is None:
            raise ConfigError(f"{item} cannot extend the run: its length is not set by {name}")
        total = value + (old if is_more else 0)
        length = {"iterations": None, "max_minutes": None, name: int(total) if name == "iterations" else total}
    if not length:
        return config
    values = config.model_dump()
    values["training"] |= length
    return config_from_dict(values, source="--resume")


def refuse_shorter(folder: Path, config: StudyConfig) -> None:
    """Raise `ConfigError` if a run has already made the steps, or trained for the minutes, of a new length."""
    from medhybrid.training.checkpoint import load_checkpoint

    state = load_checkpoint(folder / "checkpoint")
    steps, minutes = state["step"], state["elapsed_s"] / 60
    training = config.training
    if training.iterations is not None and training.iterations <= steps:
        raise ConfigError(
            f"the run {folder.name} has made {steps} steps",
            expected=f"more, such as training.iterations={steps + max(training.iterations, 1)}",
            found=f"training.iterations={training.iterations}",
        )
    if training.max_minutes is not None and training.max_minutes <= minutes:
        raise ConfigError(
            f"the run {folder.name} has trained for {minutes:.3g} minutes",
            expected=f"more, such as training.max_minutes={minutes + training.max_minutes:.3g}",
            found=f"training.max_minutes={training.max_minutes:g}",
        )
