"""Objectives of a training: its loss, and its validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medhybrid.config import StudyConfig
from medhybrid.data.plan import Plan
from medhybrid.data.sampling import Batch
from medhybrid.data.store import PreparedCase
from medhybrid.errors import TrainingError
from medhybrid.inference.precision import Precision, in_precision
from medhybrid.inference.self_check import checked_precision
from medhybrid.training.loss_terms import LossRule
from medhybrid.training.losses import Loss, compute_loss, compute_region_loss, sum_of_sizes
from medhybrid.training.own_loss import OwnLoss
from medhybrid.training.team import Team
from medhybrid.training.validation import CaseResult, Validation, subset, validate

CONTEXT_STREAM = 2
"""Seed that separates the generator of metadata dropout from those of patch sampling and augmentation."""


class Objective(Protocol):
    """Loss of the patches of a step, and validation of the weights."""

    def inputs(self, batch: Batch, image: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of `loss`, on the device, with all random choices of a step except the network's.

        Parameters
        ----------
        image : (B, C, X, Y, Z) Tensor
            Augmented patches of this process.
        target : (B, X, Y, Z) int64 Tensor
            Their label maps.
        """

    def loss(self, network: Any, *inputs: Tensor) -> Loss:
        """Run the network and compute the loss."""

    def cases_during(self, cases: Sequence[PreparedCase]) -> Sequence[PreparedCase]:
        """Return the cases of a validation during the run."""

    def validate(
        self, network: Any, cases: Sequence[PreparedCase], *, step: int, is_complete: bool
    ) -> tuple[dict[str, float], Validation | None]:
        """Validate a network in evaluation mode.

        Returns
        -------
        dict of str to float
            Metrics for the tracker; empty in all processes of a team except the first.
        Validation or None
            Scores of the masks; None if the objective has no masks, and in the other processes.
        """


MakeObjective = Callable[[StudyConfig, Plan, torch.device, Precision, Team], Objective]
"""Function from config, plan, device, precision and team to an objective."""


class SegmentationObjective:
    """Loss of the masks, and validation with the sliding window.

    Parameters
    ----------
    precision : Precision
        Precision of the training; the validation has that of the config's inference.
    class_weights : mapping, optional
        Weight of each class in the loss, in the order of the network's outputs.
    own_loss : OwnLoss, optional
        Loss of the user, instead of the config's.
    """

    def __init__(
        self,
        config: StudyConfig,
        plan: Plan,
        device: torch.device,
        precision: Precision,
        team: Team,
        *,
        class_weights: Mapping[str, float] | None = None,
        own_loss: OwnLoss | None = None,
    ) -> None:
        self.config, self.plan, self.device, self.precision, self.team = config, plan, device, precision, team
        self.own = team.part(plan.batch_size)
        self.rule, self.own_loss = LossRule.of(config.training, class_weights, device), own_loss

    def inputs(self, batch: Batch, image: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Return image, target, metadata (B, F) and the labels that each sample has (B, S); S is 0 if all have all."""
        has = torch.from_numpy(batch.annotated)[: len(self.own)]
        none = torch.zeros(tuple(has.shape), dtype=torch.bool, device=self.device)
        annotated = has.to(self.device) if has.numel() else none  # a copy waits for the GPU
        return image, target, self._some_context(batch), annotated

    def loss(self, network: Any, *inputs: Tensor) -> Loss:
        """Compute the loss of the logits."""
        image, target, context, has = inputs
        annotated = has if has.shape[1] else None
        with in_precision(self.device, self.precision):
            logits = network(image, context) if self.plan.context else network(image)
        weight = self.config.training.auxiliary_weight if self.config.network.deep_supervision else 0.0
        regions = network.regions if self.plan.regions else None
        if self.own_loss is not None:
            if annotated is not None:
                raise TrainingError(
                    "a loss of the user cannot be used with partly labelled cases",
                    expected="cases with all labels",
                    remedy="use a loss of the config (training.loss), or leave these cases out",
                )
            terms = partial(self.own_loss.terms, regions=regions, team=self.team)
            return sum_of_sizes(terms, logits, target, weight)
        if regions is not None:
            return compute_region_loss(logits, target, regions, weight, self.team, rule=self.rule, annotated=annotated)
        has_unknown = self.config.data.ignore_value is not None
        return compute_loss(
            logits, target, weight, self.team, rule=self.rule, has_unknown=has_unknown, annotated=annotated
        )

    def _some_context(self, batch: Batch) -> Tensor:
        """Return metadata (B, F) with some values set to NaN at random, so that the network also works without them."""
        values = torch.from_numpy(batch.context)[: len(self.own)]
        if not values.numel() or not self.config.augment.enabled:
            return values.to(self.device)
        rng = np.random.default_rng((self.config.training.seed, batch.step, CONTEXT_STREAM))
        drawn = rng.random((self.plan.batch_size, values.shape[1]))[list(self.own)]
        dropped = torch.from_numpy(drawn < self.config.augment.drop_context_probability)
        return values.masked_fill(dropped, torch.nan).to(self.device)

    def cases_during(self, cases: Sequence[PreparedCase]) -> Sequence[PreparedCase]:
        """Return a few cases, always the same ones."""
        return subset(cases, self.config.training.validation_cases)

    def validate(
        self, network: Any, cases: Sequence[PreparedCase], *, step: int, is_complete: bool
    ) -> tuple[dict[str, float], Validation | None]:
        """Predict and score cases, which are divided among the processes."""
        inference = self.config.inference
        mine = validate(
            network,
            cases[self.team.rank :: self.team.size],
            self.plan,
            # Test-time mirroring doubles the cost for each axis, so only the final validation uses it.
            inference if is_complete else inference.model_copy(update={"tta_mirroring": False}),
            step=step,
            is_complete=is_complete,
            device=self.device,
            precision=checked_precision(
                self.device, inference.precision, patch_size=self.plan.patch_size, is_thin=self.plan.is_thin
            ),
        )
        told = self.team.collect([(r.dice, r.prediction, r.voxels) for r in mine.results], len(cases))
        if not self.team.is_first:
            return {}, None
        results = tuple(
            CaseResult(case, *values, self.plan.structures) for case, values in zip(cases, told, strict=True)
        )
        result = Validation(step, results, is_complete)
        return result.metrics(), result
