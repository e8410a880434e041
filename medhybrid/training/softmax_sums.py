"""Sums of class probabilities over voxels, for the loss of many labels: computed in blocks that fit the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from medhybrid.data.fingerprint import UNKNOWN

BLOCK = 4_096
"""Voxels of a block. With 145 classes, its probabilities take 2.4 MB."""


class _SoftmaxSums(torch.autograd.Function):
    """See `softmax_sums`. The probabilities are computed again for the gradient, so that none are kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, classes = _rows_of(logits), target.flatten()
        n_classes = rows.shape[1]
        entropy = torch.zeros((), dtype=torch.float64)
        common, volume = torch.zeros(2, n_classes, dtype=torch.float64).unbind(0)
        for values, own, known in _blocks(rows, classes):
            logarithms = values.log_softmax(dim=1)
            of_target = logarithms.gather(1, own[:, None])[:, 0]
            probabilities = logarithms.exp_()
            if known is not None:
                of_target, probabilities = of_target * known, probabilities * known[:, None]
            entropy -= of_target.sum()
            hit = of_target.exp() if known is None else of_target.exp() * known
            common.index_add_(0, own, hit.double())
            volume += probabilities.sum(dim=0)
        ctx.save_for_backward(logits, target)
        return entropy.float(), common.float(), volume.float()

    @staticmethod
    def backward(ctx: Any, of_entropy: Tensor, of_common: Tensor, of_volume: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        rows, classes = _rows_of(logits), target.flatten()
        gradient = torch.empty_like(rows)
        for (values, own, known), out in zip(_blocks(rows, classes), torch.split(gradient, BLOCK), strict=True):
            probabilities = values.softmax(dim=1)
            hit = probabilities.gather(1, own[:, None])[:, 0]
            pull = of_common[own] * hit  # derivative by the logit of the target, from the common volume
            mean = probabilities @ of_volume + pull
            found = probabilities.mul_(of_volume + (of_entropy - mean)[:, None])
            found.scatter_add_(1, own[:, None], (pull - of_entropy)[:, None])
            out.copy_(found if known is None else found.mul_(known[:, None]))
        x, y, z = logits.shape[2:]
        return gradient.view(len(logits), x, y, z, -1).permute(0, 4, 1, 2, 3), None


def softmax_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over all voxels of known label: cross entropy (), and for each class (K,) common volume and volume.

    The common volume of a class is its probability summed over the voxels that it is the target of; the volume is that over all
    voxels. Sums and gradient are those of `log_softmax` in float32.

    Parameters
    ----------
    logits : (B, K, X, Y, Z) Tensor
        Of any floating-point type.
    target : (B, X, Y, Z) int64 Tensor
        Classes, and `UNKNOWN` where the label is unknown.
    """
    entropy, common, volume = _SoftmaxSums.apply(logits, target)  # type: ignore[no-untyped-call]
    return entropy, common, volume


def _rows_of(logits: Tensor) -> Tensor:
    """Return logits as rows (voxel, class); a view if the memory has the classes last."""
    return logits.permute(0, 2, 3, 4, 1).reshape(-1, logits.shape[1])


def _blocks(rows: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield float32 logits, classes and, if some are unknown, which voxels are known (1 or 0)."""
    for values, own in zip(torch.split(rows, BLOCK), torch.split(classes, BLOCK), strict=True):
        is_known = own != UNKNOWN
        if bool(is_known.all()):
            yield values.float(), own, None
        else:
            yield values.float(), torch.where(is_known, own, 0), is_known.float()
