"""Residual encoder, and the patch embedding that replaces it in the pure Transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import cast

import torch
from torch import Tensor, nn

from medhybrid.networks.attention_branch import AttentionBranch
from medhybrid.networks.blocks import ConvNormAct, ResidualBlock, Stride
from medhybrid.networks.study_tokens import Study


class ResidualEncoder(nn.Module):
    """Strided stem and one stage of residual blocks per level.

    The stem downsamples the image at once: two layers at full size would cost as much as all other layers together.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        strides: Sequence[Stride],
        kernels: Sequence[Stride],
    ) -> None:
        super().__init__()
        self.stem = ConvNormAct(channels, widths[0], strides[0], kernels[0])
        self.stages = nn.ModuleList()
        previous = widths[0]
        for level, (width, n_blocks) in enumerate(zip(widths, blocks, strict=True)):
            stride = (1, 1, 1) if level == 0 else strides[level]
            first = ResidualBlock(previous, width, stride, kernels[level])
            rest = [ResidualBlock(width, width, kernel=kernels[level]) for _ in range(n_blocks - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            previous = width
        self.n_blocks = tuple(blocks)
        self.branches = nn.ModuleList(nn.ModuleList() for _ in widths)

    def interleave(self, make: Callable[[int, Stride], AttentionBranch], strides: Sequence[Stride]) -> None:
        """Add an attention branch after each residual block of the last two stages.

        All branches work on the token grid of the coarsest level.

        Parameters
        ----------
        make : callable
            Returns the branch of a level; arguments are the level and the voxels of its map that form one token.
        """
        last = len(self.stages) - 1
        for level in (last - 1, last):
            pool = strides[last] if level < last else (1, 1, 1)
            self.branches[level] = nn.ModuleList(make(level, pool) for _ in range(self.n_blocks[level]))

    def forward(self, x: Tensor, study: Study, stem_features: Tensor | None = None) -> list[Tensor]:
        """Return one map per level, from fine to coarse.

        Parameters
        ----------
        x : (B, C, X, Y, Z) Tensor
        study : Study
            Metadata of the studies, for the attention branches.
        stem_features : Tensor, optional
            Output of `apply_stem`, if it is computed already.
        """
        x = self.apply_stem(x) if stem_features is None else stem_features
        maps = []
        for stage, branches in zip(self.stages, self.branches, strict=True):
            for block, branch in zip_longest(cast(nn.Sequential, stage), cast(nn.ModuleList, branches)):
                x = block(x)
                if branch is not None:
                    x = branch(x, study)
            maps.append(x)
        return maps

    def apply_stem(self, x: Tensor) -> Tensor:
        """Apply the stem: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s).

        In evaluation it computes in float32: rounding of the input image causes most of the differences in bf16 masks.
        """
        if self.training or not torch.is_autocast_enabled(x.device.type):
            return cast(Tensor, self.stem(x))
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.stem(x.float()))


class PatchEmbedding(nn.Module):
    """Strided convolution from the image to the coarsest level, without finer maps."""

    def __init__(self, channels: int, width: int, total_stride: Stride) -> None:
        super().__init__()
        self.project = nn.Conv3d(channels, width, total_stride, stride=total_stride)

    def forward(self, x: Tensor, study: Study) -> list[Tensor]:
        """Embed the image: (B, C, X, Y, Z) -> list of one map (B, width, X/s, Y/s, Z/s)."""
        return [self.project(x)]
