"""Models of a study's configuration: all settings, each with its meaning and default.

A `StudyConfig` is read once, checked as a whole, saved with the results, and passed on as an argument. Nothing else
(no environment variable, no global variable of a module) changes a result.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from medhybrid.config.base import Frozen, mode_text
from medhybrid.config.data import DataConfig, ScansConfig

Length = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class PrepareConfig(Frozen):
    """Settings of preprocessing, from scans to prepared cases. The plan's rules choose the settings that are null."""

    folder: str = Field(
        "prepared",
        description="Folder or URL (s3://...) of prepared datasets. Each study has a subfolder with its name.",
    )
    spacing_mm: tuple[Length, Length, Length] | None = Field(None, description="Voxel spacing of the network's grid.")
    patch_size: tuple[Count, Count, Count] | None = Field(
        None, description="Patch size in voxels of the network's grid."
    )
    batch_size: int | None = Field(None, ge=1, description="Patches per training step.")
    max_patch_voxels: int | None = Field(
        None, ge=4_096, description="Largest patch, in voxels, that the plan chooses; null lets the budget decide."
    )
    mirror_axes: tuple[int, ...] | None = Field(
        None,
        description="Axes that may be mirrored, in augmentation and test-time mirroring: 0 left-right, 1 posterior-anterior, "
        "2 inferior-superior. Null mirrors left-right where this gives correct labels. Mirroring along 0 exchanges labels "
        "that form pairs of sides (`left_kidney`, `right_kidney`).",
    )
    keep_largest: tuple[str, ...] = Field(
        (), description="Labels, or regions, of which only the largest component is kept in predicted masks."
    )
    min_component_ml: float = Field(
        0.0, ge=0, description="Components below this volume are removed from predicted masks."
    )
    max_affine_error_mm: float = Field(
        0.01, gt=0, description="Largest accepted distance between the corners of image and mask."
    )
    blank_copied_channels: bool = Field(
        True, description="Treat an optional channel that is a copy of another as missing (zeros)."
    )
    workers: int = Field(
        0, ge=0, description="Processes for preprocessing. 0 uses one per CPU core, as far as memory allows."
    )


class NetworkSettings(Frozen):
    """Architecture of the network. Its strides come from the plan, and so do the values that are null."""

    kind: Literal["hybrid", "resnet", "identity", "interleave", "transformer", "transunet"] = Field(
        "hybrid",
        description="`hybrid`: convolutions with a Transformer at the bottleneck; `interleave`: attention after each residual "
        "block of the last two stages; `resnet`: convolutions only; `transformer`: a patch embedding in place of the encoder; "
        "`identity`: the hybrid without its Transformer blocks; `transunet`: the published 2D network, slice by slice "
        "(`transunet_2d.yaml`).",
    )
    preset: Literal["auto", "S", "M", "L", "XL"] = Field(
        "auto",
        description="Size of the network, for the values below that are null: from about 3 million parameters (S) to about "
        "93 million (XL). `auto` lets the plan choose.",
    )
    widths: tuple[int, ...] | None = Field(None, description="Channels of each residual stage.")
    blocks: tuple[int, ...] | None = Field(None, description="Residual blocks of each stage.")
    token_width: int | None = Field(None, ge=8, description="Embedding width of the Transformer.")
    depth: int | None = Field(None, ge=0, description="Transformer blocks.")
    interleave_depth: int = Field(1, ge=1, description="Transformer blocks after each residual block of `interleave`.")
    presence_tokens: bool = Field(
        True, description="With optional channels: one token per channel that encodes whether the channel is present."
    )
    heads: int | None = Field(None, ge=1, description="Attention heads.")
    drop_path: float = Field(0.1, ge=0, lt=1, description="Rate of stochastic depth at the last Transformer block.")
    head_width: int | None = Field(None, ge=4, description="Channels of the decoder at full resolution.")
    deep_supervision: bool = Field(True, description="Auxiliary output at half resolution, for deep supervision.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.widths is not None and self.blocks is not None and len(self.widths) != len(self.blocks):
            raise ValueError(f"widths and blocks must have one entry per stage, found {self.widths} and {self.blocks}")
        if self.widths is not None and len(self.widths) < 2:
            raise ValueError("widths: at least two stages are needed")
        if self.token_width is not None and self.heads is not None and self.token_width % self.heads:
            raise ValueError(f"token_width {self.token_width} must be a multiple of heads {self.heads}")
        return self


class NetworkConfig(NetworkSettings):
    """Architecture of a network with all values set: those of the config, and of a preset for the others."""

    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 2)
    token_width: int = Field(192, ge=8)
    depth: int = Field(2, ge=0)
    heads: int = Field(6, ge=1)
    head_width: int = Field(16, ge=4)


