"""Recomputation of activations in the backward pass, for a device with too little memory for a training step.

The activations inside a block are not kept for the backward pass, but computed again from the block's input, with the same
random numbers. Losses and gradients stay the same; a step takes about a third longer.

References
----------
Chen et al. (2016), "Training deep nets with sublinear memory cost", arXiv:1604.06174.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from medhybrid.networks.blocks import ConvNormAct, ResidualBlock
from medhybrid.networks.transformer import TransformerBlock
from medhybrid.networks.transunet import Bottleneck, ImageBlock

BLOCKS = (ResidualBlock, TransformerBlock, ConvNormAct, Bottleneck, ImageBlock)
"""Modules that are computed again. None has batch norm, whose running statistics would count a batch twice."""


def recompute_activations(network: nn.Module) -> None:
    """Make a network compute the activations of its blocks again in the backward pass."""
    inside = {part for block in network.modules() if isinstance(block, BLOCKS) for part in block.children()}
    for block in network.modules():
        if isinstance(block, BLOCKS) and block not in inside:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
