"""Terms of the segmentation loss: of single voxels (cross entropy, focal) and of overlap (Dice, Tversky)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.config import TrainingConfig
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.networks.regions import RegionScores
from medhybrid.training.softmax_sums import softmax_sums
from medhybrid.training.team import ALONE, Team

SMOOTH_VOXELS = 1.0
"""Added to numerator and denominator of the overlap, so that it stays defined for an absent label."""

MANY_CLASSES = 16
"""Number of classes above which overlap is summed by index: the time then hardly grows with the number of labels."""

NEVER = -1e9
"""Logit of a class without probability."""

LEAST_WEIGHT = 1e-6
"""Lowest sum of weights that a mean divides by."""

VoxelTerm = Literal["cross_entropy", "focal_loss"]


@dataclass(frozen=True, slots=True)
class OverlapRule:
    """Overlap of a mask with its reference: (n TP + 1) / (size + (n - alpha - beta) TP + 1).

    TP is the common volume, and the size is alpha times the volume of the mask plus beta times that of the reference. Dice has
    n = 2 and alpha = beta = 1, Tversky n = 1.

    References
    ----------
    Milletari et al. (2016), doi:10.1109/3DV.2016.79, without squares; batch Dice as in Isensee et al. (2021),
    doi:10.1038/s41592-020-01008-z; Tversky: Salehi et al. (2017), doi:10.1007/978-3-319-67389-9_44.
    """

    name: str
    factor: float
    alpha: float
    beta: float

    def losses(self, common: Tensor, size: Tensor) -> Tensor:
        """Return 1 - overlap of (K,) labels."""
        rest = self.factor - self.alpha - self.beta
        if abs(rest) > 1e-9:
            size = size + rest * common
        return 1 - (self.factor * common + SMOOTH_VOXELS) / (size + SMOOTH_VOXELS)

    def loss_of_annotated(self, sums: Tensor, annotated: Tensor, team: Team) -> Tensor:
        """Return 1 - mean overlap of the labels that some sample of the batch has; each is summed over these samples.

        Parameters
        ----------
        sums : (B, K, 2) Tensor
            Common volume and size of each label in each sample.
        annotated : (B, K) bool Tensor
        """
        losses = self.losses(*team.total((sums * annotated[..., None]).sum(0)).unbind(1))
        is_present = team.total(annotated.to(sums.dtype).sum(0)) > 0
        return (losses * is_present).sum() / is_present.sum().clamp_min(1)


DICE = OverlapRule("dice", 2.0, 1.0, 1.0)


def tversky(alpha: float, beta: float) -> OverlapRule:
    """Return the Tversky overlap: TP / (TP + alpha FP + beta FN)."""
    return OverlapRule("tversky", 1.0, alpha, beta)


@dataclass(frozen=True, slots=True)
class LossRule:
    """Terms of a loss, each with weight 1.

    Attributes
    ----------
    voxel : str, optional
        `cross_entropy` or `focal_loss`.
    overlap : OverlapRule, optional
    gamma : float
        Focusing exponent of the focal loss (Lin et al. (2017), doi:10.1109/ICCV.2017.324).
    weights : (K,) Tensor, optional
        Weight of each class in the voxel term: background and labels, or regions.
    """

    voxel: VoxelTerm | None = "cross_entropy"
    overlap: OverlapRule | None = DICE
    gamma: float = 2.0
    weights: Tensor | None = None

    @property
    def allows_sums(self) -> bool:
        """Return whether `softmax_sums` has all that the terms need."""
        return self.overlap is not None and self.voxel in (None, "cross_entropy") and self.weights is None

    @classmethod
    def of(
        cls, config: TrainingConfig, weights: Mapping[str, float] | None = None, device: torch.device | None = None
    ) -> LossRule:
        """Return the rule of a config, with weights by class in the order of the network's outputs."""
        has_voxels = config.loss != "tversky"
        has_tversky = config.loss in ("tversky", "tversky_ce")
        overlap = tversky(config.tversky_alpha, config.tversky_beta) if has_tversky else DICE
        return cls(
            voxel=None if not has_voxels else "focal_loss" if config.loss == "dice_focal" else "cross_entropy",
            overlap=None if config.loss == "ce" else overlap,
            gamma=config.focal_gamma,
            weights=None if weights is None else torch.tensor(list(weights.values()), device=device),
        )


DICE_CE = LossRule()


