"""Fitting of pretrained weights to the shapes of a network, with a row of results for each weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from medhybrid.files import write_csv
from medhybrid.inference.weights_file import UNKNOWN
from medhybrid.networks.blocks import Upsample
from medhybrid.networks.transunet import resize_positions
from medhybrid.starts.transunet import without_class_token

What = Literal["taken", "adapted", "other shape", "not there", "not asked for"]

IMAGE_INPUTS = ("encoder.stem.0.weight", "encoder.project.weight")
"""First convolutions; their inputs are the channels of a study."""

DETAIL = "decoder.detail.0.weight"
"""Convolution whose last inputs are the channels of a study."""

CLASS_OUTPUTS = ("decoder.logits.", "decoder.auxiliary.")
"""Last convolutions; their outputs are background and the labels of a study."""


@dataclass(frozen=True, slots=True)
class Row:
    """Result for one weight of the network.

    Attributes
    ----------
    what : str
        Whether the weight was initialised, or why not.
    how : str
        Changes to the pretrained tensor, or details of the reason.
    """

    weight: str
    what: What
    how: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Initialisation of a network: source of the weights, a row per weight, and hashes of their training images."""

    source: str
    sha256: str
    rows: tuple[Row, ...]
    training_images: tuple[str, ...] = (UNKNOWN,)

    def count(self, *what: What) -> int:
        """Return the number of weights with one of these results."""
        return sum(row.what in what for row in self.rows)

    def save(self, path: Path) -> Path:
        """Save the rows as CSV."""
        head = [["weight", "what", "how"], ["(source)", self.source, f"sha256 {self.sha256}"]]
        write_csv(path, [*head, *([row.weight, row.what, row.how] for row in self.rows)])
        return path

    def __str__(self) -> str:
        taken = self.count("taken", "adapted")
        said = f"{taken} of {len(self.rows)} weights initialised from {self.source} ({self.count('adapted')} of them adapted)"
        if UNKNOWN in self.training_images:
            said += "; their training scans are unknown, so they are not checked for data leakage into validation"
        return said


@dataclass(frozen=True, slots=True)
class Names:
    """Channels and labels of a study."""

    channels: Sequence[str] = ()
    labels: Sequence[str] = ()


def fit(network: nn.Module, tensors: Mapping[str, Tensor], theirs: Names, ours: Names) -> list[Row]:
    """Set the weights of a network from tensors of the same names, adapted where shapes differ; return a row per weight."""
    strided = {f"{name}.weight": m for name, m in network.named_modules() if isinstance(m, nn.Conv3d | Upsample)}
    rows = []
    for name, weight in network.named_parameters():
        tensor = tensors.get(name)
        if tensor is None:
            rows.append(Row(name, "not there"))
            continue
        adapted, how = tensor.to(weight), []
        for change, adapt in ADAPTATIONS.items():
            before = adapted
            adapted = adapt(name, adapted, weight, theirs, ours, strided.get(name))
            if adapted is not before:
                how.append(change)
        if adapted.shape != weight.shape:
            rows.append(Row(name, "other shape", f"{tuple(tensor.shape)} there, {tuple(weight.shape)} here"))
            continue
        with torch.no_grad():
            weight.copy_(adapted)
        rows.append(Row(name, "adapted" if how else "taken", ", ".join(how)))
    return rows + _fit_statistics(network, tensors)


