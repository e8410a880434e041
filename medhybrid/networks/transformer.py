"""The Transformer over the coarse feature map, with rotary positions in millimetres.

Shapes: B batch, T tokens, D token width, H heads, E head width.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_SCALE = 0.1
"""Initial weight of each residual branch (Touvron et al. 2021, doi:10.1109/ICCV48922.2021.00010)."""

LONGEST_WAVELENGTH_MM = 800.0
"""Longest wavelength of the rotary positions: longer than a torso, so that no two places look alike."""

MAX_PLAIN_TOKENS = 1024
"""Most tokens whose weights are held in memory: 4 MiB a head and sample in float32."""


def token_positions_mm(shape: tuple[int, int, int], token_mm: tuple[float, float, float]) -> Tensor:
    """Centres (T, 3) of the tokens of a map, in mm from its middle."""
    axes = [(torch.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, token_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def rotary_angles(positions_mm: Tensor, head_width: int, shortest_mm: float) -> Tensor:
    """Angles (T, E/2): a third of the pairs turns with each axis, at wavelengths in a geometric series.

    References
    ----------
    Su et al. (2021), arXiv:2104.09864, equation 15, with positions in mm in place of indices.
    """
    n_pairs = head_width // 2
    per_axis = max(1, n_pairs // 3)
    exponent = torch.arange(per_axis) / max(per_axis - 1, 1)
    wavelengths = shortest_mm * (LONGEST_WAVELENGTH_MM / shortest_mm) ** exponent  # (P,)
    angles = positions_mm[:, :, None] * (2 * math.pi / wavelengths)  # (T, 3, P)
    angles = angles.flatten(1)[:, :n_pairs]
    return F.pad(angles, (0, n_pairs - angles.shape[1]))  # pairs left over do not turn


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of (B, H, T, E) by the angles whose cosine and sine (T, E/2) are given."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(E)) v of (B, H, T, E), by plain products on a CPU where the T x T weights are small.

    The fused kernel saves memory, not time, on CPUs, where few tokens are quicker by plain products.
    """
    batch, heads, n_tokens, width = q.shape
    if q.device.type != "cpu" or n_tokens > MAX_PLAIN_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = (x.reshape(batch * heads, n_tokens, width) for x in (q * width**-0.5, k, v))
    weights = torch.bmm(q, k.transpose(1, 2)).softmax(dim=-1)  # (B H, T, T)
    return torch.bmm(weights, v).view(batch, heads, n_tokens, width)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        batch, n_tokens, width = x.shape
        qkv = self.qkv(x).view(batch, n_tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, H, T, E)
        q, k = rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rotate(k, cos.to(k.dtype), sin.to(k.dtype))
        y = attend(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, n_tokens, width))
        return out


class DropPath(nn.Module):
    """Leaves a residual branch out at random, for each sample (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each normalised before and scaled after."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.scale2 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.drop_path(self.scale1 * self.attention(self.norm1(x), cos, sin))
        out: Tensor = x + self.drop_path(self.scale2 * self.mlp(self.norm2(x)))
        return out


class Transformer(nn.Module):
    """Tokens of a feature map, related to each other.

    Parameters
    ----------
    token_mm : (3,) tuple of float
        Distance of neighbouring tokens, so that positions mean the same at any spacing.
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, drop_path: float, token_mm: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.token_mm, self.head_width = token_mm, width // heads
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, D, X, Y, Z), and context tokens (B, N, D) that have no place -> (B, D, X, Y, Z)."""
        batch, width, *shape = x.shape
        positions = token_positions_mm(cast(tuple[int, int, int], tuple(shape)), self.token_mm)
        angles = rotary_angles(positions, self.head_width, 2 * min(self.token_mm)).to(x.device)
        tokens = x.flatten(2).transpose(1, 2)  # (B, D, X, Y, Z) -> (B, T, D)
        n_tokens = tokens.shape[1]
        if context is not None:
            tokens = torch.cat((tokens, context.to(tokens.dtype)), dim=1)  # (B, T + N, D)
            angles = F.pad(angles, (0, 0, 0, context.shape[1]))  # no place: not turned
        cos, sin = angles.cos(), angles.sin()  # (T, E/2)
        for block in self.blocks:
            tokens = block(tokens, cos, sin)
        tokens = self.norm(tokens[:, :n_tokens])
        back: Tensor = tokens.transpose(1, 2).reshape(batch, width, *shape)
        return back
