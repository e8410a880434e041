"""Translation of the weight names of known networks to ours.

A layout is a list of (pattern, our name). Groups of the pattern are inserted in our name; `{0-1}` is the first group minus one.
A weight that matches no pattern has no counterpart in our networks. `fit.py` compares shapes afterwards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from medhybrid.starts.transunet import NPZ_SIGN, from_npz

Rules = tuple[tuple[str, str], ...]

_AFFINE = "(weight|bias)"

RESNET: Rules = (
    # torchvision, timm and MedicalNet, with two convolutions per block. Scale and bias of batch norm go to instance norm.
    (r"conv1\.weight", "encoder.stem.0.weight"),
    (rf"bn1\.{_AFFINE}", "encoder.stem.1.{0}"),
    (r"layer(\d)\.(\d+)\.conv1\.weight", "encoder.stages.{0-1}.{1}.first.0.weight"),
    (rf"layer(\d)\.(\d+)\.bn1\.{_AFFINE}", "encoder.stages.{0-1}.{1}.first.1.{2}"),
    (r"layer(\d)\.(\d+)\.conv2\.weight", "encoder.stages.{0-1}.{1}.second.weight"),
    (rf"layer(\d)\.(\d+)\.bn2\.{_AFFINE}", "encoder.stages.{0-1}.{1}.norm.{2}"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.weight", "encoder.stages.{0-1}.{1}.shortcut.1.weight"),
)

RESENC: Rules = (
    # Residual encoder of nnU-Net, as in OpenMind. Its first stage works at full size, where ours has no stage.
    (r"(?:.*\.)?encoder\.stem\.convs\.0\.conv\.weight", "encoder.stem.0.weight"),
    (rf"(?:.*\.)?encoder\.stem\.convs\.0\.norm\.{_AFFINE}", "encoder.stem.1.{0}"),
    (r"(?:.*\.)?encoder\.stages\.(\d)\.blocks\.(\d+)\.conv1\.conv\.weight", "encoder.stages.{0}.{1}.first.0.weight"),
    (rf"(?:.*\.)?encoder\.stages\.(\d)\.blocks\.(\d+)\.conv1\.norm\.{_AFFINE}", "encoder.stages.{0}.{1}.first.1.{2}"),
    (r"(?:.*\.)?encoder\.stages\.(\d)\.blocks\.(\d+)\.conv2\.conv\.weight", "encoder.stages.{0}.{1}.second.weight"),
    (rf"(?:.*\.)?encoder\.stages\.(\d)\.blocks\.(\d+)\.conv2\.norm\.{_AFFINE}", "encoder.stages.{0}.{1}.norm.{2}"),
    (
        r"(?:.*\.)?encoder\.stages\.(\d)\.blocks\.(\d+)\.skip\.\d\.conv\.weight",
        "encoder.stages.{0}.{1}.shortcut.1.weight",
    ),
)

VIT: Rules = (
    # Standard blocks of timm's Vision Transformers and of Primus.
    (rf"(?:.*\.)?blocks\.(\d+)\.norm(\d)\.{_AFFINE}", "bottleneck.transformer.blocks.{0}.norm{1}.{2}"),
    (rf"(?:.*\.)?blocks\.(\d+)\.attn\.qkv\.{_AFFINE}", "bottleneck.transformer.blocks.{0}.attention.qkv.{1}"),
    (rf"(?:.*\.)?blocks\.(\d+)\.attn\.proj\.{_AFFINE}", "bottleneck.transformer.blocks.{0}.attention.out.{1}"),
    (rf"(?:.*\.)?blocks\.(\d+)\.mlp\.fc1\.{_AFFINE}", "bottleneck.transformer.blocks.{0}.mlp.0.{1}"),
    (rf"(?:.*\.)?blocks\.(\d+)\.mlp\.fc2\.{_AFFINE}", "bottleneck.transformer.blocks.{0}.mlp.2.{1}"),
    (rf"(?:.*\.)?norm\.{_AFFINE}", "bottleneck.transformer.norm.{0}"),
)

TIMM_R50_VIT: Rules = (
    # vit_base_r50_s16 of timm, whose blocks have the names of `VIT`.
    (r"patch_embed\.backbone\.stem\.conv\.weight", "encoder.stem.0.weight"),
    (rf"patch_embed\.backbone\.stem\.norm\.{_AFFINE}", "encoder.stem.1.{0}"),
    (r"patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d+)\.conv(\d)\.weight", "encoder.stages.{0}.{1}.conv{2}.weight"),
    (rf"patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d+)\.norm(\d)\.{_AFFINE}", "encoder.stages.{0}.{1}.norm{2}.{3}"),
    (
        r"patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d+)\.downsample\.conv\.weight",
        "encoder.stages.{0}.{1}.shortcut.0.weight",
    ),
    (
        rf"patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d+)\.downsample\.norm\.{_AFFINE}",
        "encoder.stages.{0}.{1}.shortcut.1.{2}",
    ),
    (rf"patch_embed\.proj\.{_AFFINE}", "bottleneck.to_tokens.{0}"),
    (r"pos_embed", "bottleneck.positions"),
    *((rf"(?!patch_embed){pattern}", ours) for pattern, ours in VIT),
)

LAYOUTS: dict[str, Rules] = {
    "ResNet": RESNET,
    "nnU-Net's residual encoder": RESENC,
    "Vision Transformer": VIT,
    "R50+ViT of timm": TIMM_R50_VIT,
}


def to_our_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the layout that matches most weights, and these weights by our names; an empty name if none matches."""
    if NPZ_SIGN in tensors:
        return "R50+ViT", from_npz(tensors)
    # ResNets with three convolutions per block use the same names for other layers, so their weights must not match.
    has_three = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in tensors)
    fitting = {layout: rules for layout, rules in LAYOUTS.items() if not (has_three and rules is RESNET)}
    renamed = {layout: _rename(tensors, rules) for layout, rules in fitting.items()}
    best = max(renamed, key=lambda layout: len(renamed[layout]))
    return (best, renamed[best]) if renamed[best] else ("", {})


def _rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Rename tensors to our names; if two tensors get the same name, both are omitted."""
    ours = {name: _our_name(name, rules) for name in tensors}
    counts = Counter(ours.values())
    return {our: tensors[name] for name, our in ours.items() if our and counts[our] == 1}


def _our_name(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, ours in rules:
        if met := re.fullmatch(pattern, name):
            return re.sub(r"\{(\d)(-1)?\}", lambda m: _group(met, int(m[1]), less=bool(m[2])), ours)
    return ""


def _group(met: re.Match[str], index: int, *, less: bool) -> str:
    text: str = met.group(index + 1)
    return str(int(text) - 1) if less else text
