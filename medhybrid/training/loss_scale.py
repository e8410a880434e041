"""Scaling of the loss in fp16, whose smallest positive number is 6e-8: smaller gradients would become zero.

References
----------
Micikevicius et al. (2018), "Mixed precision training", arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

INITIAL = 2.0**16

GROWTH_INTERVAL = 2000
"""Successful steps in a row after which the factor is doubled."""

SMALLEST = 1.0
"""Smallest factor: gradients that overflow without any scaling are not an effect of it."""


class LossScale:
    """Factor on the loss that adapts to the size of the gradients: halved if they overflow, doubled after many good steps.

    It has the values of `torch.amp.GradScaler`. That class decides for each optimiser whether to skip a step, so Muon could
    update its weights when AdamW does not. And it decides in Python during each step, which a recorded step does not run. Here
    the training loop decides for all optimisers, by the gradient norm that it reads anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), INITIAL, device=device)  # changed in place: a recorded step reads this memory
        self.n_good = 0

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times the factor."""
        return loss * self.factor

    def unscale(self, weights: Sequence[nn.Parameter]) -> None:
        """Divide the gradients of weights by the factor, in place."""
        if gradients := [w.grad for w in weights if w.grad is not None]:
            torch._foreach_mul_(gradients, self.factor.reciprocal())

    def grow(self) -> None:
        """Count a step whose gradients were finite."""
        self.n_good += 1
        if self.n_good == GROWTH_INTERVAL:
            self.factor.mul_(2)
            self.n_good = 0

    def shrink(self) -> bool:
        """Halve the factor after gradients that were not finite; returns False if it is the smallest one already."""
        self.n_good = 0
        if float(self.factor) <= SMALLEST:
            return False
        self.factor.mul_(0.5)
        return True

    def state_dict(self) -> dict[str, float]:
        """Return the factor and the number of good steps since its last change."""
        return {"factor": float(self.factor), "n_good": self.n_good}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Load the result of `state_dict`."""
        self.factor.fill_(state["factor"])
        self.n_good = int(state["n_good"])
