"""Casting of weights to the precision of inference, once instead of for each window."""

from __future__ import annotations

import copy

import torch
from torch import nn

from medhybrid.networks.blocks import Upsample
from medhybrid.networks.encoder import ResidualEncoder

CAST = (nn.Conv3d, nn.Linear, Upsample)
"""Layers whose weights autocast casts unchanged, without subclasses: these may transform their weights in float32 first."""


def cast_weights(network: nn.Module, precision: torch.dtype) -> nn.Module:
    """Return a copy of a network for evaluation, with weights cast to `precision`.

    Under autocast to `precision`, its outputs equal those of the original bit by bit. Weights that are not cast are shared.
    """
    if precision is torch.float32:
        return network
    shared = {id(p): p for p in network.parameters()}
    made: nn.Module = copy.deepcopy(network, shared)
    stems = [encoder.stem for encoder in made.modules() if isinstance(encoder, ResidualEncoder)]
    in_float32 = {part for stem in stems for part in stem.modules()}
    for part in made.modules():
        if type(part) in CAST and part not in in_float32:
            for name, weight in part.named_parameters(recurse=False):
                part.register_parameter(name, nn.Parameter(weight.detach().to(precision), requires_grad=False))
    return made
