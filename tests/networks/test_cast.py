"""Weights cast once give the logits of weights that are cast for each window, bit by bit."""

import pytest
import torch
from torch import nn

from medhybrid.config import NetworkConfig
from medhybrid.networks import build_network
from medhybrid.networks.cast import cast_weights

KINDS = {
    "hybrid": {"widths": [8, 16], "blocks": [1, 1], "depth": 1, "token_width": 24, "heads": 3},
    "interleave": {"widths": [8, 16], "blocks": [1, 1], "interleave_depth": 1, "token_width": 24, "heads": 3},
    "transformer": {"widths": [8, 16], "blocks": [1, 1], "depth": 1, "token_width": 24, "heads": 3},
    "resnet": {"widths": [8, 16], "blocks": [1, 1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_cast_once_change_no_bit(kind: str) -> None:
    torch.manual_seed(0)
    network = build_network(
        NetworkConfig(kind=kind, **KINDS[kind]),  # type: ignore[arg-type]
        n_channels=2, n_labels=2, strides=((2, 2, 1), (2, 2, 2)), token_mm=(4.0, 4.0, 4.0), context=(),
    ).eval()  # fmt: skip
    for weight in network.parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight)  # or branches that begin at zero would hide what is behind them
    before = {name: w.clone() for name, w in network.state_dict().items()}
    cast = cast_weights(network, torch.bfloat16)
    assert any(w.dtype is torch.bfloat16 for w in cast.state_dict().values())
    image = torch.rand(2, 2, 16, 16, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast(image).full, network(image).full)
    for name, weight in network.state_dict().items():
        assert weight.dtype is torch.float32
        assert torch.equal(weight, before[name])


def test_a_network_in_float32_stays_itself() -> None:
    network = nn.Conv3d(1, 1, 1)
    assert cast_weights(network, torch.float32) is network
