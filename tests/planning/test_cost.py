"""The predicted cost of a patch is that of the network itself, counted without computing."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medhybrid.config import NetworkSettings
from medhybrid.networks import build_network
from medhybrid.networks.presets import Preset, network_of
from medhybrid.planning.cost import cost_of

ISOTROPIC = ((2, 2, 2),) * 3
FLAT = ((2, 2, 1),) * 3
THICK = ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))


@pytest.mark.parametrize(
    ("preset", "patch", "strides", "kernels"),
    [("S", (32, 40, 32), ISOTROPIC, ()), ("M", (64, 64, 16), THICK, ()), ("S", (96, 96, 1), FLAT, ((3, 3, 1),) * 3)],
    ids=["S", "M", "one slice"],
)
def test_cost_is_that_of_the_network(
    preset: Preset,
    patch: tuple[int, int, int],
    strides: tuple[tuple[int, int, int], ...],
    kernels: tuple[tuple[int, int, int], ...],
) -> None:
    network = network_of(NetworkSettings(), preset, len(strides))
    saved: dict[int, int] = {}
    kept = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved[id(tensor)] = tensor.numel() * tensor.element_size()
        kept.append(tensor)  # so that its id is not used twice
        return tensor

    with torch.device("meta"):
        built = build_network(
            network, n_channels=2, n_labels=3, strides=strides, kernels=kernels, token_mm=(8.0, 8.0, 8.0)
        )
        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda t: t)
        with FlopCounterMode(display=False) as counter, hooks:
            built(torch.zeros(1, 2, *patch))
    n_weights = sum(p.numel() for p in built.parameters())

    cost = cost_of(network, 2, 3, patch, strides, kernels)

    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert cost.parameters == pytest.approx(n_weights, rel=0.1)
    assert cost.saved_bytes == pytest.approx(sum(saved.values()) - 4 * n_weights, rel=0.25)
