"""Convolutional blocks: convolution with norm and activation, up- and downsampling, and the residual block.

Shapes: B batch, C channels, X Y Z space.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_exporting

Stride = tuple[int, int, int]

SLOPE = 0.01
"""Negative slope of the leaky rectifier."""


class InstanceNorm(nn.InstanceNorm3d):
    """Instance norm that keeps the channels-last memory format.

    On CPUs, each sample passes batch norm alone. This gives the values of instance norm and needs no copy of the tensor.

    A batch of one takes this path on every device. Torch 2.13 computes a wrong gradient for a batch of one in its own layer
    if the incoming gradient is in channels-last format. Export uses torch's layer, which accepts any input size.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each sample and channel: (B, C, X, Y, Z) -> (B, C, X, Y, Z)."""
        if is_exporting() or (x.device.type != "cpu" and len(x) > 1):
            return super().forward(x)
        samples = [
            F.batch_norm(one, None, None, self.weight, self.bias, True, 0.0, self.eps) for one in torch.split(x, 1)
        ]
        return torch.cat(samples) if len(samples) > 1 else samples[0]


class Upsample(nn.ConvTranspose3d):
    """Transposed convolution whose kernel size equals its stride.

    On CPUs it is computed as one matrix product and one copy, which is faster there.
    """

    def __init__(self, channels: int, width: int, stride: Stride) -> None:
        super().__init__(channels, width, stride, stride=stride)

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Upsample a map and append the channels of `beside`: (B, C, X, Y, Z) -> (B, width [+ C'], X*s, Y*s, Z*s)."""
        if is_exporting() or x.device.type != "cpu":
            y = super().forward(x)
            return y if beside is None else torch.cat((y, beside.to(y.dtype)), dim=1)
        batch, channels, nx, ny, nz = x.shape
        width, sx, sy, sz = self.weight.shape[1:]
        kernel = self.weight.permute(2, 3, 4, 1, 0).reshape(-1, channels)  # (s s s width, C)
        assert self.bias is not None
        y = F.linear(x.permute(0, 2, 3, 4, 1), kernel, self.bias.repeat(sx * sy * sz))  # (B, X, Y, Z, s s s width)
        y = y.view(batch, nx, ny, nz, sx, sy, sz, width).permute(0, 1, 4, 2, 5, 3, 6, 7)
        if beside is not None:
            # Concatenate before the reshape below, which copies anyway. Channels are the last axis in memory.
            other = beside.to(y.dtype).permute(0, 2, 3, 4, 1)
            y = torch.cat((y, other.reshape(batch, nx, sx, ny, sy, nz, sz, -1)), dim=-1)
        return y.reshape(batch, nx * sx, ny * sy, nz * sz, -1).permute(0, 4, 1, 2, 3)  # channels last in memory


CUBE = (3, 3, 3)
"""Size of a convolution, unless it is 1 along the axis of single slices."""


def padding_of(kernel: Stride) -> Stride:
    """Return the padding with which a convolution keeps the size of its map."""
    x, y, z = (n // 2 for n in kernel)
    return x, y, z


class ConvNormAct(nn.Sequential):
    """Convolution, instance norm, leaky rectifier: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s)."""

    def __init__(self, channels: int, width: int, stride: Stride = (1, 1, 1), kernel: Stride = CUBE) -> None:
        super().__init__(
            nn.Conv3d(channels, width, kernel, stride=stride, padding=padding_of(kernel), bias=False),
            InstanceNorm(width),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class Shortcut(nn.Sequential):
    """Mean pooling by `stride` and a 1x1x1 convolution: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s).

    On CPUs both are one convolution whose kernel is the pooling cell, because torch's mean pooling lacks bf16 there. In a
    deterministic training they are so on GPUs as well, where the gradient of mean pooling has no deterministic algorithm.
    """

    def __init__(self, channels: int, width: int, stride: Stride) -> None:
        pool = nn.Identity() if stride == (1, 1, 1) else nn.AvgPool3d(stride, stride)
        super().__init__(pool, nn.Conv3d(channels, width, 1, bias=False))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply pooling and projection: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s)."""
        is_pooled = x.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled()
        if is_exporting() or is_pooled or self.stride == (1, 1, 1):
            out: Tensor = self[1](self[0](x))
            return out
        weight = cast(nn.Conv3d, self[1]).weight
        return F.conv3d(x, weight.expand(-1, -1, *self.stride) / math.prod(self.stride), stride=self.stride)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016).

    The last norm of the branch is initialised with zeros, so that an untrained block passes on its shortcut only.
    """

    def __init__(self, channels: int, width: int, stride: Stride = (1, 1, 1), kernel: Stride = CUBE) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, width, stride, kernel)
        self.second = nn.Conv3d(width, width, kernel, padding=padding_of(kernel), bias=False)
        self.norm = InstanceNorm(width)
        nn.init.zeros_(self.norm.weight)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        has_other_shape = channels != width or stride != (1, 1, 1)
        self.shortcut = Shortcut(channels, width, stride) if has_other_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, C, X, Y, Z) -> (B, width, X/s, Y/s, Z/s)."""
        out: Tensor = self.act(self.norm(self.second(self.first(x))) + self.shortcut(x))
        return out
