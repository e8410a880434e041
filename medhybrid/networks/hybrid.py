"""The segmentation network in five kinds. They share their parts, so that comparisons show the effect of a single part.

hybrid        residual encoder, Transformer at the bottleneck, convolutional decoder
resnet        the hybrid without its Transformer
identity      the hybrid without Transformer blocks; the projections to tokens and back remain
interleave    attention after each residual block of the last two stages, on the token grid of the bottleneck
transformer   patch embedding instead of the encoder
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.attention_branch import AttentionBranch
from medhybrid.networks.blocks import CUBE, Stride
from medhybrid.networks.decoder import Decoder
from medhybrid.networks.encoder import PatchEmbedding, ResidualEncoder
from medhybrid.networks.logits import Logits
from medhybrid.networks.regions import RegionScores
from medhybrid.networks.study_tokens import Study, StudyTokens


class SegmentationNetwork(nn.Module):
    """Network from an image (B, C, X, Y, Z) to logits; X, Y and Z must be multiples of the total stride."""

    def __init__(
        self,
        config: NetworkConfig,
        *,
        n_channels: int,
        n_classes: int,
        strides: tuple[Stride, ...],
        kernels: tuple[Stride, ...] = (),
        token_mm: tuple[float, float, float],
        has_optional_channels: bool = False,
        context: tuple[str, ...] = (),
        regions: RegionScores | None = None,
    ) -> None:
        super().__init__()
        widths = config.widths
        if len(strides) != len(widths):
            raise ConfigError(
                "network.widths does not fit the plan: one width for each level",
                expected=f"{len(strides)} widths, for strides {strides}",
                found=f"{len(widths)} widths: {widths}",
            )
        kernels = kernels or (CUBE,) * len(strides)
        if len(kernels) != len(strides) or any(n not in (1, 3) for kernel in kernels for n in kernel):
            raise ConfigError(
                "the plan's kernels do not fit its strides",
                expected=f"{len(strides)} kernels of 1 or 3 along each axis",
                found=str(kernels),
            )
        self.config, self.n_context, self.regions = config, len(context), regions
        total = np.prod(strides, axis=0)
        self.total_stride: Stride = (int(total[0]), int(total[1]), int(total[2]))
        n_presence = n_channels if config.presence_tokens and has_optional_channels else 0
        self.asks_presence = n_presence > 0

        def study_tokens() -> StudyTokens | None:
            return StudyTokens(n_presence, context, config.token_width) if n_presence or context else None

        def branch(width: int, depth: int, pool: Stride = (1, 1, 1), *, starts_at_zero: bool = True) -> AttentionBranch:
            return AttentionBranch(
                width,
                config,
                depth=depth,
                pool=pool,
                token_mm=token_mm,
                study_tokens=study_tokens() if depth else None,
                starts_at_zero=starts_at_zero,
            )

        has_encoder = config.kind != "transformer"
        self.encoder: nn.Module
        if has_encoder:
            encoder = ResidualEncoder(n_channels, widths, config.blocks, strides, kernels)
            if config.kind == "interleave":
                encoder.interleave(lambda level, pool: branch(widths[level], config.interleave_depth, pool), strides)
            self.encoder = encoder
        else:
            self.encoder = PatchEmbedding(n_channels, widths[-1], self.total_stride)
        self.bottleneck: AttentionBranch | None = None
        if config.kind in ("hybrid", "identity", "transformer"):
            depth = 0 if config.kind == "identity" else config.depth
            self.bottleneck = branch(widths[-1], depth, starts_at_zero=has_encoder)
        self.decoder = Decoder(
            n_channels,
            widths,
            strides,
            kernels,
            n_classes=n_classes,
            head_width=config.head_width,
            has_skips=has_encoder,
        )

    def study_of(self, image: Tensor, context: Tensor | None = None) -> Study:
        """Return the metadata of images (B, C, X, Y, Z).

        A channel that is 0 everywhere counts as absent, if the network has presence tokens. Without `context`, all fields are
        absent.
        """
        presence = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
        if self.asks_presence:
            presence = image.detach().flatten(2).abs().amax(2) > 0  # (B, C)
        if context is None:
            context = torch.full((image.shape[0], self.n_context), torch.nan, device=image.device)
        return Study(presence, context)

    def coarsest_map(self, image: Tensor) -> Tensor:
        """Return the coarsest map (B, D, X/s, Y/s, Z/s) of images (B, C, X, Y, Z), which the decoder starts from."""
        study = self.study_of(image)
        x: Tensor = self.encoder(image, study)[-1]
        return x if self.bottleneck is None else self.bottleneck(x, study)

    def forward(self, image: Tensor, context: Tensor | None = None, stem_features: Tensor | None = None) -> Logits:
        """Compute the logits of images (B, C, X, Y, Z).

        Parameters
        ----------
        context : (B, F) Tensor, optional
            Values of the metadata fields, NaN where absent.
        stem_features : Tensor, optional
            Output of `encoder.apply_stem` for the images, if it is computed elsewhere.
        """
        study = self.study_of(image, context)
        *skips, x = self.encoder(image, study) if stem_features is None else self.encoder(image, study, stem_features)
        if self.bottleneck is not None:
            x = self.bottleneck(x, study)
        finer = list(reversed(skips)) or [None] * (len(self.config.widths) - 1)
        full, auxiliary = self.decoder(image, x, finer)
        if self.regions is not None and not self.training:
            full = self.regions(full)
        return Logits(full, auxiliary)
