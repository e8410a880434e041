"""U-Nets of nnU-Net (package `dynamic-network-architectures`), with the interface of the other networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medhybrid.config.unet import UNetConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.logits import Logits

NORMS = {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d}

ACTIVATIONS = {"leaky_relu": nn.LeakyReLU, "relu": nn.ReLU}


class FoldUNets(nn.Module):
    """U-Nets of one architecture, one for each fold, whose logits are averaged.

    Parameters
    ----------
    config : UNetConfig

    Raises
    ------
    ConfigError
        If the package is not installed.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.folds = nn.ModuleList(build_unet(config) for _ in range(config.n_folds))

    def forward(self, image: Tensor) -> Logits:
        """Return the mean logits (B, K, X, Y, Z) of images (B, C, X, Y, Z); the auxiliary ones are a copy."""
        total: Tensor = self.folds[0](image)
        for network in self.folds[1:]:
            total = total + network(image)
        mean = total / len(self.folds) if len(self.folds) > 1 else total
        return Logits(mean, mean)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return each tensor once: the package registers its layers under several names."""
        state: dict[str, Tensor] = super().state_dict(*args, **kwargs)
        return {name: state[name] for name in self._names}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors with the names of `state_dict`.

        Raises
        ------
        RuntimeError
            If a name or a shape differs.
        """
        if strict and (differing := sorted(set(state_dict) ^ set(self._names))):
            raise RuntimeError(f"{len(differing)} tensors differ, for example {differing[0]}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in (*self.named_parameters(), *self.named_buffers())]


def build_unet(config: UNetConfig) -> nn.Module:
    """Build a U-Net of nnU-Net with three-dimensional layers, also for a two-dimensional model; raises `ConfigError`."""
    try:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    except ImportError as error:
        raise ConfigError(
            "dynamic-network-architectures is not installed, which a model of nnU-Net needs",
            remedy="pip install 'medhybrid[nnunet]'",
        ) from error
    is_plain = config.kind == "plain_conv_unet"
    stages = {"n_conv_per_stage" if is_plain else "n_blocks_per_stage": list(config.blocks)}
    only_plain = {"nonlin_first": config.nonlin_first} if is_plain else {}
    norm: dict[str, Any] = {"eps": config.norm_eps, "affine": config.norm_affine}
    slope = {"negative_slope": config.negative_slope} if config.activation == "leaky_relu" else {}
    network: nn.Module = (PlainConvUNet if is_plain else ResidualEncoderUNet)(
        input_channels=config.channels,
        num_classes=config.outputs,
        n_stages=len(config.widths),
        features_per_stage=list(config.widths),
        conv_op=nn.Conv3d,
        kernel_sizes=[list(size) for size in config.kernels],
        strides=[list(size) for size in config.strides],
        n_conv_per_stage_decoder=list(config.decoder_blocks),
        conv_bias=config.conv_bias,
        norm_op=NORMS[config.norm],
        norm_op_kwargs=norm,
        nonlin=ACTIVATIONS[config.activation],
        nonlin_kwargs={"inplace": True, **slope},
        deep_supervision=False,
        **stages,
        **only_plain,
    )
    return network


def permuted(weights: Mapping[str, Tensor], axes: tuple[int, int, int]) -> dict[str, Tensor]:
    """Return weights for three-dimensional layers in another order of axes.

    Parameters
    ----------
    weights : mapping
        Those of a two-dimensional network get a first axis of length 1.
    axes : (3,) tuple of int
        For each axis of the result, the axis of the weights.
    """
    result = {}
    for name, tensor in weights.items():
        if tensor.ndim == 4:
            tensor = tensor[:, :, None]
        if tensor.ndim == 5:
            tensor = tensor.permute(0, 1, *(2 + a for a in axes))
        result[name] = tensor.contiguous()
    return result
