"""The convolutional parts: convolution with norm and activation, and the residual block.

Shapes: B batch, C channels, X Y Z space.
"""

from __future__ import annotations

from torch import Tensor, nn

Stride = tuple[int, int, int]

SLOPE = 0.01
"""Negative slope of the leaky rectifier."""


class ConvNormAct(nn.Sequential):
    """3x3x3 convolution, instance norm, leaky rectifier: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s)."""

    def __init__(self, channels: int, width: int, stride: Stride = (1, 1, 1)) -> None:
        super().__init__(
            nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.InstanceNorm3d(width, affine=True),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the branch starts at zero, so that a deep network begins as a shallow one."""

    def __init__(self, channels: int, width: int, stride: Stride = (1, 1, 1)) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, width, stride)
        self.second = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm3d(width, affine=True)
        nn.init.zeros_(self.norm.weight)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width or stride != (1, 1, 1):
            pool: nn.Module = nn.AvgPool3d(stride, stride) if stride != (1, 1, 1) else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv3d(channels, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s)."""
        out: Tensor = self.act(self.norm(self.second(self.first(x))) + self.shortcut(x))
        return out
