"""Segmentation loss: cross entropy and batch Dice, at full size and at the auxiliary size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.networks import Logits
from medhybrid.training.team import ALONE, Team

SMOOTH_VOXELS = 1.0
"""Added to numerator and denominator of the Dice score, so that it stays defined for an absent label."""


class Loss(Protocol):
    """Loss of a step, with its metrics for the log."""

    @property
    def total(self) -> Tensor:
        """Return the scalar to minimise."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics with their names, for a tracker."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Loss and its terms, each a scalar Tensor."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor
    auxiliary: Tensor

    def metrics(self) -> dict[str, float]:
        """Return the metrics with their names, for a tracker."""
        return {
            "train/loss": float(self.total.detach()),
            "train/cross_entropy": float(self.cross_entropy.detach()),
            "train/dice_loss": float(self.dice.detach()),
            "train/auxiliary_loss": float(self.auxiliary.detach()),
        }


def soft_dice_loss(probabilities: Tensor, target: Tensor, team: Team = ALONE) -> Tensor:
    """Compute 1 - mean soft Dice of the foreground labels, with sums over the whole batch of all processes.

    Parameters
    ----------
    probabilities : (B, K, X, Y, Z) Tensor
    target : (B, X, Y, Z) int64 Tensor

    References
    ----------
    Milletari et al. (2016), doi:10.1109/3DV.2016.79, without squares; batch Dice as in Isensee et al. (2021),
    doi:10.1038/s41592-020-01008-z.
    """
    sums = []
    for k in range(1, probabilities.shape[1]):
        p, t = probabilities[:, k], (target == k).to(probabilities.dtype)
        sums.append(torch.stack([(p * t).sum(), p.sum() + t.sum()]))
    overlap, size = team.total(torch.stack(sums)).unbind(1)
    return (1 - (2 * overlap + SMOOTH_VOXELS) / (size + SMOOTH_VOXELS)).mean()


def compute_loss(logits: Logits, target: Tensor, auxiliary_weight: float, team: Team = ALONE) -> LossTerms:
    """Compute the loss of a batch in float32.

    The gradients, summed over all processes, are those of the whole batch.

    Parameters
    ----------
    target : (B, X, Y, Z) int64 Tensor
    auxiliary_weight : float
        Weight of the same loss at the auxiliary size, for deep supervision. The target is resized to it by nearest neighbour.
    """
    full = logits.full.float()
    cross_entropy = team.total(F.cross_entropy(full, target) / team.size)
    dice = soft_dice_loss(full.softmax(dim=1), target, team)
    auxiliary = torch.zeros((), device=full.device)
    if auxiliary_weight > 0:
        small = logits.auxiliary.float()
        coarse = F.interpolate(target[:, None].float(), size=small.shape[2:], mode="nearest")[:, 0].long()
        auxiliary = team.total(F.cross_entropy(small, coarse) / team.size)
        auxiliary = auxiliary + soft_dice_loss(small.softmax(dim=1), coarse, team)
    return LossTerms(cross_entropy + dice + auxiliary_weight * auxiliary, cross_entropy, dice, auxiliary)
