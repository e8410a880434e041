"""The network: residual encoder, Transformer at the bottleneck, convolutional decoder; and its two ends.

`kind: resnet` leaves the Transformer out; `kind: transformer` puts a patch embedding in the encoder's place. All three are
made of the same parts, so that a comparison shows what a part gives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.blocks import Stride
from medhybrid.networks.decoder import Decoder
from medhybrid.networks.encoder import PatchEmbedding, ResidualEncoder
from medhybrid.networks.transformer import Transformer


class Logits(NamedTuple):
    """What the network returns.

    Attributes
    ----------
    full : (B, K, X, Y, Z) Tensor
        K classes, background first.
    auxiliary : (B, K, X/s, Y/s, Z/s) Tensor
        At the first level's size, for deep supervision.
    """

    full: Tensor
    auxiliary: Tensor


class SegmentationNetwork(nn.Module):
    """Image (B, C, X, Y, Z) to logits; the size must be a multiple of the total stride."""

    def __init__(
        self,
        config: NetworkConfig,
        *,
        n_channels: int,
        n_classes: int,
        strides: tuple[Stride, ...],
        token_mm: tuple[float, float, float],
    ) -> None:
        super().__init__()
        widths = config.widths
        if len(strides) != len(widths):
            raise ConfigError("network.widths and the plan's strides differ in length", found=f"{widths}, {strides}")
        self.config = config
        total = np.prod(strides, axis=0)
        self.total_stride: Stride = (int(total[0]), int(total[1]), int(total[2]))
        has_encoder = config.kind != "transformer"
        self.encoder: nn.Module
        if has_encoder:
            self.encoder = ResidualEncoder(n_channels, widths, config.blocks, strides)
        else:
            self.encoder = PatchEmbedding(n_channels, widths[-1], self.total_stride)
        self.transformer: Transformer | None = None
        if config.kind != "resnet":
            self.to_tokens = nn.Conv3d(widths[-1], config.token_width, 1)
            self.transformer = Transformer(
                config.token_width, config.depth, config.heads, drop_path=config.drop_path, token_mm=token_mm
            )
            self.from_tokens = nn.Conv3d(config.token_width, widths[-1], 1)
            if has_encoder:  # the hybrid begins as its ResNet
                nn.init.zeros_(self.from_tokens.weight)
                nn.init.zeros_(self.from_tokens.bias)  # type: ignore[arg-type]
        self.decoder = Decoder(
            n_channels,
            widths,
            strides,
            n_classes=n_classes,
            head_width=config.head_width,
            has_skips=has_encoder,
        )

    def forward(self, image: Tensor) -> Logits:
        """(B, C, X, Y, Z) -> `Logits`."""
        *skips, x = self.encoder(image)
        if self.transformer is not None:
            x = x + self.from_tokens(self.transformer(self.to_tokens(x)))
        finer = list(reversed(skips)) or [None] * (len(self.config.widths) - 1)
        full, auxiliary = self.decoder(image, x, finer)
        return Logits(full, auxiliary)


def build_network(
    config: NetworkConfig,
    *,
    n_channels: int,
    n_labels: int,
    strides: tuple[Stride, ...],
    token_mm: tuple[float, float, float],
) -> SegmentationNetwork:
    """The network for a plan; `n_labels` does not count background."""
    return SegmentationNetwork(
        config, n_channels=n_channels, n_classes=n_labels + 1, strides=strides, token_mm=token_mm
    )
