"""TransUNet as published: a ResNet-50 with weight standardisation, a Vision Transformer on its last map, a cascaded decoder.

It is a 2-D network: each slice (X, Y) of a patch is processed alone, so patches of one slice are best. Kernels are (k, k, 1),
so that the other modules can treat it as a 3-D network. Pretrained ImageNet weights fit one to one (`starts/transunet.py`).
Padding and norms are those of the ImageNet models, so that pretrained features are reproduced.

Shapes: B batch, C channels, X Y Z space, T tokens, D token width.

References
----------
Chen et al. (2021), arXiv:2102.04306; the hybrid R50+ViT of Dosovitskiy et al. (2021), arXiv:2010.11929, appendix B.1; weight
standardisation of Qiao et al. (2019), arXiv:1903.10520.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.logits import Logits
from medhybrid.networks.transformer import Attention

GROUPS = 32
"""Number of groups in the group norms of the ResNet."""

EXPANSION = 4
"""Output channels of a bottleneck block, divided by its inner width."""

STANDARDISATION_EPS = 1e-8

LEARNT_GRID = 14
"""Side of the token grid of the position embeddings: 14 x 14 tokens, for 224 x 224 pixels. Other sizes interpolate them."""


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad (B, C, X, Y, 1) so that a kernel gives ceil(size / stride) outputs; an odd voxel is added at the end."""
    pads: list[int] = [0, 0]  # Z
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


class StandardisedConv(nn.Conv3d):
    """Convolution (k, k, 1) with weight standardisation: each kernel has mean 0 and standard deviation 1."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, width, (kernel, kernel, 1), stride=(stride, stride, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution: (B, C, X, Y, 1) -> (B, width, X/s, Y/s, 1)."""
        variance, mean = torch.var_mean(self.weight.float(), dim=(1, 2, 3, 4), correction=0, keepdim=True)
        kernel = (self.weight - mean) * torch.rsqrt(variance + STANDARDISATION_EPS)
        return F.conv3d(pad_same(x, self.kernel_size[0], self.stride[0]), kernel, stride=self.stride)


