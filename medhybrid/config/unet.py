"""Architecture of an imported U-Net."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Size = tuple[int, int, int]


class UNetConfig(BaseModel):
    """Architecture of a U-Net of nnU-Net; sizes in the order of the scan's axes.

    Attributes
    ----------
    kind : str
        `plain_conv_unet` (PlainConvUNet) or `residual_encoder_unet` (ResidualEncoderUNet).
    widths, blocks, kernels, strides : tuple
        Channels, convolutions or residual blocks, kernel size and stride of each stage of the encoder. A two-dimensional
        network has kernels and strides of 1 across its slices.
    decoder_blocks : tuple of int
        Convolutions of each stage of the decoder, from coarse to fine.
    outputs : int
        Number of logits: classes with background, or regions.
    n_folds : int
        Networks whose logits are averaged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["plain_conv_unet", "residual_encoder_unet"]
    channels: int = Field(ge=1, le=64)
    outputs: int = Field(ge=1, le=256)
    widths: tuple[int, ...] = Field(min_length=2, max_length=12)
    blocks: tuple[int, ...] = Field(min_length=2, max_length=12)
    kernels: tuple[Size, ...] = Field(min_length=2, max_length=12)
    strides: tuple[Size, ...] = Field(min_length=2, max_length=12)
    decoder_blocks: tuple[int, ...] = Field(min_length=1, max_length=11)
    conv_bias: bool = True
    norm: Literal["instance", "batch"] = "instance"
    norm_eps: float = Field(1e-5, gt=0, le=1)
    norm_affine: bool = True
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    negative_slope: float = Field(0.01, ge=0, le=1)
    nonlin_first: bool = False
    n_folds: int = Field(1, ge=1, le=32)

    @model_validator(mode="after")
    def _sizes_are_usable(self) -> Self:
        n = len(self.widths)
        if not len(self.blocks) == len(self.kernels) == len(self.strides) == len(self.decoder_blocks) + 1 == n:
            raise ValueError("blocks, kernels, strides and decoder_blocks need one value for each stage")
        numbers = {"widths": (self.widths, 16_384), "blocks": ((*self.blocks, *self.decoder_blocks), 64)}
        numbers |= {"kernels": (tuple(k for size in self.kernels for k in size), 7)}
        numbers |= {"strides": (tuple(s for size in self.strides for s in size), 8)}
        for name, (values, highest) in numbers.items():
            if not all(1 <= value <= highest for value in values):
                raise ValueError(f"{name} must be from 1 to {highest}")
        return self

    @property
    def heads(self) -> None:
        """Return None: the network has no attention."""
        return
