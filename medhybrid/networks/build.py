"""Construction of a network from the config and the plan."""

from __future__ import annotations

from medhybrid.config import NetworkConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.blocks import Stride
from medhybrid.networks.hybrid import SegmentationNetwork
from medhybrid.networks.regions import RegionScores
from medhybrid.networks.transunet import TransUNet
from medhybrid.networks.unet import FoldUNets

Network = SegmentationNetwork | TransUNet | FoldUNets


def build_network(
    config: NetworkConfig,
    *,
    n_channels: int,
    n_labels: int,
    strides: tuple[Stride, ...],
    token_mm: tuple[float, float, float],
    kernels: tuple[Stride, ...] = (),
    has_optional_channels: bool = False,
    context: tuple[str, ...] = (),
    regions: tuple[tuple[int, ...], ...] = (),
) -> Network:
    """Build the network of a config for a plan.

    Parameters
    ----------
    n_labels : int
        Number of labels without background.
    strides : tuple of Stride
        Stride of each level, from fine to coarse.
    kernels : tuple of Stride
        Size of the convolutions at each level; by default 3 x 3 x 3.
    token_mm : (3,) tuple of float
        Distance between neighbouring tokens of the bottleneck, in mm.
    context : tuple of str
        Metadata fields (`data.context`) that condition the Transformer.
    regions : tuple of tuple of int
        Classes 1..n of each region. With regions, the network has one logit for each in training, and converts them to logits
        of classes in evaluation.

    Raises
    ------
    ConfigError
        If the config does not fit the strides, or its network cannot use the metadata.
    """
    blocks = {"hybrid": config.depth, "transformer": config.depth, "interleave": config.interleave_depth}
    if context and not blocks.get(config.kind):
        raise ConfigError(
            f"network.kind={config.kind} cannot use data.context",
            expected="hybrid, interleave or transformer with at least one Transformer block, which takes the metadata",
            remedy="remove data.context from the config",
        )
    if config.kind == "transunet":
        if any(stride != (2, 2, 1) for stride in strides):
            raise ConfigError(
                "transunet does not fit the plan: it halves X and Y at each level and never pools over slices",
                expected="stride (2, 2, 1) at each level",
                found=str(strides),
                remedy="set prepare.patch_size to one slice, for example [224, 224, 1]",
            )
        if regions:
            raise ConfigError(
                "network.kind=transunet has no regions",
                expected="labels that do not overlap",
                remedy="use another network.kind",
            )
        return TransUNet(config, n_channels=n_channels, n_classes=n_labels + 1)
    return SegmentationNetwork(
        config,
        n_channels=n_channels,
        n_classes=len(regions) or n_labels + 1,
        regions=RegionScores(regions, n_labels) if regions else None,
        strides=strides,
        kernels=kernels,
        token_mm=token_mm,
        has_optional_channels=has_optional_channels,
        context=context,
    )
