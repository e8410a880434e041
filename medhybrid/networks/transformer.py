"""The Transformer over the coarse feature map, whose heads see near and far by distances in mm.

Shapes: B batch, T tokens, D token width, H heads, E head width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_exporting

LAYER_SCALE = 0.1
"""Initial weight of each residual branch (Touvron et al. 2021, doi:10.1109/ICCV48922.2021.00010)."""

MAX_PLAIN_TOKENS = 1024
"""Most tokens whose weights are held in memory: 4 MiB a head and sample in float32."""


def token_positions_mm(shape: tuple[int, int, int], token_mm: tuple[float, float, float]) -> Tensor:
    """Centres (T, 3) of the tokens of a map, in mm from its middle."""
    axes = [torch.arange(n) * float(step) for n, step in zip(shape, token_mm, strict=True)]
    centred = [axis - axis.mean() for axis in axes]
    return torch.stack(torch.meshgrid(*centred, indexing="ij"), dim=-1).reshape(-1, 3)


def distance_bias(positions_mm: Tensor, heads: int, shortest_mm: float) -> Tensor:
    """What is added to the scores (H, T, T) of each head: minus the distance of two tokens over the head's reach.

    The reaches of two thirds of the heads double from head to head, beginning with the distance of neighbours; the others are
    free to look anywhere. Without this, attention is even at first, and a short training does not get away from there
    (docs/lab-notes/accuracy.md).

    References
    ----------
    Press et al. (2022), arXiv:2108.12409, section 3, with distances in mm in place of differences of indices.
    """
    n_local = max(1, 2 * heads // 3)
    distance: Tensor
    if is_exporting():  # ONNX knows no `cdist` of few tokens
        distance = torch.linalg.vector_norm(positions_mm[:, None] - positions_mm[None], dim=-1)  # (T, T)
    else:
        distance = torch.cdist(positions_mm, positions_mm)
    rates = [-1 / (shortest_mm * 2**head) if head < n_local else 0.0 for head in range(heads)]
    return distance * torch.tensor(rates, device=distance.device)[:, None, None]


@lru_cache(maxsize=4)
def _bias_of(
    shape: tuple[int, ...], token_mm: tuple[float, float, float], heads: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Bias (H, T, T) of a map, kept for the next step: nothing in it is learnt."""
    with torch.inference_mode(False):  # or what a validation computed could not be used in training
        positions = token_positions_mm(cast(tuple[int, int, int], shape), token_mm).to(device)
        return distance_bias(positions, heads, min(token_mm)).to(dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(E) + bias) v of (B, H, T, E) and (H, T, T), by plain products on a CPU where T x T weights are small.

    The fused kernel saves memory, not time, on CPUs, where few tokens are quicker by plain products.
    """
    batch, heads, n_tokens, width = q.shape
    if is_exporting() or q.device.type != "cpu" or n_tokens > MAX_PLAIN_TOKENS:
        return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias[None].to(q.dtype))
    q, k, v = (x.reshape(batch * heads, n_tokens, width) for x in (q * width**-0.5, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, n_tokens, n_tokens)
    weights = (scores if bias is None else scores + bias.to(scores.dtype)).softmax(dim=-1)
    return torch.bmm(weights.flatten(0, 1), v).view(batch, heads, n_tokens, width)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, T, D), and what is added to the scores (H, T, T) -> (B, T, D)."""
        batch, n_tokens, width = x.shape
        qkv = self.qkv(x).view(batch, n_tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, H, T, E)
        y = attend(q, k, v, bias)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, n_tokens, width))
        return out


class DropPath(nn.Module):
    """Leaves a residual branch out at random, for each sample (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part = (0, 1)
        """Which part of the whole batch is seen, of how many: what is left out is drawn for all of it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if not self.training or self.rate == 0:
            return x
        part, count = self.part
        keep = torch.rand(count * x.shape[0], 1, 1, device=x.device).chunk(count)[part] >= self.rate
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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) and the bias (H, T, T) of its attention -> (B, T, D)."""
        x = x + self.drop_path(self.scale1 * self.attention(self.norm1(x), bias))
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
        self.token_mm, self.heads = token_mm, heads
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, D, X, Y, Z), and context tokens (B, N, D) that have no place -> (B, D, X, Y, Z)."""
        batch, width, *shape = x.shape
        find = _bias_of.__wrapped__ if is_exporting() else _bias_of  # an exported network knows any size
        kind = x.device.type  # scores are of the precision of products
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = find(tuple(shape), self.token_mm, self.heads, x.device, dtype)  # (H, T, T)
        tokens = x.flatten(2).transpose(1, 2)  # (B, D, X, Y, Z) -> (B, T, D)
        n_tokens = tokens.shape[1]
        if context is not None:
            n_context = context.shape[1]
            tokens = torch.cat((tokens, context.to(tokens.dtype)), dim=1)  # (B, T + N, D)
            bias = F.pad(bias, (0, n_context, 0, n_context))  # no place: near to all
        for block in self.blocks:
            tokens = block(tokens, bias)
        tokens = self.norm(tokens[:, :n_tokens])
        back: Tensor = tokens.transpose(1, 2).reshape(batch, width, *shape)
        return back
