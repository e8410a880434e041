"""Segmentation loss of a batch: the terms of the config's loss, at full size and at the auxiliary size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.networks import Logits
from medhybrid.networks.regions import RegionScores
from medhybrid.training.loss_terms import DICE_CE, LossRule, label_terms, region_terms
from medhybrid.training.team import ALONE, Team

Terms = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Function from logits (B, K, X, Y, Z) and target (B, X, Y, Z) to scalar terms, by name."""


class Loss(Protocol):
    """Loss of a step, with its metrics for the log."""

    @property
    def total(self) -> Tensor:
        """Return the scalar to minimise."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics with their names, for a tracker."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Loss and its named terms, each a scalar Tensor."""

    total: Tensor
    terms: Mapping[str, Tensor]

    def metrics(self) -> dict[str, float]:
        """Return the metrics with their names, for a tracker."""
        named = {"loss": self.total, **self.terms}
        return {f"train/{name}": float(value.detach()) for name, value in named.items()}


def compute_loss(
    logits: Logits,
    target: Tensor,
    auxiliary_weight: float,
    team: Team = ALONE,
    *,
    rule: LossRule = DICE_CE,
    has_unknown: bool = False,
    annotated: Tensor | None = None,
) -> LossTerms:
    """Compute the loss of a batch in float32.

    The gradients, summed over all processes, are those of the whole batch.

    Parameters
    ----------
    target : (B, X, Y, Z) int64 Tensor
    auxiliary_weight : float
        Weight of the same loss at the auxiliary size, for deep supervision. The target is resized to it by nearest neighbour.
    has_unknown : bool
        Whether the target may have voxels of unknown label (`UNKNOWN`), which are left out of each term.
    annotated : (B, K - 1) bool Tensor, optional
        Whether each sample has each label; all by default. The target of a voxel of a missing label is 0.
    """
    terms = partial(label_terms, rule=rule, team=team, has_unknown=has_unknown, annotated=annotated)
    return sum_of_sizes(terms, logits, target, auxiliary_weight)


def compute_region_loss(
    logits: Logits,
    target: Tensor,
    regions: RegionScores,
    auxiliary_weight: float,
    team: Team = ALONE,
    *,
    rule: LossRule = DICE_CE,
    annotated: Tensor | None = None,
) -> LossTerms:
    """Compute the loss of regions in float32, for example binary cross entropy and batch Dice of each.

    Parameters
    ----------
    target : (B, X, Y, Z) int64 Tensor
        Classes; voxels of unknown label (`UNKNOWN`) are left out.
    annotated : (B, R) bool Tensor, optional
        Whether each sample has each region; all by default.
    """
    terms = partial(region_terms, regions=regions, rule=rule, team=team, annotated=annotated)
    return sum_of_sizes(terms, logits, target, auxiliary_weight)


def sum_of_sizes(terms: Terms, logits: Logits, target: Tensor, auxiliary_weight: float) -> LossTerms:
    """Return the sum of the terms at full size and, weighted, of those at the auxiliary size."""
    found = terms(logits.full, target)
    auxiliary = torch.zeros((), device=target.device)
    if auxiliary_weight > 0:
        small = logits.auxiliary
        coarse = F.interpolate(target[:, None].float(), size=small.shape[2:], mode="nearest")[:, 0].long()
        auxiliary = reduce(add, terms(small, coarse).values())
    total = reduce(add, found.values()) + auxiliary_weight * auxiliary
    return LossTerms(total, {**found, "auxiliary_loss": auxiliary})