class AugmentConfig(Frozen):
    """Random augmentation of training patches. Each patch is augmented independently."""

    enabled: bool = Field(True, description="False trains on patches without augmentation.")
    affine_probability: float = Field(
        0.5, ge=0, le=1, description="Probability of rotation, scaling and elastic deformation together."
    )
    rotation_degrees: float = Field(
        20.0,
        ge=0,
        description="Largest rotation in the plane of the slices. Out of this plane, up to two thirds of it; with slices more "
        "than twice as thick as the pixels, a third.",
    )
    scale: float = Field(0.2, ge=0, lt=1, description="Largest relative change of size.")
    elastic_mm: float = Field(
        2.0, ge=0, description="Standard deviation of the displacement at the control points of elastic deformation."
    )
    mirror_probability: float = Field(
        0.5, ge=0, le=1, description="Probability of mirroring, for each of `prepare.mirror_axes`."
    )
    noise: float = Field(
        0.1, ge=0, description="Largest standard deviation of Gaussian noise, in normalised intensities."
    )
    brightness: float = Field(0.2, ge=0, description="Largest brightness shift, in normalised intensities.")
    contrast: float = Field(0.25, ge=0, lt=1, description="Largest relative change of contrast.")
    gamma: float = Field(
        0.3, ge=0, lt=1, description="Largest absolute logarithm of the exponent of the gamma transform."
    )
    low_resolution_probability: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Probability of downsampling a patch by a factor of up to 2 and upsampling it again.",
    )
    intensity_probability: float = Field(
        0.3, ge=0, le=1, description="Probability of each of noise, brightness, contrast and gamma."
    )
    paste_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of pasting the foreground of another patch of the batch into this one (as in CarveMix). "
        "For lesions.",
    )
    paste_margin_mm: float = Field(
        8.0,
        ge=0,
        description="Largest margin around the pasted foreground. It is drawn from a quarter of this value up.",
    )
    drop_channel_probability: float = Field(
        0.25, ge=0, le=1, description="Probability of blanking, for each optional channel."
    )
    drop_context_probability: float = Field(
        0.25, ge=0, le=1, description="Probability of dropping, for each value of `data.context`."
    )


class StageConfig(Frozen):
    """Stage of a training. Weights are named by part (`encoder`, `transformer`, `decoder`, `all`) or pattern (`*.norm.*`)."""

    name: str | None = Field(None, description="Name of the stage; null joins the names in `train`.")
    train: tuple[str, ...] = Field(
        ("all",), min_length=1, description="Parts or patterns that are trained; all others are frozen."
    )
    share: float = Field(
        gt=0, description="Relative length of the stage. It is divided by the sum of the shares of all stages."
    )
    peak_rate: float | None = Field(
        None, gt=0, description="Learning rate after warm-up; null uses `training.peak_rate`."
    )
    rates: dict[str, float] = Field(
        {}, description="Factors of the learning rate by part or pattern. If several match, the last one is used."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Layer-wise decay: factor of the learning rate from each layer to the one before it.",
    )

    @model_validator(mode="after")
    def _rates_are_rates(self) -> Self:
        if bad := {k: v for k, v in self.rates.items() if v < 0}:
            raise ValueError(f"rates: factors must not be negative, found {bad}")
        return self


PrecisionName = Literal["auto", "bf16", "fp16", "tf32", "float32"]

PRECISION = (
    "`auto` is the fastest one that the processor has in hardware: bf16, else fp16 (GPUs of compute capability 7.0 and 7.5), "
    "else float32. `tf32` is float32 with products that a GPU rounds to 11 bits; `float32` is exact."
)

ALL_CASES: Literal["all"] = "all"
"""Value of `training.fold` with which every case trains and none validates."""

