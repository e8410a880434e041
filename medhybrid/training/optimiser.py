"""Joint optimiser of Muon and AdamW, with a learning rate factor for each weight, and the moving average of the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medhybrid.config import TrainingConfig
from medhybrid.errors import ModelError
from medhybrid.training.muon import Muon, hidden_matrices

EMA_WARMUP = 10
"""Warm-up of the moving average: its decay at step t is at most (1 + t) / (EMA_WARMUP + t)."""


class JointOptimiser:
    """Several optimisers, each for a part of the weights, with the interface of one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self._groups = [[dict(group) for group in part.param_groups] for part in parts]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of all optimisers."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of each group: `rate` times the factor of the group."""
        for group in self.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)

    def set_factors(self, factors: Mapping[Tensor, float]) -> None:
        """Set the learning rate factor of each weight; a weight with factor 0 is frozen and has no gradient.

        Parameter groups are rebuilt from the original groups and the factors. The state of each weight (its momentum) is kept.
        """
        for weight, factor in factors.items():
            weight.requires_grad_(factor > 0)
            if factor == 0:
                weight.grad = None
        for part, groups in zip(self.parts, self._groups, strict=True):
            part.param_groups = []
            for group in groups:
                alike: dict[float, list[Tensor]] = defaultdict(list)
                for weight in group["params"]:
                    alike[factors[weight]].append(weight)
                part.param_groups += [{**group, "params": same, "factor": factor} for factor, same in alike.items()]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Reset the gradients of all optimisers."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Update the weights by one step of each optimiser."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimisers, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises
        ------
        ModelError
            If it is from another number of optimisers.
        """
        states = state.get("parts", ())
        if len(states) != len(self.parts):
            raise ModelError(
                "the checkpoint was written with another optimiser",
                expected=f"states of {', '.join(type(p).__name__ for p in self.parts)}",
                found=f"states of {len(states)} optimisers",
                remedy="set training.optimiser to its value in that run, or start a new run",
            )
        for part, its_state in zip(self.parts, states, strict=True):
            ways = {k: part.param_groups[0][k] for k in ("fused",) if k in part.param_groups[0]}  # of this device
            groups = [group | ways for group in its_state["param_groups"]]
            part.load_state_dict({**its_state, "param_groups": groups})


def make_optimiser(
    network: nn.Module, config: TrainingConfig, precision: torch.dtype = torch.float32
) -> JointOptimiser:
    """Create the optimiser of a network: Muon for hidden matrices and AdamW for the rest, or AdamW for all weights.

    Norms, biases and scales have no weight decay.

    Parameters
    ----------
    precision : torch.dtype
        Precision of Muon's orthogonalisation.
    """
    matrices = hidden_matrices(network) if config.optimiser == "muon" else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    is_on_gpu = all(p.is_cuda for p in rest)
    adamw = torch.optim.AdamW(groups, lr=config.peak_rate, betas=config.betas, fused=is_on_gpu or None)
    if not matrices:
        return JointOptimiser(adamw)
    return JointOptimiser(
        Muon(matrices, lr=config.peak_rate, weight_decay=config.weight_decay, precision=precision), adamw
    )


class WeightAverage:
    """Exponential moving average of a network's weights."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average after `step` (from 0) with the weights of the network; integer buffers are not averaged."""
        decay = min(self.decay, (1 + step) / (EMA_WARMUP + step))
        pairs = [(self.state[k], v.detach()) for k, v in network.state_dict().items() if v.is_floating_point()]
        torch._foreach_lerp_([ours for ours, _ in pairs], [theirs for _, theirs in pairs], 1 - decay)
