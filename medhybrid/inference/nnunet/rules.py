"""nnU-Net's steps before and after the network, as an imported model records them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Scheme = Literal[
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
]
"""nnU-Net's name of an intensity normalisation."""

VoxelSize = Literal["scan", "pixels", "beside"]
"""Voxel size that nnU-Net's reader gives a scan: that of the scan, 1 for each pixel, or that of a file beside a TIFF."""


class Channel(BaseModel):
    """Intensity normalisation of a channel.

    Attributes
    ----------
    in_mask : bool
        Use only voxels inside the non-zero region (z-score), which leaves the others at 0.
    low, high, mean, deviation : float
        Intensities of the training data, for CT: percentiles 0.5 and 99.5, mean and standard deviation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Scheme
    in_mask: bool = False
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0


class Resampling(BaseModel):
    """nnU-Net's resampling of images or logits.

    Attributes
    ----------
    order : int
        Degree of the spline; 1 is linear.
    order_across : int
        Degree across slices, where these are resampled separately.
    separate : bool, optional
        Resample slices separately: always, never, or (None) if one spacing is more than `threshold` times another.
    is_off : bool
        Nothing is resampled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: int = Field(3, ge=0, le=5)
    order_across: int = Field(0, ge=0, le=5)
    separate: bool | None = None
    threshold: float = 3.0
    is_off: bool = False


class NnUNetRules(BaseModel):
    """nnU-Net's steps before and after the network.

    Attributes
    ----------
    configuration : str
        Name of the configuration, such as `3d_fullres`.
    trainer : str
        nnU-Net's name of the trainer.
    folds : tuple of str
        Folds whose networks are averaged.
    orientation : str
        `stored`: the axes as they are in the file. `RAS`: nearest to RAS, for models trained through a reorienting reader.
    slice_axis : int, optional
        Axis along which a two-dimensional model goes slice by slice, whose spacing it keeps.
    voxel_size : str
        `scan`: that of the scan. `pixels`: pixels count as 1 mm, in models of PNG and other image files. `beside`: for a TIFF,
        that of the JSON file beside it, or 1 mm.
    regions : tuple of int
        With regions, the class 1..n of each region's logit; a later region is drawn over an earlier one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    configuration: str
    trainer: str
    folds: tuple[str, ...]
    orientation: Literal["stored", "RAS"] = "stored"
    slice_axis: int | None = Field(None, ge=0, le=2)
    voxel_size: VoxelSize = "scan"
    channels: tuple[Channel, ...]
    images: Resampling
    logits: Resampling
    regions: tuple[int, ...] = ()
