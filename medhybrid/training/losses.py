"""Segmentation loss: cross entropy and batch Dice, at full size and at the auxiliary size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.networks import Logits
from medhybrid.networks.regions import RegionScores
from medhybrid.training.team import ALONE, Team

SMOOTH_VOXELS = 1.0
"""Added to numerator and denominator of the Dice score, so that it stays defined for an absent label."""


MANY_CLASSES = 16
"""Number of classes above which Dice is summed by index: the time then hardly grows with the number of labels."""


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
    n_classes = probabilities.shape[1]
    if n_classes > MANY_CLASSES:
        sums = _sums_of_many(probabilities, target)
    else:
        each = []
        for k in range(1, n_classes):
            p, t = probabilities[:, k], (target == k).to(probabilities.dtype)
            each.append(torch.stack([(p * t).sum(), p.sum() + t.sum()]))
        sums = torch.stack(each)
    overlap, size = team.total(sums).unbind(1)
    return (1 - (2 * overlap + SMOOTH_VOXELS) / (size + SMOOTH_VOXELS)).mean()


def _sums_of_many(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return overlap and size (K - 1, 2) of each foreground class, in one pass over the voxels."""
    n_classes = probabilities.shape[1]
    classes = torch.where(target < n_classes, target, 0)
    hit = probabilities.gather(1, classes[:, None]).flatten()
    overlap = torch.zeros(n_classes, device=hit.device, dtype=hit.dtype).index_add(0, classes.flatten(), hit)
    size = probabilities.sum(dim=(0, 2, 3, 4)) + torch.bincount(classes.flatten(), minlength=n_classes)
    return torch.stack([overlap, size], dim=1)[1:]


def compute_loss(
    logits: Logits, target: Tensor, auxiliary_weight: float, team: Team = ALONE, *, has_unknown: bool = False
) -> LossTerms:
    """Compute the loss of a batch in float32.

    The gradients, summed over all processes, are those of the whole batch.

    Parameters
    ----------
    target : (B, X, Y, Z) int64 Tensor
    auxiliary_weight : float
        Weight of the same loss at the auxiliary size, for deep supervision. The target is resized to it by nearest neighbour.
    has_unknown : bool
        Whether the target may have voxels of unknown label (`UNKNOWN`), which are left out of both terms.
    """
    full = logits.full.float()
    cross_entropy = _cross_entropy(full, target, team, has_unknown=has_unknown)
    dice = soft_dice_loss(_known(full.softmax(dim=1), target, has_unknown=has_unknown), target, team)
    auxiliary = torch.zeros((), device=full.device)
    if auxiliary_weight > 0:
        small = logits.auxiliary.float()
        coarse = F.interpolate(target[:, None].float(), size=small.shape[2:], mode="nearest")[:, 0].long()
        auxiliary = _cross_entropy(small, coarse, team, has_unknown=has_unknown)
        known = _known(small.softmax(dim=1), coarse, has_unknown=has_unknown)
        auxiliary = auxiliary + soft_dice_loss(known, coarse, team)
    return LossTerms(cross_entropy + dice + auxiliary_weight * auxiliary, cross_entropy, dice, auxiliary)


def _cross_entropy(logits: Tensor, target: Tensor, team: Team, *, has_unknown: bool) -> Tensor:
    """Return the mean cross entropy of the voxels with known label; 0 without such voxels."""
    if not has_unknown:
        return team.total(F.cross_entropy(logits, target) / team.size)
    summed = F.cross_entropy(logits, target, ignore_index=UNKNOWN, reduction="sum")
    return team.total(summed / (target != UNKNOWN).sum().clamp_min(1) / team.size)


def _known(probabilities: Tensor, target: Tensor, *, has_unknown: bool) -> Tensor:
    """Return the probabilities (B, K, X, Y, Z), 0 in voxels of unknown label."""
    return probabilities * (target != UNKNOWN)[:, None] if has_unknown else probabilities


def compute_region_loss(
    logits: Logits,
    target: Tensor,
    regions: RegionScores,
    auxiliary_weight: float,
    team: Team = ALONE,
) -> LossTerms:
    """Compute the loss of regions in float32: binary cross entropy and batch Dice of each.

    Parameters
    ----------
    target : (B, X, Y, Z) int64 Tensor
        Classes; voxels of unknown label (`UNKNOWN`) are left out.
    """
    cross_entropy, dice = _region_terms(logits.full.float(), target, regions, team)
    auxiliary = torch.zeros((), device=target.device)
    if auxiliary_weight > 0:
        small = logits.auxiliary.float()
        coarse = F.interpolate(target[:, None].float(), size=small.shape[2:], mode="nearest")[:, 0].long()
        auxiliary = torch.stack(_region_terms(small, coarse, regions, team)).sum()
    return LossTerms(cross_entropy + dice + auxiliary_weight * auxiliary, cross_entropy, dice, auxiliary)


def _region_terms(logits: Tensor, target: Tensor, regions: RegionScores, team: Team) -> tuple[Tensor, Tensor]:
    """Return binary cross entropy and Dice loss of region logits (B, R, X, Y, Z)."""
    known = (target != UNKNOWN)[:, None]
    wanted = regions.targets(target)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * known
    cross_entropy = team.total(each.sum() / (known.sum().clamp_min(1) * logits.shape[1]) / team.size)
    probabilities = logits.sigmoid() * known
    over = (0, 2, 3, 4)
    sums = torch.stack([(probabilities * wanted).sum(over), probabilities.sum(over) + wanted.sum(over)], dim=1)
    overlap, size = team.total(sums).unbind(1)
    return cross_entropy, (1 - (2 * overlap + SMOOTH_VOXELS) / (size + SMOOTH_VOXELS)).mean()
