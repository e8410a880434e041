"""`medhybrid reproduce MODEL`: config of a model's training, differences of this host, and a repeated training."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.config import StudyConfig, config_from_dict, save_config
from medhybrid.config.renamed import present_key
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.errors import DataError, ModelError
from medhybrid.inference.model_record import ModelRecord, TrainingRecord, read_record
from medhybrid.progress import Reporter
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.record import made_with
from medhybrid.runs.run import Run
from medhybrid.steps.preprocess import preprocess
from medhybrid.steps.train import train

PLACES: dict[str, str | None] = {
    "data.root": None,
    "prepare.folder": "reproduced/prepared",
    "runs": "reproduced/runs",
    "training.pretrained": None,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Config of a model's training, with the differences of this host.

    Attributes
    ----------
    config : StudyConfig
        The config, with the length of the training in steps.
    differences : tuple of (property, then, here)
        Differences in software, processor, data and length. Without differences, a training gives the same weights; on a GPU,
        only with `training.deterministic`.
    """

    record: ModelRecord
    config: StudyConfig
    differences: tuple[tuple[str, str, str], ...]

    def save(self, path: Path) -> list[str]:
        """Write the config and return the commands that train the model again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_config(self.config, path)
        chosen = ["--config", shlex.quote(str(path))]
        flag = ["--deterministic"] if self.config.training.deterministic else []
        return [" ".join(["medhybrid", "preprocess", *chosen]), " ".join(["medhybrid", "train", *chosen, *flag])]


def recipe_of(record: ModelRecord, overrides: Sequence[str] = ()) -> Recipe:
    """Read the config of a training from a model's record, and compare its conditions with this host.

    Parameters
    ----------
    overrides : sequence of str
        Local paths: `data.root=...`, and `training.pretrained=...` if it was initialised from weights. `prepare.folder=...` and
        `runs=...` are below `reproduced/` by default.

    Raises
    ------
    ModelError
        If the model has no record of its training, or an override is not a path.
    """
    earlier = record.training
    if earlier is None:
        raise ModelError("the model has no record of its training", remedy="use the config.yaml of its run folder")
    given = (item.partition("=") for item in overrides)
    places = {present_key(key, source="command line"): value for key, _, value in given}
    if others := places.keys() - PLACES.keys():
        raise ModelError(
            f"{', '.join(sorted(others))} cannot be overridden", expected=", ".join(f"{k}=..." for k in PLACES)
        )
    config = _config_here(earlier, record.plan, PLACES | places)
    then = earlier.software | {"data": record.data_hash, "length": _length(earlier)}
    here = made_with(config) | {"data": _data_hash(config), "length": f"{earlier.n_steps} steps"}
    if config.training.pretrained is not None:
        then["pretrained"], here["pretrained"] = earlier.config["training"]["pretrained"], "the given file"
    if "+changes" in then.get("code", ""):
        here["code"] += " (the model was trained with uncommitted changes)"
    told = ((key, then.get(key, ""), here.get(key, "")) for key in sorted(then.keys() | here.keys()))
    return Recipe(record, config, tuple(row for row in told if row[1] != row[2]))


def _config_here(earlier: TrainingRecord, plan: Plan, places: Mapping[str, str | None]) -> StudyConfig:
    """Return the config of a training with local paths and the values of its plan, which could differ on this host."""
    planned = plan.model_dump(mode="json", include={"spacing_mm", "patch_size", "batch_size"})
    try:
        training = earlier.config["training"] | {"iterations": earlier.n_steps, "max_minutes": None}
        if training["pretrained"] is not None:
            training["pretrained"] = places["training.pretrained"] or training["pretrained"]
        values = {
            **earlier.config,
            "training": training,
            "runs": places["runs"],
            "data": earlier.config["data"] | {"root": places["data.root"]},
            "prepare": earlier.config["prepare"] | planned | {"folder": places["prepare.folder"]},
            "tracking": {"kind": "jsonl"},  # do not write into the store of the original training
        }
    except (KeyError, TypeError) as error:
        raise ModelError("the model's record of its training is damaged", found=repr(error)) from error
    if found := _interpolation_in(values):
        raise ModelError(
            "the model's record of its training is not a plain config",
            expected="values without interpolation",
            found=f"{found[:60]}, which would be resolved on this host",
        )
    return config_from_dict(values, source="the model")


def _interpolation_in(values: object) -> str:
    """Return an interpolation such as `${oc.env:HOME}` in a config, which must not be resolved for a foreign record."""
    if isinstance(values, str):
        return values if "${" in values else ""
    parts = values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else ()
    return next((found for part in parts if (found := _interpolation_in(part))), "")


def _length(earlier: TrainingRecord) -> str:
    minutes = earlier.config["training"].get("max_minutes")
    schedule = f" on the schedule of {minutes:g} minutes" if minutes else ""
    marks = [", interrupted"] * earlier.is_interrupted + [
        ", length changed during training"
    ] * earlier.has_changed_length
    return "".join([f"{earlier.n_steps} steps{schedule}", *marks])


def reproduce(recipe: Recipe, *, reporter: Reporter) -> tuple[Run, bool]:
    """Prepare and train again; returns the run and whether its weights are bit-identical."""
    preprocess(recipe.config, reporter=reporter)
    run = train(recipe.config, reporter=reporter)
    return run, read_record(run.folder)[1].weights_sha256 == recipe.record.weights_sha256


def _data_hash(config: StudyConfig) -> str:
    """Return the hash of the local prepared data."""
    try:
        return PreparedDataset(prepared_folder(config)).data_hash()
    except DataError:
        return "not prepared here"
