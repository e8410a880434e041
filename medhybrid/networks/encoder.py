"""The residual encoder, and the patch embedding that stands in its place in the pure Transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medhybrid.networks.blocks import ConvNormAct, ResidualBlock, Stride


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

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y, Z) -> one map a level, from fine to coarse."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class PatchEmbedding(nn.Module):
    """One convolution from the picture to the coarsest level; there are no finer maps."""

    def __init__(self, channels: int, width: int, total_stride: Stride) -> None:
        super().__init__()
        self.project = nn.Conv3d(channels, width, total_stride, stride=total_stride)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y, Z) -> one coarse map."""
        return [self.project(x)]
