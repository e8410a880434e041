"""Conversion of the ImageNet weights of R50+ViT-B/16, from the `.npz` files of the Vision Transformer's authors.

In the `.npz`, convolution kernels are (X, Y, I, O), dense layers are (inputs, outputs), and norms have `scale` for our
`weight`. The class token and its position are omitted, because TransUNet has no class token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

NPZ_SIGN = "conv_root/kernel"
"""Name of an array by which the `.npz` is recognised."""

_UNIT = re.compile(r"block(\d)/unit(\d+)/(conv|gn)(\d|_proj)/(kernel|scale|bias)")
_ATTENTION = "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/"
_BLOCK = "bottleneck.transformer.blocks.{}."


def from_npz(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert arrays to the names of `networks.transunet`; class token and classification head are omitted."""
    ours = {
        "encoder.stem.0.weight": _kernel(arrays["conv_root/kernel"]),
        "encoder.stem.1.weight": arrays["gn_root/scale"].flatten(),
        "encoder.stem.1.bias": arrays["gn_root/bias"].flatten(),
        "bottleneck.to_tokens.weight": _kernel(arrays["embedding/kernel"]),
        "bottleneck.to_tokens.bias": arrays["embedding/bias"],
        "bottleneck.positions": without_class_token(arrays["Transformer/posembed_input/pos_embedding"]),
        "bottleneck.transformer.norm.weight": arrays["Transformer/encoder_norm/scale"],
        "bottleneck.transformer.norm.bias": arrays["Transformer/encoder_norm/bias"],
    }
    for name, array in arrays.items():
        if met := _UNIT.fullmatch(name):
            block, unit, kind, which, what = met.groups()
            part = {"conv_proj": "shortcut.0", "gn_proj": "shortcut.1"}.get(
                kind + which, f"{'norm' if kind == 'gn' else 'conv'}{which}"
            )
            place = f"encoder.stages.{int(block) - 1}.{int(unit) - 1}.{part}"
            ours[f"{place}.{'bias' if what == 'bias' else 'weight'}"] = (
                _kernel(array) if what == "kernel" else array.flatten()
            )
    depth = sum(name.endswith("LayerNorm_0/scale") for name in arrays)
    for n in range(depth):
        ours |= _block(arrays, n)
    return ours


def _block(arrays: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    there, here, attention = f"Transformer/encoderblock_{n}/", _BLOCK.format(n), _ATTENTION.format(n)
    width = len(arrays[there + "LayerNorm_0/bias"])
    qkv = [attention + x for x in ("query", "key", "value")]
    return {
        here + "norm1.weight": arrays[there + "LayerNorm_0/scale"],
        here + "norm1.bias": arrays[there + "LayerNorm_0/bias"],
        here + "norm2.weight": arrays[there + "LayerNorm_2/scale"],
        here + "norm2.bias": arrays[there + "LayerNorm_2/bias"],
        here + "attention.qkv.weight": torch.cat([arrays[x + "/kernel"].reshape(width, width).T for x in qkv]),
        here + "attention.qkv.bias": torch.cat([arrays[x + "/bias"].flatten() for x in qkv]),
        here + "attention.out.weight": arrays[attention + "out/kernel"].reshape(width, width).T,
        here + "attention.out.bias": arrays[attention + "out/bias"],
        here + "mlp.0.weight": arrays[there + "MlpBlock_3/Dense_0/kernel"].T,
        here + "mlp.0.bias": arrays[there + "MlpBlock_3/Dense_0/bias"],
        here + "mlp.2.weight": arrays[there + "MlpBlock_3/Dense_1/kernel"].T,
        here + "mlp.2.bias": arrays[there + "MlpBlock_3/Dense_1/bias"],
    }


def _kernel(array: Tensor) -> Tensor:
    return array.permute(3, 2, 0, 1)  # (X, Y, I, O) -> (O, I, X, Y)


def without_class_token(positions: Tensor) -> Tensor:
    """Remove the position of a class token, if there, from position embeddings (1, T, D) of a square grid."""
    side = int((positions.shape[1]) ** 0.5)
    return positions[:, positions.shape[1] - side * side :]
