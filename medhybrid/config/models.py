"""The frozen models of a study: everything that can be set, each field with its meaning and default, once.

One `StudyConfig` is read once, checked entirely, saved beside the results, and passed down explicitly. Nothing else
(no environment variable, no module global) changes a result.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from medhybrid.config.base import Frozen, mode_text
from medhybrid.config.data import DataConfig, ScansConfig


class PrepareConfig(Frozen):
    """How scans become prepared cases. What is left null is decided by the plan's rules."""

    folder: str = Field(
        "prepared", description="Folder, or URL (s3://...), of prepared datasets, each in one of its name."
    )
    spacing_mm: tuple[float, float, float] | None = Field(None, description="Voxel spacing of the network's grid.")
    patch_size: tuple[int, int, int] | None = Field(None, description="Patch in voxels of that grid.")
    batch_size: int | None = Field(None, ge=1, description="Patches in a training step.")
    max_patch_voxels: int = Field(262_144, ge=4_096, description="Upper bound of the rule that chooses the patch.")
    mirror_axes: tuple[int, ...] = Field(
        (0,), description="Axes (0 left-right, 1 posterior-anterior, 2 inferior-superior) that may be mirrored."
    )
    keep_largest: tuple[str, ...] = Field((), description="Labels of which only the largest component is kept.")
    min_component_ml: float = Field(0.0, ge=0, description="Components below this volume are removed from masks.")
    max_affine_error_mm: float = Field(0.01, gt=0, description="Largest corner distance of image grid and mask grid.")
    blank_copied_channels: bool = Field(
        True, description="An optional channel that is a copy of another is treated as missing (blank)."
    )
    workers: int = Field(0, ge=0, description="Processes that prepare; 0 takes one a CPU core, as memory allows.")


class NetworkConfig(Frozen):
    """The network. Strides come from the plan unless given here."""

    kind: Literal["hybrid", "resnet", "identity", "interleave", "transformer", "transunet"] = Field(
        "hybrid",
        description="`hybrid`: convolutions and a Transformer at the bottleneck; `interleave`: attention after each residual "
        "block of the last two stages; `resnet` and `transformer` are the two ends; `identity`: the hybrid without its "
        "Transformer blocks; `transunet`: the published network of pictures, slice by slice (`transunet_2d.yaml`).",
    )
    widths: tuple[int, ...] = Field((32, 64, 128), description="Channels of each residual stage.")
    blocks: tuple[int, ...] = Field((1, 1, 2), description="Residual blocks of each stage.")
    token_width: int = Field(192, ge=8, description="Embedding width of the Transformer.")
    depth: int = Field(2, ge=0, description="Transformer blocks.")
    interleave_depth: int = Field(1, ge=1, description="Transformer blocks after each residual block of `interleave`.")
    presence_tokens: bool = Field(
        True, description="With optional channels: a token for each channel that says whether it is there."
    )
    heads: int = Field(6, ge=1, description="Attention heads.")
    drop_path: float = Field(0.1, ge=0, lt=1, description="Rate of stochastic depth at the last Transformer block.")
    head_width: int = Field(16, ge=4, description="Channels at full size.")
    deep_supervision: bool = Field(True, description="Auxiliary logits at half size.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths and blocks must have one entry a stage, found {self.widths} and {self.blocks}")
        if len(self.widths) < 2:
            raise ValueError("widths: at least two stages are needed")
        if self.token_width % self.heads:
            raise ValueError(f"token_width {self.token_width} must be a multiple of heads {self.heads}")
        return self


