"""Muon: an optimiser for weight matrices, used together with AdamW for the other weights.

The momentum of each matrix is orthogonalised, so that all directions of a layer are updated at the same rate.

References
----------
Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks". The scale with which it shares the learning
rate of AdamW is from Liu et al. (2025), arXiv:2502.16982, section 2.2. `torch.optim.Muon` is the same, but accepts weights with
two axes only. Here a convolution kernel is a matrix: a row per output, a column per input and kernel position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95

N_ITERATIONS = 3
"""Newton-Schulz iterations. The usual five give the same Dice and cost more (docs/lab-notes/accuracy.md)."""

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial of an iteration, which moves singular values towards 1 (0.7 to 1.2)."""

RMS_OF_ADAMW = 0.2
"""Typical root mean square of AdamW's updates, in units of the learning rate."""

SMALLEST_SIDE = 16
"""Matrices with fewer rows or columns (such as the last layer, with a row per class) are trained by AdamW."""


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Return the weights of convolutions and linear layers, except those smaller than `SMALLEST_SIDE`."""
    found: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv3d | nn.ConvTranspose3d):
            weight = module.weight
            if min(weight.shape[0], weight[0].numel()) >= SMALLEST_SIDE:
                found.append(weight)
    return found


def orthogonalise(matrices: Tensor, precision: torch.dtype) -> Tensor:
    """Compute approximately the nearest orthogonal matrices: (N, rows, columns) -> (N, rows, columns), in `precision`."""
    a, b, c = QUINTIC
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)).to(precision)
    for _ in range(N_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Optimiser with orthogonalised Nesterov momentum and decoupled weight decay.

    Parameters
    ----------
    precision : torch.dtype
        Precision of the orthogonalisation: bfloat16 where the device supports it.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float, precision: torch.dtype) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape[0], p[0].numel()].append(p)
            for shape, weights in alike.items():
                self._move(weights, shape, group["lr"], group["weight_decay"])

    def _move(self, weights: list[Tensor], shape: tuple[int, int], rate: float | Tensor, decay: float) -> None:
        gradients = [p.grad for p in weights if p.grad is not None]
        for p in weights:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        directions = orthogonalise(torch.stack([m.flatten(1) for m in ahead]), self.precision)
        directions *= -rate * RMS_OF_ADAMW * max(shape) ** 0.5
        torch._foreach_mul_(weights, 1 - rate * decay)
        moves = [direction.reshape(p.shape) for p, direction in zip(weights, directions, strict=True)]
        torch._foreach_add_(weights, moves)
