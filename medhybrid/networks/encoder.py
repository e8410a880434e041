"""The residual encoder, and the patch embedding that stands in its place in the pure Transformer."""

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
    """A strided stem and one stage of residual blocks a level.

    The stem halves the picture at once: two layers at full size would cost as much as all the rest.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int], strides: Sequence[Stride]) -> None:
        super().__init__()
        self.stem = ConvNormAct(channels, widths[0], strides[0])
        self.stages = nn.ModuleList()
        previous = widths[0]
        for level, (width, n_blocks) in enumerate(zip(widths, blocks, strict=True)):
            stride = (1, 1, 1) if level == 0 else strides[level]
            first = ResidualBlock(previous, width, stride)
            rest = [ResidualBlock(width, width) for _ in range(n_blocks - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            previous = width
        self.n_blocks = tuple(blocks)
        self.branches = nn.ModuleList(nn.ModuleList() for _ in widths)

    def interleave(self, make: Callable[[int, Stride], AttentionBranch], strides: Sequence[Stride]) -> None:
        """Put attention after each residual block of the last two stages; all of it sees the coarsest level's token grid.

        Parameters
        ----------
        make : callable
            A branch for (level, voxels of its map a token).
        """
        last = len(self.stages) - 1
        for level in (last - 1, last):
            pool = strides[last] if level < last else (1, 1, 1)
            self.branches[level] = nn.ModuleList(make(level, pool) for _ in range(self.n_blocks[level]))

    def forward(self, x: Tensor, study: Study, begun: Tensor | None = None) -> list[Tensor]:
        """(B, C, X, Y, Z), what is known of the studies, and what `begin` gives -> one map a level, from fine to coarse."""
        x = self.begin(x) if begun is None else begun
        maps = []
        for stage, branches in zip(self.stages, self.branches, strict=True):
            for block, branch in zip_longest(cast(nn.Sequential, stage), cast(nn.ModuleList, branches)):
                x = block(x)
                if branch is not None:
                    x = branch(x, study)
            maps.append(x)
        return maps

    def begin(self, x: Tensor) -> Tensor:
        """The stem: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s).

        In evaluation always in float32: a picture rounded to bf16 is most of what bf16 changes in a mask.
        """
        if self.training or not torch.is_autocast_enabled(x.device.type):
            return cast(Tensor, self.stem(x))
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.stem(x.float()))


class PatchEmbedding(nn.Module):
    """One convolution from the picture to the coarsest level; there are no finer maps."""

    def __init__(self, channels: int, width: int, total_stride: Stride) -> None:
        super().__init__()
        self.project = nn.Conv3d(channels, width, total_stride, stride=total_stride)

    def forward(self, x: Tensor, study: Study) -> list[Tensor]:
        """(B, C, X, Y, Z) -> one coarse map."""
        return [self.project(x)]