def label_terms(
    logits: Tensor,
    target: Tensor,
    rule: LossRule,
    team: Team = ALONE,
    *,
    has_unknown: bool = False,
    annotated: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of disjoint labels, by name.

    In a sample that does not have all labels, the probability of its missing labels is added to that of the background in the
    voxel term (marginal loss), and overlap is that of its labels.

    Parameters
    ----------
    logits : (B, K, X, Y, Z) Tensor
        The terms are computed in float32.
    target : (B, X, Y, Z) int64 Tensor
    has_unknown : bool
        Whether the target may have voxels of unknown label (`UNKNOWN`), which are left out of each term.
    annotated : (B, K - 1) bool Tensor, optional
        Whether each sample has each label; all by default. The target of a voxel of a missing label is 0.

    References
    ----------
    Marginal loss: Shi et al. (2021), doi:10.1016/j.media.2021.101979.
    """
    if annotated is None and rule.allows_sums and logits.device.type == "cpu" and logits.shape[1] > MANY_CLASSES:
        return _terms_of_sums(logits, target, rule, team)
    logits = logits.float()
    terms: dict[str, Tensor] = {}
    if rule.voxel is not None:
        merged = logits if annotated is None else _merge_missing(logits, annotated)
        terms[rule.voxel] = _voxel_term(merged, target, rule, team, has_unknown=has_unknown)
    if rule.overlap is not None:
        probabilities = logits.softmax(dim=1)
        if has_unknown:
            probabilities = probabilities * (target != UNKNOWN)[:, None]
        terms[f"{rule.overlap.name}_loss"] = overlap_loss(
            probabilities, target, rule.overlap, team, annotated=annotated
        )
    return terms


def _terms_of_sums(logits: Tensor, target: Tensor, rule: LossRule, team: Team) -> dict[str, Tensor]:
    """Return the terms of many labels from sums over blocks of voxels, which is several times as fast on a CPU."""
    assert rule.overlap is not None
    entropy, common, volume = softmax_sums(logits, target)
    known = target[target != UNKNOWN]
    counts = torch.bincount(known, minlength=logits.shape[1])
    terms = {} if rule.voxel is None else {rule.voxel: team.total(entropy / team.total(counts.sum()).clamp_min(1))}
    sums = torch.stack([common, rule.overlap.alpha * volume + rule.overlap.beta * counts], dim=1)[1:]
    return terms | {f"{rule.overlap.name}_loss": rule.overlap.losses(*team.total(sums).unbind(1)).mean()}


def _merge_missing(logits: Tensor, annotated: Tensor) -> Tensor:
    """Return logits (B, K, X, Y, Z) in which the background has the probability of all labels that a sample does not have."""
    is_missing = torch.cat([torch.zeros_like(annotated[:, :1]), ~annotated], dim=1)[
        ..., None, None, None
    ]  # (B, K, 1, 1, 1)
    is_outside = is_missing.clone()
    is_outside[:, 0] = True  # background and missing labels
    background = logits.masked_fill(~is_outside, NEVER).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(is_missing[:, 1:], NEVER)], dim=1)


def _voxel_term(logits: Tensor, target: Tensor, rule: LossRule, team: Team, *, has_unknown: bool) -> Tensor:
    """Return the mean over the voxels with known label, weighted by their classes; 0 without such voxels."""
    weights = rule.weights
    is_deterministic = logits.device.type != "cpu" and torch.are_deterministic_algorithms_enabled()
    if rule.voxel == "cross_entropy" and weights is None and not has_unknown and not is_deterministic:
        return team.total(F.cross_entropy(logits, target) / team.size)
    if rule.voxel == "cross_entropy" and not is_deterministic:
        summed = F.cross_entropy(logits, target, weights, ignore_index=UNKNOWN, reduction="sum")
    else:
        if is_deterministic:
            each = deterministic_cross_entropy(logits, target)
        else:
            each = F.cross_entropy(logits, target, ignore_index=UNKNOWN, reduction="none")
        if rule.voxel == "focal_loss":
            each = _focal(each, rule.gamma)
        summed = each.sum() if weights is None else (each * _weight_of(target, weights)).sum()
    if weights is None:
        return team.total(summed / team.total((target != UNKNOWN).sum()).clamp_min(1))
    return team.total(summed / team.total(_weight_of(target, weights).sum()).clamp_min(LEAST_WEIGHT))


def deterministic_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy (B, X, Y, Z) of each voxel, 0 where the label is unknown.

    Torch's cross entropy has no deterministic algorithm on GPUs.
    """
    classes = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1, 1)
    is_of_class = target[:, None] == classes  # (B, K, X, Y, Z); False for all classes in voxels of unknown label
    return -torch.where(is_of_class, logits.log_softmax(dim=1), 0.0).sum(dim=1)


def _weight_of(target: Tensor, weights: Tensor) -> Tensor:
    """Return the weight of each voxel; 0 where the label is unknown."""
    is_known = target != UNKNOWN
    return weights[torch.where(is_known, target, 0)] * is_known


