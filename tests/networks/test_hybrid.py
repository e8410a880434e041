"""Every kind of network has the promised shapes, learns in every part, and the hybrid begins as its ResNet."""

from typing import Literal

import pytest
import torch

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks import SegmentationNetwork, build_network

Kind = Literal["hybrid", "resnet", "transformer"]
KINDS: list[Kind] = ["hybrid", "resnet", "transformer"]
STRIDES = ((2, 2, 1), (2, 2, 2), (2, 2, 2))


def network(kind: Kind, n_labels: int = 2, n_channels: int = 2) -> SegmentationNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(kind=kind, widths=(8, 16, 24), token_width=24, heads=2, depth=2, head_width=8)
    return build_network(config, n_channels=n_channels, n_labels=n_labels, strides=STRIDES, token_mm=(8, 8, 20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16, 16, 8), (24, 16, 4), (32, 24, 12)])
def test_logits_have_the_images_size_whatever_multiple_of_the_stride_it_is(kind: Kind, size: tuple[int, ...]) -> None:
    with torch.no_grad():
        logits = network(kind).eval()(torch.randn(2, 2, *size))

    assert logits.full.shape == (2, 3, *size)
    assert logits.auxiliary.shape == (2, 3, size[0] // 2, size[1] // 2, size[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient_after_the_first_step(kind: Kind) -> None:
    net = network(kind).eval()  # without dropped paths
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):  # zero-initialised branches pass gradients on from the second step
        optimiser.zero_grad()
        logits = net(torch.randn(2, 2, 16, 16, 8))
        (logits.full.square().mean() + logits.auxiliary.square().mean()).backward()
        optimiser.step()

    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]

    assert not still


def test_the_hybrid_begins_as_its_resnet() -> None:
    hybrid, resnet = network("hybrid").eval(), network("resnet").eval()
    shared = {k: v for k, v in hybrid.state_dict().items() if k in resnet.state_dict()}
    resnet.load_state_dict(shared)
    image = torch.randn(1, 2, 16, 16, 8)

    with torch.no_grad():
        assert torch.equal(hybrid(image).full, resnet(image).full)


@pytest.mark.parametrize("kind", ["hybrid", "transformer"])
def test_distant_parts_of_the_image_reach_each_other_through_attention(kind: Kind) -> None:
    net = network(kind).eval()
    if kind == "hybrid":
        torch.nn.init.normal_(net.from_tokens.weight, std=0.1)
    image = torch.randn(1, 2, 64, 16, 8)
    changed = image.clone()
    changed[:, :, :4] += 5

    with torch.no_grad():
        difference = (net(image).full - net(changed).full)[:, :, -4:].abs().max()

    assert difference > 0


def test_positions_are_in_millimetres() -> None:
    """The same tokens further apart attend differently."""
    config = NetworkConfig(kind="transformer", widths=(8, 16, 24), token_width=24, heads=2, depth=2, head_width=8)
    image = torch.randn(1, 1, 32, 16, 8)
    outputs = []
    for token_mm in ((8.0, 8.0, 8.0), (8.0, 8.0, 40.0)):
        torch.manual_seed(0)
        net = build_network(config, n_channels=1, n_labels=1, strides=STRIDES, token_mm=token_mm).eval()
        for scale in (p for n, p in net.named_parameters() if "scale" in n):
            torch.nn.init.ones_(scale)
        with torch.no_grad():
            outputs.append(net(image).full)

    assert not torch.equal(outputs[0], outputs[1])


def test_strides_that_do_not_match_the_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="differ in length"):
        build_network(NetworkConfig(), n_channels=1, n_labels=1, strides=((2, 2, 2),), token_mm=(1.0, 1.0, 1.0))
