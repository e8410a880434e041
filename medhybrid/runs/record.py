"""Records of runs: trackers, parameters, data and code revision."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medhybrid.addresses import without_passwords
from medhybrid.config import StudyConfig, TrainingConfig
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.plan import Plan
from medhybrid.runs.data import RunData
from medhybrid.runs.places import config_here
from medhybrid.runs.prepared import prepared_folder
from medhybrid.tracking.check import check_names, check_store
from medhybrid.tracking.jsonl import JsonlTracker
from medhybrid.tracking.mlflow import RUN_ID_FILE, MlflowTracker, RunInfo
from medhybrid.tracking.mlflow_store import store_uri
from medhybrid.tracking.several import SeveralTrackers
from medhybrid.tracking.stages import StageTracker
from medhybrid.training.stages import Stage
from medhybrid.training.tracker import Tracker
from medhybrid.version import __version__, code_revision

LOSS = TrainingConfig.model_fields["loss"].default

NO_VALIDATION = "none: every case trains, so there are no scores and the confidence is not calibrated"


def check_tracking(config: StudyConfig, folder: Path | None = None) -> None:
    """Check that a run can be recorded, before it starts.

    Parameters
    ----------
    folder : Path, optional
        Folder of a run to resume.

    Raises
    ------
    ConfigError
        If a name is invalid in MLflow.
    TrackingError
        If the store must be repaired first; the message has the command.
    """
    if config.tracking.kind != "mlflow":
        return
    runs, experiment = Path(config.runs), experiment_of(config)
    check_names(experiment, config.tracking.alias)
    ids = [] if folder is None else [folder / RUN_ID_FILE, *sorted(folder.glob(f"stages/*/{RUN_ID_FILE}"))]
    known: list[str | None] = [path.read_text().strip() for path in ids if path.is_file()]
    for run_id in known or [None]:
        check_store(store_uri(config.tracking.uri, runs), experiment, run_id=run_id, lock=runs)


def experiment_of(config: StudyConfig) -> str:
    """Return the MLflow experiment: `tracking.experiment`, else `MLFLOW_EXPERIMENT_NAME`, else the study's name."""
    return config.tracking.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or config.name


def make_tracker(
    config: StudyConfig, plan: Plan, data: RunData, folder: Path, *, parent_run_id: str = ""
) -> StageTracker:
    """Return the trackers of the config; a resumed run continues its MLflow run, a new one is nested under its parent."""
    trackers: list[Tracker] = [JsonlTracker(folder / "log.jsonl")]
    if config.tracking.kind == "mlflow":
        info = _run_info(config, plan, data, folder, parent_run_id)
        trackers.append(MlflowTracker(config.tracking.uri, Path(config.runs), info, folder=folder))
    run = SeveralTrackers(trackers)
    return StageTracker(run, lambda stage: _stage_tracker(config, stage, run, folder))


def silent_tracker() -> StageTracker:
    """Return a tracker that records nothing, for all processes of a team except the first."""
    return StageTracker(SeveralTrackers([]), lambda _: SeveralTrackers([]))


def _stage_tracker(config: StudyConfig, stage: Stage, run: Tracker, folder: Path) -> Tracker:
    """Return the tracker of a nested run for a stage, if the run has stages."""
    if config.tracking.kind != "mlflow" or not config.training.stages:
        return SeveralTrackers([])
    chosen = stage.config
    info = RunInfo(
        experiment=experiment_of(config),
        name=f"stage{stage.number}-{stage.name}-{run_name(config, folder)}",
        description=f"Stage {stage.number} of {len(config.training.stages)}: trains {', '.join(chosen.train)}.",
        params={f"stage.{key}": str(value) for key, value in chosen.model_dump(exclude_defaults=True).items()},
        tags={"medhybrid.version": __version__, "medhybrid.stage": str(stage.number)},
        datasets={},
    )
    its_folder = folder / "stages" / str(stage.number)
    its_folder.mkdir(parents=True, exist_ok=True)
    return MlflowTracker(config.tracking.uri, Path(config.runs), info, folder=its_folder, parent=lambda: run.run_id)


def reopen_tracker(folder: Path) -> Tracker:
    """Return the tracker of a finished run, to add to its record."""
    config = config_here(folder)
    dataset = PreparedDataset(prepared_folder(config))
    fold = dataset.fold_for(config)
    present = set(dataset.names())
    train, validation = (tuple(n for n in names if n in present) for names in (fold.train, fold.validation))
    data = RunData(data_hash="", train=train, validation=validation)
    return make_tracker(config, dataset.plan_for(config), data, folder)