def _focal(cross_entropy: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)^gamma times the cross entropy -log p of each voxel."""
    return (-torch.expm1(-cross_entropy)) ** gamma * cross_entropy


def overlap_loss(
    probabilities: Tensor,
    target: Tensor,
    rule: OverlapRule,
    team: Team = ALONE,
    *,
    annotated: Tensor | None = None,
) -> Tensor:
    """Compute 1 - mean overlap of the foreground labels, with sums over the whole batch of all processes.

    Parameters
    ----------
    probabilities : (B, K, X, Y, Z) Tensor
    target : (B, X, Y, Z) int64 Tensor
    annotated : (B, K - 1) bool Tensor, optional
        Whether each sample has each label; all by default.
    """
    if annotated is not None:
        pairs = zip(torch.split(probabilities, 1), torch.split(target, 1), strict=True)
        sums = torch.stack([_sums(p, t, rule) for p, t in pairs])
        return rule.loss_of_annotated(sums, annotated, team)
    common, size = team.total(_sums(probabilities, target, rule)).unbind(1)
    return rule.losses(common, size).mean()


def _sums(probabilities: Tensor, target: Tensor, rule: OverlapRule) -> Tensor:
    """Return common volume and size (K - 1, 2) of each foreground class."""
    n_classes = probabilities.shape[1]
    if n_classes > MANY_CLASSES:
        return _sums_of_many(probabilities, target, rule)
    each = []
    for k in range(1, n_classes):
        p, t = probabilities[:, k], (target == k).to(probabilities.dtype)
        each.append(torch.stack([(p * t).sum(), rule.alpha * p.sum() + rule.beta * t.sum()]))
    return torch.stack(each)


def _sums_of_many(probabilities: Tensor, target: Tensor, rule: OverlapRule) -> Tensor:
    """Return common volume and size (K - 1, 2) of each foreground class, in one pass over the voxels."""
    n_classes = probabilities.shape[1]
    classes = torch.where(target < n_classes, target, 0)
    hit = probabilities.gather(1, classes[:, None]).flatten()
    common = torch.zeros(n_classes, device=hit.device, dtype=hit.dtype).index_add(0, classes.flatten(), hit)
    counts = _counts(classes.flatten(), n_classes)
    size = rule.alpha * probabilities.sum(dim=(0, 2, 3, 4)) + rule.beta * counts
    return torch.stack([common, size], dim=1)[1:]


def _counts(classes: Tensor, n_classes: int) -> Tensor:
    """Return the number (K,) of voxels of each class (N,).

    On a GPU, `bincount` waits for the highest class, so that a step could not be recorded.
    """
    if classes.device.type == "cpu":
        return torch.bincount(classes, minlength=n_classes)
    zeros = torch.zeros(n_classes, device=classes.device, dtype=torch.int64)
    return zeros.index_add(0, classes, torch.ones_like(classes))


def region_terms(
    logits: Tensor,
    target: Tensor,
    regions: RegionScores,
    rule: LossRule,
    team: Team = ALONE,
    *,
    annotated: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of regions, by name: a sigmoid separates each region from its outside.

    A region that a sample does not have is left out for this sample.

    Parameters
    ----------
    logits : (B, R, X, Y, Z) Tensor
        The terms are computed in float32.
    target : (B, X, Y, Z) int64 Tensor
        Classes; voxels of unknown label (`UNKNOWN`) are left out.
    annotated : (B, R) bool Tensor, optional
        Whether each sample has each region; all by default.
    """
    logits = logits.float()
    known = (target != UNKNOWN)[:, None]  # (B, 1, X, Y, Z)
    has = None if annotated is None else annotated[..., None, None, None]  # (B, R, 1, 1, 1)
    counted = known if has is None else known & has
    wanted = regions.targets(target)
    terms: dict[str, Tensor] = {}
    if rule.voxel is not None:
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if rule.voxel == "focal_loss":
            each = _focal(each, rule.gamma)
        weights = torch.ones(logits.shape[1], device=logits.device) if rule.weights is None else rule.weights
        if rule.weights is not None:
            each = each * weights[:, None, None, None]
        if has is None:
            n_known = team.total(known.sum()).clamp_min(1) * (
                logits.shape[1] if rule.weights is None else weights.sum()
            )
        else:
            n_known = team.total((counted.sum((0, 2, 3, 4)) * weights).sum()).clamp_min(LEAST_WEIGHT)
        terms[rule.voxel] = team.total((each * counted).sum() / n_known)
    if rule.overlap is not None:
        probabilities = logits.sigmoid() * counted
        over = (2, 3, 4) if annotated is not None else (0, 2, 3, 4)
        size = rule.overlap.alpha * probabilities.sum(over) + rule.overlap.beta * wanted.sum(over)
        sums = torch.stack([(probabilities * wanted).sum(over), size], dim=-1)
        if annotated is not None:
            loss = rule.overlap.loss_of_annotated(sums, annotated, team)
        else:
            loss = rule.overlap.losses(*team.total(sums).unbind(1)).mean()
        terms[f"{rule.overlap.name}_loss"] = loss
    return terms
