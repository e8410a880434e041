"""Weights that are cast once give the same logits as autocast, bit by bit."""

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
    "identity": {"widths": [8, 16], "blocks": [1, 1], "token_width": 24, "heads": 3},
    "resnet": {"widths": [8, 16], "blocks": [1, 1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_cast_once_give_the_same_logits_as_autocast(kind: str) -> None:
    torch.manual_seed(0)
    is_told = kind in ("hybrid", "interleave", "transformer")
    network = build_network(
        NetworkConfig(kind=kind, **KINDS[kind]),  # type: ignore[arg-type]
        n_channels=2, n_labels=2, strides=((2, 2, 1), (2, 2, 2)), token_mm=(4.0, 4.0, 4.0),
        has_optional_channels=is_told, context=("slice_mm",) if is_told else (),
    ).eval()  # fmt: skip
    for weight in network.parameters():
        if weight.ndim == 1 or not weight.any():  # zero-initialised branches would hide differences in their weights
            nn.init.normal_(weight, std=0.3)
    before = {name: w.clone() for name, w in network.state_dict().items()}
    cast = cast_weights(network, torch.bfloat16)
    assert any(w.dtype is torch.bfloat16 for w in cast.state_dict().values())
    image = torch.rand(2, 2, 16, 16, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast(image).full, network(image).full)
    for name, weight in network.state_dict().items():
        assert weight.dtype is torch.float32
        assert torch.equal(weight, before[name])


def test_weights_that_a_layer_standardises_are_not_cast() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        kind="transunet",
        widths=(32, 128, 256, 384),
        blocks=(1, 1, 1, 1),
        token_width=48,
        depth=1,
        heads=4,
        head_width=8,
    )
    network = build_network(config, n_channels=1, n_labels=2, strides=((2, 2, 1),) * 4, token_mm=(8.0, 8.0, 1.0)).eval()
    image = torch.rand(1, 1, 64, 64, 1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cast_weights(network, torch.bfloat16)(image).full, network(image).full)


def test_a_network_in_float32_is_not_copied() -> None:
    network = nn.Conv3d(1, 1, 1)
    assert cast_weights(network, torch.float32) is network