def _run_info(config: StudyConfig, plan: Plan, data: RunData, folder: Path, parent_run_id: str) -> RunInfo:
    training = config.training
    sides = {"train": data.train, "validation": data.validation}
    datasets = {
        side: {
            "name": f"{config.name}-fold{training.fold}-{side}",
            "hash": data.data_hash,
            "cases": sorted(names),
        }
        for side, names in sides.items()
        if names or side == "train"
    }
    return RunInfo(
        experiment=experiment_of(config),
        name=run_name(config, folder),
        description=description_of(config, plan),
        params=_parameters(config, plan),
        tags={
            **config.tracking.tags,
            "mlflow.source.name": "medhybrid",
            "mlflow.source.type": "LOCAL",
            "medhybrid.version": __version__,
            "medhybrid.code": code_revision(),
            "medhybrid.folder": folder.name,
            "medhybrid.data_hash": data.data_hash,
            "medhybrid.fold": str(training.fold),
            **({} if training.has_validation else {"medhybrid.validation": NO_VALIDATION}),
            "medhybrid.seed": str(training.seed),
            "medhybrid.network": config.network.kind,
            **({"mlflow.parentRunId": parent_run_id} if parent_run_id else {}),
        },
        datasets=datasets,
        model=config.name,
    )


def run_name(config: StudyConfig, folder: Path) -> str:
    """Return the name of a run in the UI: the name of its folder, but beginning with fold, seed and network."""
    of = config.training
    own = f"{config.network.kind}-fold{of.fold}-seed{of.seed}"
    before, found, after = folder.name.partition(f"-{own}")
    return f"fold{of.fold}-seed{of.seed}-{config.network.kind}{after}-{before}" if found else folder.name


def description_of(config: StudyConfig, plan: Plan) -> str:
    """Describe a run in Markdown."""
    training = config.training
    length = f"{training.max_minutes:g} min" if training.max_minutes else f"{training.iterations} steps"
    return "\n".join(
        [
            f"**{config.name}**: {', '.join(plan.labels)} from {', '.join(plan.channels)}",
            "",
            f"- network: {config.network.kind}, widths {config.network.widths}",
            f"- patch {plan.patch_size} at {plan.spacing_mm} mm, batch {plan.batch_size}",
            f"- length: {length}, fold {training.fold}, seed {training.seed}",
            *([] if training.has_validation else [f"- validation: {NO_VALIDATION}"]),
            *(["- loss: " + training.loss] if training.loss != LOSS else []),
            *([f"- class weights: {plan.reasons['class_weights']}"] if "class_weights" in plan.reasons else []),
        ]
    )


def _parameters(config: StudyConfig, plan: Plan) -> dict[str, str]:
    """Return the whole resolved config with dotted keys, values of the plan, device and precision."""
    from medhybrid.inference.device import choose_device
    from medhybrid.inference.self_check import checked_precision

    device = choose_device(config.training.device)
    wanted = config.training.precision
    precision = checked_precision(device, wanted, patch_size=plan.patch_size, is_thin=plan.is_thin)
    values: dict[str, object] = {
        "plan.spacing_mm": plan.spacing_mm,
        "plan.patch_size": plan.patch_size,
        "plan.batch_size": plan.batch_size,
        "plan.preset": plan.preset,
        "resolved.device": device.type,
        "resolved.precision": str(precision),
    }
    values |= _flat(config, without_passwords(config.model_dump(mode="json")), "")
    return {k: str(v) for k, v in values.items() if v is not None}


def _flat(section: BaseModel, values: Mapping[str, Any], prefix: str) -> dict[str, object]:
    """Return the values of a config with dotted keys. A mapping whose keys are the user's, such as labels, is one value."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        inner = getattr(section, key)
        if isinstance(inner, BaseModel):
            flat |= _flat(inner, value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return flat


def without_places(config: StudyConfig) -> dict[str, Any]:
    """Return the config for a model that is distributed: without paths, addresses and passwords."""
    values = config.model_dump(mode="json")
    for section, key in (
        ("", "runs"),
        ("", "tracking"),
        ("", "output"),
        ("data", "root"),
        ("data", "corrections"),
        ("prepare", "folder"),
    ):
        del (values[section] if section else values)[key]
    if values["training"]["pretrained"] is not None:
        values["training"]["pretrained"] = Path(values["training"]["pretrained"]).name
    return values


def made_with(config: StudyConfig) -> dict[str, str]:
    """Return versions and processor, which affect the bits of a training besides config and data."""
    import torch

    from medhybrid.inference.device import choose_device

    device = choose_device(config.training.device)
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "medhybrid": __version__,
        "code": code_revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processes": os.environ.get("WORLD_SIZE", "1"),
        "processor": f"{platform.machine()} {processor}, {torch.get_num_threads()} threads",
    }
