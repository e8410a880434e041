"""Transformer over the coarse feature map, with distance-biased attention (ALiBi) in mm.

Shapes: B batch, T tokens, D token width, H heads, E head width.
"""

from __future__ import annotations

from typing import cast
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_exporting

LAYER_SCALE = 0.1
"""Initial weight of each residual branch (Touvron et al. 2021, doi:10.1109/ICCV48922.2021.00010)."""

MAX_PLAIN_TOKENS = 1024
"""Largest number of tokens for plain attention, which stores the T x T weights: 4 MiB per head and sample in float32."""


def token_positions_mm(shape: tuple[int, int, int], token_mm: tuple[float, float, float]) -> Tensor:
    """Return the centres (T, 3) of the tokens of a map, in mm from the centre of the map."""
    axes = [torch.arange(n) * float(step) for n, step in zip(shape, token_mm, strict=True)]
    centred = [axis - axis.mean() for axis in axes]
    return torch.stack(torch.meshgrid(*centred, indexing="ij"), dim=-1).reshape(-1, 3)


def distance_bias(positions_mm: Tensor, heads: int, shortest_mm: float) -> Tensor:
    """Return the attention bias (H, T, T): minus the distance of two tokens, divided by the reach of the head.

    Two thirds of the heads are local. The reach of the first is the distance of neighbouring tokens, and the reach doubles from
    head to head. The other heads have no bias. Without any bias, attention is uniform at first, and a short training does not
    leave that state (docs/lab-notes/accuracy.md).

    References
    ----------
    ALiBi: Press et al. (2022), arXiv:2108.12409, section 3. Here the bias uses distances in mm, not differences of indices.
    """
    n_local = max(1, 2 * heads // 3)
    distance: Tensor
    if is_exporting():  # ONNX lacks the `cdist` that torch uses for few tokens
        distance = torch.linalg.vector_norm(positions_mm[:, None] - positions_mm[None], dim=-1)  # (T, T)
    else:
        distance = torch.cdist(positions_mm, positions_mm)
    rates = [-1 / (shortest_mm * 2**head) if head < n_local else 0.0 for head in range(heads)]
    return distance * torch.tensor(rates, device=distance.device)[:, None, None]


_biases: WeakValueDictionary[tuple[object, ...], Tensor] = WeakValueDictionary()
"""Biases of all Transformers that use them: branches on one token grid share a bias."""


def _bias_of(
    shape: tuple[int, ...], token_mm: tuple[float, float, float], heads: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Compute the bias (H, T, T) of a map."""
    with torch.inference_mode(False):  # training could not use a tensor that validation cached in inference mode
        positions = token_positions_mm(cast(tuple[int, int, int], shape), token_mm).to(device)
        return distance_bias(positions, heads, min(token_mm)).to(dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute attention, softmax(q k' / sqrt(E) + bias) v, for q, k, v (B, H, T, E) and a bias (H, T, T).

    On CPUs, the fused kernel saves memory but no time. Up to `MAX_PLAIN_TOKENS` tokens, plain matrix products are used there.
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
        """Apply self-attention to tokens (B, T, D), with a bias (H, T, T) on the scores -> (B, T, D)."""
        batch, n_tokens, width = x.shape
        qkv = self.qkv(x).view(batch, n_tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, H, T, E)
        y = attend(q, k, v, bias)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, n_tokens, width))
        return out


class DropPath(nn.Module):
    """Stochastic depth: omits a residual branch at random, for each sample (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part = (0, 1)
        """Index and number of the parts of the batch. Each process draws for the whole batch and uses its own part."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply stochastic depth: (B, T, D) -> (B, T, D)."""
        if not self.training or self.rate == 0:
            return x
        part, count = self.part
        keep = torch.rand(count * x.shape[0], 1, 1, device=x.device).chunk(count)[part] >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class TransformerBlock(nn.Module):
    """Pre-norm Transformer block: attention and a two-layer perceptron, each with LayerScale."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.scale2 = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Apply the block to tokens (B, T, D), with an attention bias (H, T, T) -> (B, T, D)."""
        x = x + self.drop_path(self.scale1 * self.attention(self.norm1(x), bias))
        out: Tensor = x + self.drop_path(self.scale2 * self.mlp(self.norm2(x)))
        return out


class Transformer(nn.Module):
    """Transformer over the tokens of a feature map.

    Parameters
    ----------
    token_mm : (3,) tuple of float
        Distance of neighbouring tokens in mm. The attention bias uses it, so that it is independent of the spacing.
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, drop_path: float, token_mm: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.token_mm, self.heads = token_mm, heads
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self._biases: dict[tuple[object, ...], Tensor] = {}

    def bias_of(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the bias (H, T, T) of a map, which is kept as long as the Transformer.

        A recorded training step reads it at its place in memory, so it must not be released before. An exported network, which
        accepts any size, computes it each time.
        """
        if is_exporting():
            return _bias_of(shape, self.token_mm, self.heads, device, dtype)
        key = (shape, self.token_mm, self.heads, device, dtype)
        if key not in self._biases:
            bias = _biases.get(key)
            self._biases[key] = _bias_of(*key) if bias is None else bias
            _biases[key] = self._biases[key]
        return self._biases[key]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Apply the blocks to a map (B, D, X, Y, Z), with metadata tokens (B, N, D) if given -> (B, D, X, Y, Z)."""
        batch, width, *shape = x.shape
        kind = x.device.type  # the bias needs the dtype of the scores, which autocast sets
        is_autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_autocast else x.dtype
        bias = self.bias_of(tuple(shape), x.device, dtype)  # (H, T, T)
        tokens = x.flatten(2).transpose(1, 2)  # (B, D, X, Y, Z) -> (B, T, D)
        n_tokens = tokens.shape[1]
        if context is not None:
            n_context = context.shape[1]
            tokens = torch.cat((tokens, context.to(tokens.dtype)), dim=1)  # (B, T + N, D)
            bias = F.pad(bias, (0, n_context, 0, n_context))  # metadata tokens have no position: bias 0
        for block in self.blocks:
            tokens = block(tokens, bias)
        tokens = self.norm(tokens[:, :n_tokens])
        back: Tensor = tokens.transpose(1, 2).reshape(batch, width, *shape)
        return back
