"""Every network kind has the documented shapes and trains all parts; a new hybrid equals its ResNet."""

from typing import Literal

import pytest
import torch

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks import SegmentationNetwork, build_network

Kind = Literal["hybrid", "resnet", "identity", "interleave", "transformer"]
KINDS: list[Kind] = ["hybrid", "resnet", "identity", "interleave", "transformer"]
STRIDES = ((2, 2, 1), (2, 2, 2), (2, 2, 2))


def network(kind: Kind, *, optional: bool = False, **changes: object) -> SegmentationNetwork:
    """Build a network with two channels and two labels."""
    torch.manual_seed(0)
    values = {
        "kind": kind,
        "widths": (8, 16, 24),
        "token_width": 24,
        "heads": 2,
        "depth": 2,
        "head_width": 8,
        **changes,
    }
    config = NetworkConfig.model_validate(values)
    return build_network(
        config, n_channels=2, n_labels=2, strides=STRIDES, token_mm=(8, 8, 20), has_optional_channels=optional
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16, 16, 8), (24, 16, 4), (32, 24, 12)])
def test_logits_have_the_size_of_the_image_for_any_multiple_of_the_stride(kind: Kind, size: tuple[int, ...]) -> None:
    with torch.no_grad():
        logits = network(kind).eval()(torch.randn(2, 2, *size))

    assert logits.full.shape == (2, 3, *size)
    assert logits.auxiliary.shape == (2, 3, size[0] // 2, size[1] // 2, size[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient_after_the_first_step(kind: Kind) -> None:
    net = network(kind, optional=True).eval()  # without stochastic depth
    images = torch.randn(2, 2, 16, 16, 8)
    images[1, 0] = 0  # one channel of one image is absent
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):  # zero-initialised branches pass gradients on from the second step
        optimiser.zero_grad()
        logits = net(images)
        (logits.full.square().mean() + logits.auxiliary.square().mean()).backward()
        optimiser.step()

    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]

    assert not still


@pytest.mark.parametrize("kind", ["hybrid", "interleave", "transformer"])
def test_logits_depend_on_the_presence_of_a_channel(kind: Kind) -> None:
    """With an otherwise equal image, a tiny voxel value makes a channel present."""
    net, image = network(kind, optional=True).eval(), torch.randn(1, 2, 16, 16, 8)
    open_branches(net)
    image[:, 1] = 0
    present = image.clone()
    present[0, 1, 0, 0, 0] = 1e-30

    with torch.no_grad():
        assert not torch.equal(net(image).full, net(present).full)

    plain = network(kind, optional=False).eval()
    assert not any("presence" in name for name, _ in plain.named_parameters())


def open_branches(net: SegmentationNetwork) -> None:
    """Initialise the branches with values other than 0, as after some steps of training."""
    for name, p in net.named_parameters():
        if "from_tokens.weight" in name:
            torch.nn.init.normal_(p, std=0.1)


@pytest.mark.parametrize("kind", ["hybrid", "identity", "interleave"])
def test_an_untrained_hybrid_equals_its_resnet(kind: Kind) -> None:
    hybrid, resnet = network(kind).eval(), network("resnet").eval()
    shared = {k: v for k, v in hybrid.state_dict().items() if k in resnet.state_dict()}
    resnet.load_state_dict(shared)
    image = torch.randn(1, 2, 16, 16, 8)

    with torch.no_grad():
        assert torch.equal(hybrid(image).full, resnet(image).full)


@pytest.mark.parametrize("kind", ["hybrid", "interleave", "transformer"])
def test_attention_connects_distant_parts_of_the_image(kind: Kind) -> None:
    net = network(kind).eval()
    open_branches(net)
    image = torch.randn(1, 2, 64, 16, 8)
    changed = image.clone()
    changed[:, :, :4] += 5

    with torch.no_grad():
        difference = (net(image).full - net(changed).full)[:, :, -4:].abs().max()

    assert difference > 0


def test_positions_are_in_millimetres() -> None:
    """The same tokens attend differently if they are further apart."""
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
    with pytest.raises(ConfigError, match=r"one width for each level\. Expected 1 widths"):
        build_network(NetworkConfig(), n_channels=1, n_labels=1, strides=((2, 2, 2),), token_mm=(1.0, 1.0, 1.0))
