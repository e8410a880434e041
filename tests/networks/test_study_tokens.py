"""Metadata conditioning changes the logits, and networks also work without metadata."""

from __future__ import annotations

import pytest
import torch

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks import SegmentationNetwork, build_network

FIELDS = ("slice_mm", "age_years")


def network(kind: str = "hybrid", context: tuple[str, ...] = FIELDS) -> SegmentationNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(kind=kind, widths=(16, 32), blocks=(1, 1), token_width=24, heads=2, depth=1)
    made = build_network(
        config, n_channels=1, n_labels=1, strides=((2, 2, 2),) * 2, token_mm=(4.0, 4.0, 4.0), context=context
    )
    assert isinstance(made, SegmentationNetwork)
    for name, weight in made.named_parameters():
        if "from_tokens.weight" in name:  # zero-initialised branches would hide the metadata
            torch.nn.init.normal_(weight, std=0.1)
    return made.eval()


@pytest.mark.parametrize("kind", ["hybrid", "interleave", "transformer"])
def test_logits_depend_on_the_metadata(kind: str) -> None:
    net, image = network(kind), torch.rand(1, 1, 8, 8, 8)

    with torch.no_grad():
        thin, thick = (net(image, torch.tensor([[mm, 50.0]])).full for mm in (1.0, 5.0))

    assert (thin - thick).abs().max() > 1e-6


def test_absent_values_equal_missing_metadata() -> None:
    net, image = network(), torch.rand(2, 1, 8, 8, 8)

    with torch.no_grad():
        torch.testing.assert_close(net(image).full, net(image, torch.full((2, 2), torch.nan)).full)


def test_the_effect_of_an_extreme_value_is_bounded() -> None:
    net, image = network(), torch.rand(1, 1, 8, 8, 8)

    with torch.no_grad():
        far, further = (net(image, torch.tensor([[3.0, age]])).full for age in (500.0, 1e9))

    torch.testing.assert_close(far, further)


@pytest.mark.parametrize("kind", ["resnet", "identity", "transunet"])
def test_a_network_without_transformer_is_refused_with_metadata(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"network\.kind={kind} cannot use data\.context"):
        network(kind)


def test_without_metadata_fields_no_tokens_are_created() -> None:
    assert not any("study_tokens" in name for name, _ in network(context=()).named_parameters())