class AugmentConfig(Frozen):
    """Random changes of training patches. Probabilities are per patch."""

    enabled: bool = Field(True, description="False trains on the patches as they are.")
    affine_probability: float = Field(0.5, ge=0, le=1, description="Rotation, scaling and elastic deformation.")
    rotation_degrees: float = Field(20.0, ge=0, description="Largest rotation in the plane (a third of it out of it).")
    scale: float = Field(0.2, ge=0, lt=1, description="Largest relative change of size.")
    elastic_mm: float = Field(2.0, ge=0, description="Standard deviation of smooth displacements.")
    mirror_probability: float = Field(0.5, ge=0, le=1, description="For each axis that the plan allows.")
    noise: float = Field(0.1, ge=0, description="Largest standard deviation of Gaussian noise.")
    brightness: float = Field(0.2, ge=0, description="Largest shift, in units of the normalised intensities.")
    contrast: float = Field(0.25, ge=0, lt=1, description="Largest relative change of contrast.")
    gamma: float = Field(0.3, ge=0, lt=1, description="Largest deviation of the exponent from 1.")
    low_resolution_probability: float = Field(0.15, ge=0, le=1, description="Down- and up-sampling of a patch.")
    intensity_probability: float = Field(0.3, ge=0, le=1, description="For each kind of intensity change.")
    paste_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="A patch is given the foreground of another of its batch, in place of what it had there. For lesions.",
    )
    paste_margin_mm: float = Field(
        8.0, ge=0, description="Largest margin of what is pasted; at least a quarter of it is taken."
    )
    drop_channel_probability: float = Field(0.25, ge=0, le=1, description="An optional channel is blanked.")
    drop_context_probability: float = Field(0.25, ge=0, le=1, description="A value of `data.context` is taken away.")


class StageConfig(Frozen):
    """A stage of a training. Weights are named by part (`encoder`, `transformer`, `decoder`, `all`) or pattern (`*.norm.*`)."""

    name: str | None = Field(None, description="Name of its record; null takes what it trains.")
    train: tuple[str, ...] = Field(("all",), min_length=1, description="What is trained; the rest stands still.")
    share: float = Field(gt=0, description="Its length, as share of the run: of the sum of all shares.")
    peak_rate: float | None = Field(None, gt=0, description="Learning rate after warm-up; null takes the training's.")
    rates: dict[str, float] = Field(
        {}, description="Factors of the learning rate by part or pattern; of several that fit, the last one counts."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the learning rate from each layer to the one before it."
    )

    @model_validator(mode="after")
    def _rates_are_rates(self) -> Self:
        if bad := {k: v for k, v in self.rates.items() if v < 0}:
            raise ValueError(f"rates must not be negative, found {bad}")
        return self


Precision = Literal["auto", "bf16", "float32"]