class Bottleneck(nn.Module):
    """Residual bottleneck block: 1x1, 3x3 and 1x1 convolutions, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // EXPANSION
        self.conv1, self.norm1 = StandardisedConv(channels, inner, 1), nn.GroupNorm(GROUPS, inner)
        self.conv2, self.norm2 = StandardisedConv(inner, inner, 3, stride), nn.GroupNorm(GROUPS, inner)
        self.conv3, self.norm3 = StandardisedConv(inner, width, 1), nn.GroupNorm(GROUPS, width)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width or stride > 1:
            self.shortcut = nn.Sequential(StandardisedConv(channels, width, 1, stride), nn.GroupNorm(GROUPS, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, C, X, Y, 1) -> (B, width, X/s, Y/s, 1)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


class ImageEncoder(nn.Module):
    """ResNet without its last stage, with maps at 1/2, 1/4, 1/8 and 1/16 of the size."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            StandardisedConv(channels, widths[0], 7, 2), nn.GroupNorm(GROUPS, widths[0]), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        for level in range(1, len(widths)):
            stride = 1 if level == 1 else 2  # the max pooling before level 1 halves the map already
            first = Bottleneck(widths[level - 1], widths[level], stride)
            rest = [Bottleneck(widths[level], widths[level], 1) for _ in range(blocks[level] - 1)]
            self.stages.append(nn.Sequential(first, *rest))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map per level, from fine to coarse, of slices (B, C, X, Y, 1)."""
        maps = [self.stem(x)]
        x = F.max_pool3d(pad_same(maps[0], 3, 2, value=-math.inf), (3, 3, 1), stride=(2, 2, 1))
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ImageBlock(nn.Module):
    """Block of the Vision Transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (B, T, D) -> (B, T, D)."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ImageTransformer(nn.Module):
    """Blocks of the Vision Transformer and the norm after them."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ImageBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all blocks: (B, T, D) -> (B, T, D)."""
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class VisionTransformer(nn.Module):
    """Vision Transformer on a feature map, with trained position embeddings."""

    def __init__(self, channels: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.to_tokens = nn.Conv3d(channels, width, 1)
        self.positions = nn.Parameter(0.02 * torch.randn(1, LEARNT_GRID**2, width))
        self.transformer = ImageTransformer(width, depth, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the Transformer to a map: (B, C, X, Y, 1) -> (B, D, X, Y, 1)."""
        tokens = self.to_tokens(x).flatten(2).transpose(1, 2)  # (B, D, X, Y, 1) -> (B, T, D)
        tokens = self.transformer(tokens + resize_positions(self.positions, x.shape[2], x.shape[3]))
        out: Tensor = tokens.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return out


def resize_positions(positions: Tensor, nx: int, ny: int) -> Tensor:
    """Resize position embeddings (1, N*N, D) of a square grid to (1, nx*ny, D), by bicubic interpolation."""
    side = math.isqrt(positions.shape[1])
    if (nx, ny) == (side, side):
        return positions
    grid = positions.transpose(1, 2).reshape(1, -1, side, side)
    if _is_deterministic_on_gpu(positions):  # the gradient of bicubic interpolation has no deterministic algorithm
        unit = torch.eye(side, device=grid.device, dtype=grid.dtype)[None, None]  # one row per position
        wx, wy = (
            F.interpolate(unit, size=(n, side), mode="bicubic", align_corners=False)[0, 0] for n in (nx, ny)
        )  # (n, side)
        return (wx @ grid @ wy.mT).flatten(2).transpose(1, 2)
    return F.interpolate(grid, size=(nx, ny), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def halve(logits: Tensor) -> Tensor:
    """Return the means of squares of four voxels in each slice: (B, K, X, Y, Z) -> (B, K, X/2, Y/2, Z)."""
    if _is_deterministic_on_gpu(logits):  # the gradient of mean pooling has no deterministic algorithm
        batch, classes, nx, ny, nz = logits.shape
        return logits.reshape(batch, classes, nx // 2, 2, ny // 2, 2, nz).mean((3, 5))
    return F.avg_pool3d(logits, (2, 2, 1))


def _is_deterministic_on_gpu(x: Tensor) -> bool:
    return x.device.type != "cpu" and torch.are_deterministic_algorithms_enabled()


class ConvBatchNormAct(nn.Sequential):
    """3x3 convolution, batch norm and ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        conv = nn.Conv3d(channels, width, (3, 3, 1), padding=(1, 1, 0), bias=False)
        super().__init__(conv, nn.BatchNorm3d(width), nn.ReLU())


class CascadedDecoder(nn.Module):
    """Decoder of four levels: each doubles the size by bilinear interpolation, joins a skip connection and convolves twice."""

    def __init__(self, width: int, skips: Sequence[int], *, n_classes: int, head_width: int) -> None:
        super().__init__()
        widest = skips[0] if skips else head_width
        self.first = ConvBatchNormAct(width, widest)
        self.ups = nn.ModuleList()
        channels = widest
        widths = [widest // 2 ** (i + 1) for i in range(len(skips))] + [head_width]
        for skip, after in zip([*skips, 0], widths, strict=True):
            self.ups.append(nn.Sequential(ConvBatchNormAct(channels + skip, after), ConvBatchNormAct(after, after)))
            channels = after
        self.logits = nn.Conv3d(head_width, n_classes, (3, 3, 1), padding=(1, 1, 0))

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Decode a map (B, D, X, Y, 1) with skip connections from coarse to fine -> logits (B, K, 16 X, 16 Y, 1)."""
        x = self.first(x)
        for i, up in enumerate(self.ups):
            x = F.interpolate(x[..., 0], scale_factor=2, mode="bilinear", align_corners=True)[..., None]
            x = up(torch.cat((x, skips[i]), dim=1) if i < len(skips) else x)
        out: Tensor = self.logits(x)
        return out


class TransUNet(nn.Module):
    """TransUNet from an image (B, C, X, Y, Z) to logits, slice by slice.

    X and Y must be multiples of 2 to the power of the number of `widths`. `widths` and `blocks` have one entry for the stem
    and one for each stage. The paper has widths 64, 256, 512, 1024 and blocks 1, 3, 4, 9; the entry of `blocks` for the stem is
    not used.
    """

    def __init__(self, config: NetworkConfig, *, n_channels: int, n_classes: int) -> None:
        super().__init__()
        narrow = [w for i, w in enumerate(config.widths) if w % GROUPS or (i and w % (EXPANSION * GROUPS))]
        if narrow:
            raise ConfigError(
                "network.widths does not fit transunet: group norm needs equal groups",
                expected=f"a multiple of {GROUPS} for the stem, multiples of {EXPANSION * GROUPS} for the stages",
                found=str(config.widths),
            )
        self.config = config
        stride = 2 ** len(config.widths)
        self.total_stride = (stride, stride, 1)
        self.encoder = ImageEncoder(n_channels, config.widths, config.blocks)
        self.bottleneck = VisionTransformer(config.widths[-1], config.token_width, config.depth, config.heads)
        skips = list(reversed(config.widths[:-1]))
        self.decoder = CascadedDecoder(config.token_width, skips, n_classes=n_classes, head_width=config.head_width)

    def forward(self, image: Tensor, context: Tensor | None = None) -> Logits:
        """Compute the logits of images (B, C, X, Y, Z); `context` is ignored.

        The network has no deep supervision: its auxiliary logits are the pooled full ones.
        """
        batch, n_slices = image.shape[0], image.shape[4]
        slices = image.permute(0, 4, 1, 2, 3).flatten(0, 1)[..., None]  # (B, C, X, Y, Z) -> (B Z, C, X, Y, 1)
        *finer, x = self.encoder(slices)
        logits = self.decoder(self.bottleneck(x), list(reversed(finer)))
        # (B Z, K, X, Y, 1) -> (B, K, X, Y, Z)
        full = logits[..., 0].unflatten(0, (batch, n_slices)).permute(0, 2, 3, 4, 1)
        return Logits(full, halve(full))