def _fit_statistics(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[Row]:
    """Set the running statistics of batch norm; they are buffers, so `named_parameters` does not have them."""
    rows = []
    for name in network.state_dict().keys() - dict(network.named_parameters()).keys():
        buffer = network.get_buffer(name)
        if name in tensors and tensors[name].shape == buffer.shape:
            buffer.copy_(tensors[name])
            rows.append(Row(name, "taken"))
    return sorted(rows, key=lambda row: row.weight)


def _inflated(name: str, x: Tensor, weight: Tensor, theirs: Names, ours: Names, module: nn.Module | None) -> Tensor:
    """Inflate a 2-D kernel (O, I, X, Y) to 3-D: repeat it along Z and divide it by the depth.

    An image with equal slices then gives the same features as in 2-D.

    References
    ----------
    Carreira and Zisserman (2017), doi:10.1109/CVPR.2017.502, section 3.
    """
    if x.ndim != 4 or weight.ndim != 5:
        return x
    depth = weight.shape[-1]
    return x[..., None].expand(*x.shape, depth) / depth


def _with_channels(
    name: str, x: Tensor, weight: Tensor, theirs: Names, ours: Names, module: nn.Module | None
) -> Tensor:
    """Adapt the input channels of a kernel.

    Channels of the same name keep their weights; other channels get the mean over all channels. If the channels are unnamed,
    each gets that mean, scaled so that the sum over channels stays the same.
    """
    if name in IMAGE_INPUTS:
        first = 0
    elif name == DETAIL and theirs.channels:
        first = x.shape[1] - len(theirs.channels)
    else:
        return x
    if tuple(theirs.channels) == tuple(ours.channels) or x.ndim != 5:
        return x
    kept, inputs = x[:, :first], x[:, first:]
    mean = inputs.mean(1)
    known = {channel: inputs[:, i] for i, channel in enumerate(theirs.channels)}
    n = len(ours.channels)
    share = inputs.shape[1] / n if not known else 1.0  # keeps the size of activations
    if not known and inputs.shape[1] == n:
        return x
    return torch.cat([kept, torch.stack([known.get(channel, mean * share) for channel in ours.channels], dim=1)], dim=1)


def _with_labels(name: str, x: Tensor, weight: Tensor, theirs: Names, ours: Names, module: nn.Module | None) -> Tensor:
    """Adapt the output labels: background and labels of the same name are taken, other labels keep their initial weights."""
    if not name.startswith(CLASS_OUTPUTS) or not theirs.labels or tuple(theirs.labels) == tuple(ours.labels):
        return x
    if x.shape[1:] != weight.shape[1:]:
        return x
    rows = weight.detach().clone()
    rows[0] = x[0]
    for i, label in enumerate(ours.labels, start=1):
        if label in theirs.labels:
            rows[i] = x[1 + list(theirs.labels).index(label)]
    return rows


def _with_strides(name: str, x: Tensor, weight: Tensor, theirs: Names, ours: Names, module: nn.Module | None) -> Tensor:
    """Adapt a kernel whose size equals its stride to another stride, by repeating or pooling its values."""
    tiles = isinstance(module, Upsample) or (isinstance(module, nn.Conv3d) and module.kernel_size == module.stride)
    if not tiles or x.ndim != 5 or x.shape[:2] != weight.shape[:2]:
        return x
    for axis in (2, 3, 4):
        here, there = weight.shape[axis], x.shape[axis]
        if here == there or max(here, there) % min(here, there):
            continue
        # Keep the sum of the kernel of a convolution, but the mean of that of a transposed convolution.
        sums = not isinstance(module, Upsample)
        if here > there:
            x = x.repeat_interleave(here // there, dim=axis) / (here // there if sums else 1)
        else:
            x = x.reshape(*x.shape[:axis], here, there // here, *x.shape[axis + 1 :])
            x = x.sum(axis + 1) if sums else x.mean(axis + 1)
    return x


def _with_positions(
    name: str, x: Tensor, weight: Tensor, theirs: Names, ours: Names, module: nn.Module | None
) -> Tensor:
    """Adapt position embeddings (1, T, D): remove the class token and interpolate to the token grid of the network."""
    if not name.endswith("positions") or x.ndim != 3 or x.shape == weight.shape or x.shape[2] != weight.shape[2]:
        return x
    side = math.isqrt(weight.shape[1])
    return resize_positions(without_class_token(x), side, side)


ADAPTATIONS: dict[str, Callable[[str, Tensor, Tensor, Names, Names, nn.Module | None], Tensor]] = {
    "made 3-D": _inflated,
    "channels": _with_channels,
    "labels": _with_labels,
    "stride": _with_strides,
    "positions": _with_positions,
}
"""Adaptations of a tensor, applied in this order: (name, tensor, weight, their names, our names, module) -> tensor."""
