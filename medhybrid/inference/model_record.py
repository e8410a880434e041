"""`model.json`: the record of a model with its network, plan, training data and settings."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medhybrid.config import ChannelRule, InferenceConfig, LabelCode, NetworkConfig, ScansConfig
from medhybrid.config.renamed import rename_sections
from medhybrid.config.unet import UNetConfig
from medhybrid.data.fingerprint import SeenRange
from medhybrid.data.plan import Plan
from medhybrid.errors import ModelError
from medhybrid.inference.confidence import Calibration
from medhybrid.inference.nnunet.rules import NnUNetRules
from medhybrid.inference.record_bounds import refuse_absurd
from medhybrid.inference.weights_file import FORMAT_VERSION, About


class TrainingRecord(BaseModel):
    """Record of a model's training: config without paths, number of steps, versions of software, type of processor.

    Attributes
    ----------
    has_changed_length : bool
        The length of the training was changed on resuming: some steps have the learning rates of another length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    n_steps: int
    is_interrupted: bool = False
    has_changed_length: bool = False
    software: dict[str, str]

    @field_validator("config")
    @classmethod
    def _take_present_names(cls, config: dict[str, Any]) -> dict[str, Any]:
        return rename_sections(config)


class ModelRecord(BaseModel):
    """Content of `model.json`.

    Attributes
    ----------
    fold : int or str
        Fold that validated; `all` if every case trained and none validated.
    training_images : tuple of str
        Hashes of the images (`data.pictures`) on which the weights were trained, including those of pretrained weights.
    seen : SeenRange, optional
        Spacing, size and intensities of the training scans; a mask of a scan outside these ranges needs review.
    training : TrainingRecord, optional
        Record of the training, to reproduce the model.
    nnunet : NnUNetRules, optional
        nnU-Net's steps before and after the network, for a model that was imported from nnU-Net.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    medhybrid_version: str
    network: NetworkConfig | UNetConfig
    inference: InferenceConfig
    scans: ScansConfig = ScansConfig()
    channel_map: dict[str, str | ChannelRule]
    label_codes: dict[str, LabelCode] = {}
    plan: Plan
    fold: int | Literal["all"]
    inner_fold: int | None = Field(None, validation_alias=AliasChoices("inner_fold", "inner"))
    data_hash: str
    training_images: tuple[str, ...] = Field((), validation_alias=AliasChoices("training_images", "learnt_from"))
    weights_sha256: str
    metrics: dict[str, float]
    calibration: Calibration = Calibration()
    seen: SeenRange | None = None
    training: TrainingRecord | None = Field(None, validation_alias=AliasChoices("training", "made"))
    nnunet: NnUNetRules | None = None

    @model_validator(mode="after")
    def _imported_network_has_rules(self) -> Self:
        if (self.nnunet is None) == isinstance(self.network, UNetConfig):
            raise ValueError("a network of nnU-Net needs the steps of nnU-Net (nnunet), and no other network has them")
        return self

    @property
    def about(self) -> About:
        """Description of the model for the metadata of its weights file."""
        return About(
            format_version=self.format_version,
            channels=self.plan.channels,
            labels=tuple(self.plan.labels),
            heads=self.network.heads,
            training_images=self.training_images,
        )


def read_record(path: str | Path) -> tuple[Path, ModelRecord]:
    """Return the model folder of a run folder or model folder, and its record; raises `ModelError`."""
    folder = Path(path)
    folder = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    if not (folder / "model.json").is_file():
        is_run = (Path(path) / "config.yaml").is_file()
        raise ModelError(
            f"{path} has no model" if folder.is_dir() else f"{path} does not exist",
            expected="a run folder, or a folder with model.json",
            remedy=f"finish its training: medhybrid train --resume --run {quote(str(path))}"
            if is_run
            else "give the folder of a finished run, below RUNS/STUDY/",
        )
    try:
        record = ModelRecord.model_validate_json((folder / "model.json").read_bytes())
    except (ValidationError, ValueError) as error:
        raise ModelError(f"{folder / 'model.json'} is invalid", found=str(error)[:300]) from error
    if record.format_version != FORMAT_VERSION:
        raise ModelError(
            f"the model in {folder} was written by another version of medhybrid ({record.medhybrid_version})",
            expected=f"format {FORMAT_VERSION}",
            found=f"format {record.format_version}",
            remedy="train it again, or use it with that version",
        )
    refuse_absurd(record, str(folder / "model.json"))
    return folder, record
