"""AdamW by parameter group, the learning rate over the run, and the average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medhybrid.config import TrainingConfig

EMA_WARMUP = 10
"""The average follows the weights closely at first: its decay at step t is at most (1 + t) / (EMA_WARMUP + t)."""


def make_optimiser(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and kernels, none on norms, biases and scales."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_rate, betas=config.betas)


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """Linear warm-up by step, then a cosine over the run's progress (0 to 1) down to `final_rate_share` of the peak."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return config.peak_rate * warm * (config.final_rate_share + (1 - config.final_rate_share) * cosine)


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