OWN_LOSS: Literal["own"] = "own"
"""Value of `training.loss` in the record of a run that was trained with a function of the user."""

BACKGROUND = "background"


class TrainingConfig(Frozen):
    """Training settings: length, loss, optimiser, pretrained weights, validation."""

    renamed: ClassVar[dict[str, str]] = {
        "start": "pretrained",
        "start_parts": "pretrained_parts",
        "inner": "inner_fold",
    }

    max_minutes: float | None = Field(None, gt=0, description="Length in minutes, without the final validation.")
    iterations: int | None = Field(None, ge=1, description="Length in optimiser steps.")
    fold: int | Literal["all"] = Field(
        0,
        description="Fold of the cross-validation. `all` trains on every case: nothing is validated, and the confidence is not "
        "calibrated.",
    )
    seed: int = Field(0, description="Seed for initial weights, sampling and augmentation.")
    optimiser: Literal["muon", "adamw"] = Field(
        "muon",
        description="`muon` orthogonalises the updates of convolutions and linear layers, with AdamW for the other weights; "
        "`adamw` uses AdamW for all.",
    )
    loss: Literal["dice_ce", "dice_focal", "tversky", "tversky_ce", "ce", "own"] = Field(
        "dice_ce",
        description="Loss: `dice_ce` (Dice and cross entropy), `dice_focal` (Dice and focal loss: hard voxels weigh more), "
        "`tversky` (missed voxels and false ones have different weights), `tversky_ce` (Tversky and cross entropy) or `ce` "
        "(cross entropy alone). `own` records a function that was given with the call (docs/how-to/training-options.md).",
    )
    focal_gamma: float = Field(
        2.0, ge=1, le=5, description="Focusing exponent of `dice_focal`: a higher one gives less weight to easy voxels."
    )
    tversky_alpha: float = Field(
        0.3, ge=0, le=1, description="Weight of false positives in the Tversky loss; 0.5 for both is Dice."
    )
    tversky_beta: float = Field(
        0.7, ge=0, le=1, description="Weight of false negatives in the Tversky loss; a higher one gives larger masks."
    )
    class_weights: Literal["balanced"] | tuple[float, ...] | dict[str, float] | None = Field(
        None,
        description="Weights of the classes in the cross entropy or focal loss. `balanced` derives them from the volumes in "
        "the training cases (0.1 to 10). A table names classes (`{tumour: 2}`; the others have 1). A list has `background` "
        "first, then the labels. Regions have no `background`.",
    )
    peak_rate: float = Field(2e-3, gt=0, description="Learning rate after warm-up.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    final_rate_share: float = Field(
        0.01, ge=0, le=1, description="Learning rate at the end of the cosine schedule, as share of the peak."
    )
    betas: tuple[float, float] = Field((0.9, 0.99), description="Decay rates of AdamW's moments.")
    weight_decay: float = Field(
        0.02, ge=0, description="Weight decay; normalisation layers and biases have no weight decay."
    )
    gradient_clip: float = Field(3.0, gt=0, description="Largest gradient norm; a larger gradient is scaled to it.")
    ema: float = Field(
        0.995,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which is validated and saved.",
    )
    inner_fold: int | None = Field(
        None,
        ge=0,
        description="Inner validation split, for choosing settings. The fold's training cases are divided into `data.n_folds` "
        "parts, and this part validates. The fold's own validation cases are not used.",
    )
    max_cases: int | None = Field(
        None, ge=1, description="Highest number of training cases. They are drawn with `data.split_seed`."
    )
    pretrained: str | None = Field(
        None,
        description="Pretrained weights to initialise from: a run folder, a model folder or a file (.safetensors, .npz, .pt). "
        "Weights that do not fit the network are skipped.",
    )
    pretrained_parts: tuple[str, ...] = Field(
        ("all",), min_length=1, description="Parts of the network that are initialised from the pretrained weights."
    )
    stages: tuple[StageConfig, ...] = Field(
        (),
        description="Successive stages, each with a warm-up and a cosine schedule. Without stages, all weights are trained.",
    )
    auxiliary_weight: float = Field(0.3, ge=0, description="Weight of the auxiliary loss at half resolution.")
    foreground_share: float = Field(
        1 / 3, ge=0, le=1, description="Share of patches that are drawn around a foreground voxel."
    )
    keep: Literal["final", "best"] = Field(
        "final",
        description="Weights of the model: the `final` ones at the end of the schedule, or those with the `best` validation. "
        "With `best`, the validation score is no longer independent. An interrupted run keeps its best weights.",
    )
    n_validations: int = Field(
        6, ge=1, description="Number of validations during the run. The last one uses all validation cases."
    )
    validation_cases: int = Field(12, ge=1, description="Number of cases for each validation before the last.")
    checkpoint_minutes: float = Field(2.0, gt=0, description="Minutes between checkpoints.")
    workers: int = Field(2, ge=0, description="Threads that read patches. The samples do not depend on their number.")
    precision: PrecisionName = Field("auto", description=PRECISION)
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device for training; `auto` is a CUDA GPU if there is one, otherwise the CPU."
    )
    deterministic: bool = Field(
        False,
        description="Train reproducibly: bit-identical weights on the same host. It needs `training.iterations`.",
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.max_minutes is None) == (self.iterations is None):
            raise ValueError("give exactly one of max_minutes and iterations")
        if self.deterministic and self.iterations is None:
            raise ValueError("deterministic needs iterations (and max_minutes: null): a time limit is not reproducible")
        return self

    @property
    def has_validation(self) -> bool:
        """Return whether cases validate the training; with `fold: all`, every case trains."""
        return self.fold != ALL_CASES

    @field_validator("fold", mode="before")
    @classmethod
    def _fold_is_one(cls, value: object) -> object:
        if value == ALL_CASES or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        raise ValueError("expected the number of a fold, from 0, or all")

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_are_numbers(cls, value: object) -> object:
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
        is_known = value in (None, "balanced") if numbers is None else bool(numbers)
        if not is_known or not all(_is_weight(n) for n in numbers or ()):
            raise ValueError("expected null, balanced, or numbers from 0, as a list or by name ({tumour: 2})")
        return value

    @model_validator(mode="after")
    def _needs_no_validation_without_cases(self) -> Self:
        if not self.has_validation and self.inner_fold is not None:
            raise ValueError("inner_fold divides the training cases of a fold; set fold to a number, not to all")
        if not self.has_validation and self.keep == "best":
            raise ValueError("keep: best needs validation, which fold: all does not have; set keep: final")
        return self

    @model_validator(mode="after")
    def _loss_is_usable(self) -> Self:
        if self.loss in ("tversky", "tversky_ce") and not self.tversky_alpha + self.tversky_beta > 0:
            raise ValueError("tversky_alpha and tversky_beta are both 0: every mask would have the loss 0")
        if self.class_weights is not None and self.loss in ("tversky", "own"):
            raise ValueError(
                f"class_weights has no effect with loss: {self.loss}; it weights the cross entropy or focal loss "
                "(dice_ce, dice_focal, tversky_ce, ce)"
            )
        return self


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