class TrainingConfig(Frozen):
    """The recipe and its length."""

    renamed: ClassVar[dict[str, str]] = {
        "start": "pretrained",
        "start_parts": "pretrained_parts",
        "inner": "inner_fold",
    }

    max_minutes: float | None = Field(None, gt=0, description="Length in minutes, the final validation excepted.")
    iterations: int | None = Field(None, ge=1, description="Length in optimiser steps.")
    fold: int = Field(0, ge=0, description="Fold whose cases validate.")
    seed: int = Field(0, description="Seed of initial weights, sampling and augmentation.")
    optimiser: Literal["muon", "adamw"] = Field(
        "muon",
        description="`muon` orthogonalises the steps of convolutions and linear layers (the rest has AdamW); `adamw` for all.",
    )
    peak_rate: float = Field(2e-3, gt=0, description="Learning rate after warm-up.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    final_rate_share: float = Field(
        0.01, ge=0, le=1, description="Rate at the end of the cosine, as share of the peak."
    )
    betas: tuple[float, float] = Field((0.9, 0.99), description="AdamW's decay rates of its moments.")
    weight_decay: float = Field(0.02, ge=0, description="Decay of weights; none on norms and biases.")
    gradient_clip: float = Field(3.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(0.995, ge=0, lt=1, description="Decay of the weight average that is validated and kept.")
    inner_fold: int | None = Field(
        None,
        ge=0,
        description="For choosing settings: this part (of `data.n_folds`) of the cases that train validates in place of the "
        "fold's validation cases, which are not touched.",
    )
    max_cases: int | None = Field(
        None, ge=1, description="Train on no more cases of the fold than that, drawn by `data.split_seed`."
    )
    pretrained: str | None = Field(
        None,
        description="Pretrained weights to initialise from, as far as they fit: a run or model folder, or a file "
        "(.safetensors, .npz, .pt).",
    )
    pretrained_parts: tuple[str, ...] = Field(
        ("all",), min_length=1, description="Which parts of the network are initialised from them."
    )
    stages: tuple[StageConfig, ...] = Field(
        (), description="Stages one after the other, each with its own warm-up and cosine; none trains all at once."
    )
    auxiliary_weight: float = Field(0.3, ge=0, description="Weight of the loss at half size.")
    foreground_share: float = Field(1 / 3, ge=0, le=1, description="Share of patches that hold foreground for certain.")
    keep: Literal["final", "best"] = Field(
        "final",
        description="Which weights become the model: those at the end of the schedule, or the best validated ones (then "
        "the validation score is no longer independent). An interrupted run keeps the best it has.",
    )
    n_validations: int = Field(6, ge=1, description="Validations over the run, the last one on all cases.")
    validation_cases: int = Field(12, ge=1, description="Cases of the validations before the last.")
    checkpoint_minutes: float = Field(2.0, gt=0, description="Time between checkpoints.")
    workers: int = Field(2, ge=0, description="Threads that read patches; the samples do not depend on it.")
    precision: Precision = Field("auto", description="`auto` takes bf16 where the processor computes in it.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to train.")
    deterministic: bool = Field(
        False, description="Bit-equal weights when trained again on the same machine; needs `training.iterations`."
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.max_minutes is None) == (self.iterations is None):
            raise ValueError("give exactly one of max_minutes and iterations")
        if self.deterministic and self.iterations is None:
            raise ValueError("a deterministic training needs iterations (and max_minutes: null), for no clock is")
        return self


class PretrainConfig(Frozen):
    """Self-supervised pretraining on scans without masks: tokens are masked, and the network reconstructs the image there."""

    renamed: ClassVar[dict[str, str]] = {"hidden_share": "mask_ratio"}

    mask_ratio: float = Field(0.6, gt=0, lt=1, description="Share of the tokens that is masked.")


class InferenceConfig(Frozen):
    """Sliding-window inference on whole scans; also used by validation."""

    renamed: ClassVar[dict[str, str]] = {"mirror": "tta_mirroring"}

    overlap: float = Field(0.5, ge=0, lt=1, description="Overlap of neighbouring windows, as fraction of the window.")
    window_batch: int = Field(2, ge=1, description="Windows computed at once.")
    tta_mirroring: bool = Field(
        True, description="Test-time mirroring: average over the mirrored inputs that the plan allows."
    )
    skip_air: bool = Field(True, description="Leave out windows in which every channel is blank.")
    precision: Precision = Field("auto", description="`auto` takes bf16 where the processor computes in it.")


class TrackingConfig(Frozen):
    """Where runs are recorded."""

    kind: Literal["mlflow", "jsonl", "none"] = Field("mlflow", description="Besides the run's own `log.jsonl`.")
    uri: str | None = Field(None, description="MLflow store; null: `MLFLOW_TRACKING_URI`, else `runs/mlflow.db`.")
    experiment: str | None = Field(None, description="MLflow experiment; null: `MLFLOW_EXPERIMENT_NAME`, else `name`.")
    log_report: bool = Field(
        True, description="Log `report.html`, which holds voxels of scans; it stays in the run folder."
    )
    register_model: bool = Field(True, description="Register the model in MLflow under the study's name.")
    alias: str = Field("newest", description="Alias given to the registered version.")


class OutputConfig(Frozen):
    """Files that the command line writes."""

    mode: str = Field(
        "0600",
        description="Permissions of files that may hold patient data, as 0600 or 0640; folders can be entered by the same.",
    )

    _mode_is_one = field_validator("mode", mode="before")(mode_text)


class StudyConfig(Frozen):
    """One study: data, network, recipe, records."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the study, used for folders.")
    data: DataConfig = Field(description="Scans, masks, channels and labels.")
    scans: ScansConfig = Field(default_factory=ScansConfig, description="How scans are read.")
    prepare: PrepareConfig = Field(default_factory=PrepareConfig, description="From scans to prepared cases.")
    network: NetworkConfig = Field(default_factory=NetworkConfig, description="The network.")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="Augmentation of training patches.")
    training: TrainingConfig = Field(
        default_factory=lambda: TrainingConfig(max_minutes=10), description="Recipe and length."
    )
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig, description="Learning without masks.")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Windows over whole scans.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Records of the runs.")
    output: OutputConfig = Field(default_factory=OutputConfig, description="Files that commands write.")
    runs: str = Field("runs", description="Folder of runs.")

    @model_validator(mode="after")
    def _rules_name_labels(self) -> Self:
        if unknown := set(self.prepare.keep_largest) - set(self.data.labels):
            raise ValueError(
                f"prepare.keep_largest: no such label: {', '.join(sorted(unknown))}; labels are {', '.join(self.data.labels)}"
            )
        return self
