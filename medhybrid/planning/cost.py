"""Cost of a training step, counted on the network itself without computing: arithmetic, saved activations, parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medhybrid.config import NetworkConfig

Stride = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one patch.

    Attributes
    ----------
    flops : float
        Floating-point operations of the forward pass.
    saved_bytes : int
        Activations that the backward pass needs, in float32.
    parameters : int
        Weights of the network.
    """

    flops: float
    saved_bytes: int
    parameters: int


def cost_of(
    network: NetworkConfig,
    n_channels: int,
    n_labels: int,
    patch: tuple[int, int, int],
    strides: tuple[Stride, ...],
    kernels: tuple[Stride, ...] = (),
) -> Cost:
    """Return the cost of a patch with a hybrid or one of its kinds, by the sizes of its layers.

    Parameters
    ----------
    kernels : tuple
        Size of the convolutions at each level; by default 3 x 3 x 3.
    """
    sizes = [int(np.prod(k)) for k in kernels or ((3, 3, 3),) * len(strides)]  # weights for each pair of channels
    widths, blocks, head = network.widths, network.blocks, network.head_width
    full = float(np.prod(patch))
    voxels = [full / float(np.prod(np.array(strides[: i + 1]))) for i in range(len(strides))]
    weights: list[tuple[float, float]] = [
        (sizes[0] * n_channels * widths[0], voxels[0])
    ]  # weights, voxels they apply to
    kept = 2 * widths[0] * voxels[0]
    before = widths[0]
    for width, n_blocks, n, size in zip(widths, blocks, voxels, sizes, strict=True):
        shortcut = before * width if (before, n) != (widths[0], voxels[0]) else 0
        weights.append((size * width * (before + width) + shortcut, n))
        weights.append((2 * size * width * width * (n_blocks - 1), n))
        kept += 4 * width * n_blocks * n
        before = width
    attention = 0.0
    if network.kind in ("hybrid", "transformer", "interleave", "identity"):
        tokens, token = voxels[-1], network.token_width
        depth = 0 if network.kind == "identity" else network.depth
        weights.append((2 * widths[-1] * token + depth * (4 + 2 * MLP_RATIO) * token**2, tokens))
        attention = 4.0 * tokens**2 * token * depth
        kept += depth * (8 + 2 * MLP_RATIO) * token * tokens
    for width, below, n, size in zip(widths[:-1], widths[1:], voxels[:-1], sizes[:-1], strict=True):
        weights.append((below * width + size * width * 3 * width + 2 * width * width, n))
        kept += 6 * width * n
    weights.append((widths[0] * head + sizes[0] * (head + n_channels) * head + head * (n_labels + 1), full))
    kept += (3 * head + n_channels + 2 * (n_labels + 1)) * full
    flops = sum(2 * w * n for w, n in weights) + attention
    parameters = (
        sum(w for w, _ in weights)
        + sum(
            below * width * (float(np.prod(np.array(s))) - 1)  # upsampling has weights for each voxel of a cell
            for width, below, s in zip((head, *widths[:-1]), widths, strides, strict=True)
        )
    )
    return Cost(flops, int(kept * 4), int(parameters))


MLP_RATIO = 4
"""Hidden width of the feed-forward layers of the Transformer, relative to its width."""

BYTES_PER_WEIGHT = 20
"""Weights, gradients, two moments of the optimiser and the average of the weights, in float32."""

WORKSPACE = 2.0
"""Factor on the saved activations for gradients and workspace."""

BASE_BYTES = 700 * 2**20
"""Memory of a process that has loaded torch and reads patches."""


def memory_of(cost: Cost, batch: int) -> int:
    """Return the memory in bytes of a training with patches of this cost."""
    return int(BASE_BYTES + batch * cost.saved_bytes * WORKSPACE + cost.parameters * BYTES_PER_WEIGHT)
