"""`medhybrid reproduce MODEL`: how a model was made, what is not the same here, and the same training again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.config import StudyConfig, config_from_dict, save_config
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import DataError, ModelError
from medhybrid.inference.model_record import ModelRecord, read_record
from medhybrid.steps.preprocess import prepared_folder, preprocess
from medhybrid.steps.progress import Reporter
from medhybrid.steps.run_record import made_with
from medhybrid.steps.train import Run, train


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model was made.

    Attributes
    ----------
    config : StudyConfig
        With the length in steps that the training took.
    differences : tuple of (what, then, here)
        Of software, processor and data; none means that its weights can be made again, bit for bit.
    """

    record: ModelRecord
    config: StudyConfig
    differences: tuple[tuple[str, str, str], ...]

    def save(self, path: Path) -> list[str]:
        """Write the config; returns the commands that make the model again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_config(self.config, path)
        chosen = ["--config", shlex.quote(str(path))]
        flag = ["--deterministic"] if self.config.training.deterministic else []
        return [" ".join(["medhybrid", "preprocess", *chosen]), " ".join(["medhybrid", "train", *chosen, *flag])]


def recipe_of(record: ModelRecord, overrides: Sequence[str] = ()) -> Recipe:
    """Read a model's record.

    Parameters
    ----------
    overrides : sequence of str
        Where the data are here, as `data.root=...`, `prepare.folder=...`, `runs=...`.

    Raises
    ------
    ModelError
        If the record does not say how it was made, or an override would change that.
    """
    made = record.made
    if made is None:
        raise ModelError(
            "the model does not say how it was made", remedy="the run folder that it was trained in has a config.yaml"
        )
    values: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in made.config.items()}
    values["training"] |= {"iterations": made.n_steps, "max_minutes": None}
    for item in overrides:
        key, _, value = item.partition("=")
        if key not in ("data.root", "prepare.folder", "runs"):
            raise ModelError(f"{key} cannot change", expected="data.root=..., prepare.folder=... or runs=...")
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    config = config_from_dict(values, source="the model")
    here = made_with(config) | {"data": _data_hash(config)}
    then = made.software | {"data": record.data_hash}
    told = [(key, then.get(key, ""), here.get(key, "")) for key in sorted(then.keys() | here.keys())]
    if not config.training.deterministic:
        told.append(("training.deterministic", "false", "true would be needed for equal bits on a GPU"))
    if made.config["training"]["iterations"] is None:
        minutes = made.config["training"]["max_minutes"]
        told.append(("length", f"{minutes:g} minutes, {made.n_steps} steps", f"{made.n_steps} steps: another schedule"))
    return Recipe(record, config, tuple(row for row in told if row[1] != row[2]))


def reproduce(recipe: Recipe, *, reporter: Reporter) -> tuple[Run, bool]:
    """Prepare and train again; the run, and whether its weights are the same bits."""
    preprocess(recipe.config, reporter=reporter)
    run = train(recipe.config, reporter=reporter)
    return run, read_record(run.folder)[1].weights_sha256 == recipe.record.weights_sha256


def _data_hash(config: StudyConfig) -> str:
    """Of the prepared data that are here."""
    try:
        return PreparedDataset(prepared_folder(config)).data_hash()
    except DataError:
        return "not prepared here"