class PretrainConfig(Frozen):
    """Self-supervised pretraining on scans without masks: the network reconstructs the image at masked tokens."""

    renamed: ClassVar[dict[str, str]] = {"hidden_share": "mask_ratio"}

    mask_ratio: float = Field(0.6, gt=0, lt=1, description="Share of the tokens that are masked.")


class InferenceConfig(Frozen):
    """Sliding-window inference on whole scans, also for validation."""

    renamed: ClassVar[dict[str, str]] = {"mirror": "tta_mirroring"}

    overlap: float = Field(0.5, ge=0, lt=1, description="Overlap of neighbouring windows, as share of the window.")
    window_batch: int = Field(2, ge=1, description="Windows per batch.")
    tta_mirroring: bool = Field(
        True, description="Test-time mirroring: average the predictions of inputs mirrored along `prepare.mirror_axes`."
    )
    skip_air: bool = Field(True, description="Skip windows in which all channels are blank.")
    precision: PrecisionName = Field("auto", description=PRECISION)
    focus: bool = Field(
        False,
        description="Compute large scans once without overlap, and then overlapping windows only near labels that this finds. "
        "All other voxels are background. The scan's message has the share of the volume that was computed closely.",
    )

    def text_for_hash(self) -> str:
        """Return JSON that is the same as before there was `focus`, if that is off."""
        return super().text_for_hash() if self.focus else super().text_for_hash().replace(',"focus":false', "")


