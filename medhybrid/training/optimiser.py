"""Muon and AdamW by parameter, at rates that differ from weight to weight, and the average of the weights."""

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
"""The average follows the weights closely at first: its decay at step t is at most (1 + t) / (EMA_WARMUP + t)."""


class JointOptimiser:
    """Several optimisers, each with its own weights, used as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self._groups = [[dict(group) for group in part.param_groups] for part in parts]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """The learning rate, times each group's factor."""
        for group in self.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)

    def set_factors(self, factors: Mapping[Tensor, float]) -> None:
        """Factor of the learning rate of each weight; one of 0 stands still and has no gradient.

        Weights are grouped anew, by their first group and their factor; what is known of each (its momentum) stays.
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
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of the parts, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to `state_dict`; raises `ModelError` if it is of other parts."""
        states = state.get("parts", ())
        if len(states) != len(self.parts):
            raise ModelError(
                "the checkpoint is of another optimiser",
                expected=f"{len(self.parts)} parts ({', '.join(type(p).__name__ for p in self.parts)})",
                found=f"{len(states)}",
                remedy="set training.optimiser as it was, or start a new run",
            )
        for part, its_state in zip(self.parts, states, strict=True):
            ways = {k: part.param_groups[0][k] for k in ("fused",) if k in part.param_groups[0]}  # this device's
            groups = [group | ways for group in its_state["param_groups"]]
            part.load_state_dict({**its_state, "param_groups": groups})


def make_optimiser(
    network: nn.Module, config: TrainingConfig, precision: torch.dtype = torch.float32
) -> JointOptimiser:
    """Muon on the hidden matrices and AdamW on the rest, or AdamW on all; no weight decay on norms, biases and scales.

    Parameters
    ----------
    precision : torch.dtype
        In which Muon orthogonalises.
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
        """Move towards the network's weights after `step` (from 0); whole numbers stay as they were."""
        decay = min(self.decay, (1 + step) / (EMA_WARMUP + step))
        pairs = [(self.state[k], v.detach()) for k, v in network.state_dict().items() if v.is_floating_point()]
        torch._foreach_lerp_([ours for ours, _ in pairs], [theirs for _, theirs in pairs], 1 - decay)
