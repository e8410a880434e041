"""Self-supervised pretraining on scans without masks: encoder and Transformer reconstruct the image at masked tokens.

Voxels of masked tokens are set to 0 in the image. On the token grid, a trained mask token replaces them, so that the
Transformer must use the visible tokens. A linear layer maps tokens to voxels; it is discarded after the pretraining.

Shapes: B batch, C channels, T tokens, P voxels per token, X Y Z space.

References
----------
Masked autoencoders: He et al. (2022), doi:10.1109/CVPR52688.2022.01553. Masking within the whole image and a linear decoder
(SimMIM): Xie et al. (2022), doi:10.1109/CVPR52688.2022.00943.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medhybrid.data.sampling import Batch
from medhybrid.data.store import PreparedCase
from medhybrid.inference.device import autocast
from medhybrid.networks import SegmentationNetwork
from medhybrid.networks.blocks import Stride
from medhybrid.training.checkpoint import to_cpu
from medhybrid.training.loop import Outcome, Trainer

HIDING_SEED = 7
"""Seed of the masked tokens in validation, so that each validation masks the same tokens."""


def hide_tokens(shape: Sequence[int], share: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw masked tokens (B, tx, ty, tz) of bool: in each sample, a random `share` of the tokens, rounded."""
    batch, n = shape[0], int(np.prod(shape[1:]))
    order = torch.rand(batch, n, generator=generator).argsort(dim=1)
    return (order < round(share * n)).reshape(*shape)


def to_voxels(tokens: Tensor, stride: Stride) -> Tensor:
    """Expand tokens to voxels: (B, tx, ty, tz) -> (B, X, Y, Z), each value for all voxels of its token."""
    for axis, n in enumerate(stride, start=1):
        tokens = tokens.repeat_interleave(n, dim=axis)
    return tokens


def to_patches(image: Tensor, stride: Stride) -> Tensor:
    """Split an image into the voxels of each token: (B, C, X, Y, Z) -> (B, tx, ty, tz, C, P)."""
    batch, channels, *shape = image.shape
    split = [n for size, s in zip(shape, stride, strict=True) for n in (size // s, s)]
    patches = image.reshape(batch, channels, *split).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return patches.flatten(5)


def mean_of_tissue(image: Tensor) -> Tensor:
    """Compute the mean (B, C) of the voxels of (B, C, X, Y, Z) above 0, which are not air.

    The reconstruction is the difference from this mean.
    """
    there = image > 0
    mean: Tensor = (image * there).sum((2, 3, 4)) / there.sum((2, 3, 4)).clamp_min(1)
    return mean


class MaskedAutoencoder(nn.Module):
    """Encoder and Transformer of a network, with a linear layer that reconstructs voxels."""

    def __init__(self, network: SegmentationNetwork, n_channels: int) -> None:
        super().__init__()
        self.network = network
        self.stride, width = network.total_stride, network.config.widths[-1]
        self.hidden_token = nn.Parameter(0.02 * torch.randn(width))
        self.rebuild = nn.Linear(width, n_channels * int(np.prod(self.stride)))
        nn.init.zeros_(self.rebuild.bias)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Reconstruct an image (B, C, X, Y, Z) with masked tokens (B, tx, ty, tz) -> voxels (B, tx, ty, tz, C, P)."""
        study = self.network.study_of(image)
        seen = image * ~to_voxels(hidden, self.stride)[:, None]
        x = self.network.encoder(seen.contiguous(memory_format=torch.channels_last_3d), study)[-1]
        x = torch.where(hidden[:, None], self.hidden_token.to(x.dtype)[:, None, None, None], x)
        if self.network.bottleneck is not None:
            x = self.network.bottleneck(x, study)
        voxels: Tensor = self.rebuild(x.permute(0, 2, 3, 4, 1))
        voxels = voxels.view(*voxels.shape[:-1], image.shape[1], -1)
        return voxels + mean_of_tissue(seen)[:, None, None, None, :, None]


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """Loss of a reconstruction, and the explained share of the variance of the masked voxels."""

    total: Tensor
    explained: Tensor

    def metrics(self) -> dict[str, float]:
        """Return the metrics with their names, for a tracker."""
        return {"train/loss": float(self.total.detach()), "train/explained": float(self.explained.detach())}


def rebuilding_loss(rebuilt: Tensor, image: Tensor, hidden: Tensor, stride: Stride) -> Rebuilding:
    """Compute the mean squared error over masked tokens that hold tissue, in units of the normalised intensities.

    Parameters
    ----------
    rebuilt : (B, tx, ty, tz, C, P) Tensor
    image : (B, C, X, Y, Z) Tensor
    hidden : (B, tx, ty, tz) Tensor of bool
    """
    target = to_patches(image, stride)
    counted = (hidden[..., None] & (target > 0).any(-1))[..., None]  # (B, tx, ty, tz, C, 1)
    n = (counted.sum() * target.shape[-1]).clamp_min(1)
    error = ((rebuilt.float() - target).square() * counted).sum() / n
    mean = (target * counted).sum() / n
    variance = ((target - mean).square() * counted).sum() / n
    return Rebuilding(error, 1 - error / variance.clamp_min(1e-6))


class Pretrainer(Trainer):
    """Training loop of the pretraining, with masked tokens instead of reference masks.

    Parameters are those of `Trainer`; the network is a `MaskedAutoencoder`.
    """

    network: MaskedAutoencoder

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        image, _ = self._to_device(batch)
        return image, self._hide(image)

    def _compute_loss(self, image: Tensor, hidden: Tensor) -> Rebuilding:  # type: ignore[override]
        with autocast(self.device, self.precision):
            rebuilt = self.network(image, hidden)
        return rebuilding_loss(rebuilt, image, hidden, self.network.stride)

    def _hide(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        grid = [size // s for size, s in zip(image.shape[2:], self.network.stride, strict=True)]
        return hide_tokens((len(image), *grid), self.config.pretrain.mask_ratio, generator).to(self.device)

    def _validate_some(self) -> None:
        self.validations_done = int(self.progress * self.training.n_validations)
        self._rebuild_validation_cases()

    def _final_outcome(self) -> Outcome:
        if self.validation_cases:
            self._rebuild_validation_cases()
        return Outcome(to_cpu(self.average.state), None, self.step, self.elapsed_s, is_interrupted=False)

    @torch.no_grad()
    def _rebuild_validation_cases(self) -> None:
        """Validate the averaged weights: reconstruct the central patch of each validation case."""
        current = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.state)
        self.network.eval()
        generator = torch.Generator().manual_seed(HIDING_SEED)
        losses = [self._rebuild(case, generator) for case in self.validation_cases]
        self.network.load_state_dict(current)
        self._learn()
        metrics = {"val/loss": float(np.mean([float(r.total) for r in losses]))}
        metrics["val/explained"] = float(np.mean([float(r.explained) for r in losses]))
        self.tracker.log_metrics(metrics, self.step)

    def _rebuild(self, case: PreparedCase, generator: torch.Generator) -> Rebuilding:
        patch: Any = self.plan.patch_size
        start = [(n - p) // 2 for n, p in zip(case.shape, patch, strict=True)]
        image = torch.from_numpy(case.read_box((start[0], start[1], start[2]), patch)[0])[None].to(self.device)
        hidden = self._hide(image, generator)
        with autocast(self.device, self.precision):
            rebuilt = self.network(image, hidden)
        return rebuilding_loss(rebuilt, image, hidden, self.network.stride)
