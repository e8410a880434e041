"""From a config and what the plan knows to a network."""

from __future__ import annotations

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.blocks import Stride
from medhybrid.networks.hybrid import SegmentationNetwork
from medhybrid.networks.transunet import TransUNet

Network = SegmentationNetwork | TransUNet


def build_network(
    config: NetworkConfig,
    *,
    n_channels: int,
    n_labels: int,
    strides: tuple[Stride, ...],
    token_mm: tuple[float, float, float],
    has_optional_channels: bool = False,
    context: tuple[str, ...] = (),
) -> Network:
    """The network for a plan; `n_labels` does not count background, `context` are the fields that the Transformer is told.

    Raises
    ------
    ConfigError
        If config and strides do not fit each other.
    """
    blocks = {"hybrid": config.depth, "transformer": config.depth, "interleave": config.interleave_depth}
    if context and not blocks.get(config.kind):
        raise ConfigError(
            f"network.kind={config.kind} cannot be told data.context",
            expected="hybrid, interleave or transformer, of at least one block: the Transformer is told it",
            remedy="leave data.context out",
        )
    if config.kind == "transunet":
        if any(stride != (2, 2, 1) for stride in strides):
            raise ConfigError(
                "transunet halves X and Y at each level and leaves slices apart",
                expected="(2, 2, 1) at each level",
                found=str(strides),
                remedy="set prepare.patch_size to one slice, as [224, 224, 1]",
            )
        return TransUNet(config, n_channels=n_channels, n_classes=n_labels + 1)
    return SegmentationNetwork(
        config,
        n_channels=n_channels,
        n_classes=n_labels + 1,
        strides=strides,
        token_mm=token_mm,
        has_optional_channels=has_optional_channels,
        context=context,
    )