class TrackingConfig(Frozen):
    """Experiment tracking."""

    kind: Literal["mlflow", "jsonl", "none"] = Field(
        "mlflow", description="Store for runs, in addition to the file `log.jsonl` of each run."
    )
    uri: str | None = Field(
        None, description="MLflow tracking URI; null uses `MLFLOW_TRACKING_URI`, else `runs/mlflow.db`."
    )
    experiment: str | None = Field(
        None, description="MLflow experiment; null uses `MLFLOW_EXPERIMENT_NAME`, else the study's `name`."
    )
    log_report: bool = Field(
        True, description="Log `report.html`, which contains voxels of scans. False keeps it in the run folder only."
    )
    register_model: bool = Field(True, description="Register the model in MLflow under the study's name.")
    alias: str = Field("newest", description="Alias of the registered model version.")
    tags: dict[str, str] = Field(
        default_factory=dict,
        description="Tags of the MLflow runs of this study, for example `{scanner: A, aim: paper}`.",
    )

    @field_validator("tags")
    @classmethod
    def _names_of_tags_are_usable(cls, tags: dict[str, str]) -> dict[str, str]:
        for name in tags:
            if not re.fullmatch(r"[\w.\-/: ]{1,200}", name) or name.startswith(("mlflow.", "medhybrid.")):
                allowed = "letters, digits and . - _ / :, without mlflow. or medhybrid. at the start"
                raise ValueError(f"tags: {name!r} is not a usable name: use {allowed}")
        return tags


class OutputConfig(Frozen):
    """Output files of the command line."""

    mode: str = Field(
        "0600",
        description="Permissions of files that may contain patient data, for example 0600 or 0640. Folders get the same, and "
        "can be entered.",
    )

    _mode_is_one = field_validator("mode", mode="before")(mode_text)


class StudyConfig(Frozen):
    """Configuration of a study: data, network, training, tracking."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the study, also of its folders.")
    data: DataConfig = Field(description="Scans, masks, channels and labels.")
    scans: ScansConfig = Field(default_factory=ScansConfig, description="Options for reading scans.")
    prepare: PrepareConfig = Field(default_factory=PrepareConfig, description="Preprocessing.")
    network: NetworkSettings = Field(default_factory=NetworkSettings, description="Architecture of the network.")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="Augmentation of training patches.")
    training: TrainingConfig = Field(
        default_factory=lambda: TrainingConfig(max_minutes=10), description="Training settings and length."
    )
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig, description="Self-supervised pretraining.")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Sliding-window inference.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Experiment tracking.")
    output: OutputConfig = Field(default_factory=OutputConfig, description="Output files of commands.")
    runs: str = Field("runs", description="Folder of training runs.")

    @model_validator(mode="after")
    def _rules_name_labels(self) -> Self:
        structures = self.data.regions or self.data.labels
        if unknown := set(self.prepare.keep_largest) - set(structures):
            kind = "region" if self.data.regions else "label"
            raise ValueError(
                f"prepare.keep_largest: unknown {kind}: {', '.join(sorted(unknown))}; {kind}s are {', '.join(structures)}"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_those_of_the_classes(self) -> Self:
        weights, names = self.training.class_weights, self.weighted_classes
        if isinstance(weights, dict) and (unknown := set(weights) - set(names)):
            raise ValueError(
                f"training.class_weights: unknown class: {', '.join(sorted(unknown))}; classes are {', '.join(names)}"
            )
        if isinstance(weights, tuple) and len(weights) != len(names):
            raise ValueError(
                f"training.class_weights: {len(weights)} numbers for {len(names)} classes ({', '.join(names)})"
            )
        numbers = list(weights.values()) if isinstance(weights, dict) else weights if isinstance(weights, tuple) else ()
        if len(numbers) == len(names) and not any(numbers):
            raise ValueError("training.class_weights: all are 0, so that nothing would be trained")
        return self

    @property
    def weighted_classes(self) -> tuple[str, ...]:
        """Return the names of the classes that `training.class_weights` weights: regions, or background and labels."""
        return tuple(self.data.regions) or (BACKGROUND, *self.data.labels)
