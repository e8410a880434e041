"""Which run `--resume` means, and what may change of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medhybrid.config import load_config
from medhybrid.errors import ConfigError
from medhybrid.steps.train import latest_run

LENGTHS = ("training.iterations=", "training.max_minutes=")


def find_run(config: str, overrides: Sequence[str], run: Path | None) -> tuple[Path, list[str]]:
    """The run folder, and the overrides of its length.

    Raises
    ------
    ConfigError
        If neither a run nor a config names it, or an override would change more than the length.
    """
    length = [o for o in overrides if o.startswith(LENGTHS)]
    others = [o for o in overrides if not o.startswith(LENGTHS)]
    if run is not None:
        if others:
            raise ConfigError(f"{others[0]} cannot change on --resume", remedy="only the length of a run can")
        return run, length
    if not config:
        raise ConfigError("--resume needs --run FOLDER, or --config to find the study's newest run")
    movable = ("runs=", "prepare.folder=", "data.root=", "name=")
    if stuck := [o for o in others if not o.startswith(movable)]:
        raise ConfigError(f"{stuck[0]} cannot change on --resume", remedy="only the length of a run can")
    return latest_run(load_config(config, others)), length
