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
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medhybrid.config import StudyConfig
from medhybrid.data.plan import Plan
from medhybrid.data.sampling import Batch
from medhybrid.data.store import PreparedCase
from medhybrid.inference.precision import Precision, in_precision
from medhybrid.networks import SegmentationNetwork
from medhybrid.networks.blocks import Stride
from medhybrid.training.loop import Trainer
from medhybrid.training.team import Team

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


class ReconstructionObjective:
    """Reconstruction of masked tokens.

    Parameters
    ----------
    stride : tuple of int
        Size of a token of the `MaskedAutoencoder`, in voxels.
    """

    def __init__(
        self,
        config: StudyConfig,
        plan: Plan,
        device: torch.device,
        precision: Precision,
        _: Team,
        *,
        stride: Stride,
    ) -> None:
        self.mask_ratio, self.patch_size = config.pretrain.mask_ratio, plan.patch_size
        self.device, self.precision, self.stride = device, precision, stride

    def inputs(self, batch: Batch, image: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Return image and masked tokens (B, tx, ty, tz)."""
        return image, self._hide(image)

    def loss(self, network: Any, *inputs: Tensor) -> Rebuilding:
        """Compute the error of the reconstruction."""
        image, hidden = inputs
        with in_precision(self.device, self.precision):
            rebuilt = network(image, hidden)
        return rebuilding_loss(rebuilt, image, hidden, self.stride)

    def cases_during(self, cases: Sequence[PreparedCase]) -> Sequence[PreparedCase]:
        """Return all cases: a case costs one patch."""
        return cases

    @torch.no_grad()
    def validate(
        self, network: Any, cases: Sequence[PreparedCase], *, step: int, is_complete: bool
    ) -> tuple[dict[str, float], None]:
        """Reconstruct the central patch of each case; masks are not scored."""
        generator = torch.Generator().manual_seed(HIDING_SEED)
        losses = []
        for case in cases:
            image = self._central_patch(case)
            losses.append(self.loss(network, image, self._hide(image, generator)))
        metrics = {"val/loss": float(np.mean([float(r.total) for r in losses]))}
        metrics["val/explained"] = float(np.mean([float(r.explained) for r in losses]))
        return metrics, None

    def _hide(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        grid = [size // s for size, s in zip(image.shape[2:], self.stride, strict=True)]
        return hide_tokens((len(image), *grid), self.mask_ratio, generator).to(self.device)

    def _central_patch(self, case: PreparedCase) -> Tensor:
        """Read the central patch (1, C, X, Y, Z) of a case."""
        x, y, z = ((n - p) // 2 for n, p in zip(case.shape, self.patch_size, strict=True))
        return torch.from_numpy(case.read_box((x, y, z), self.patch_size)[0])[None].to(self.device)


class Pretrainer(Trainer):
    """Training loop with masked tokens instead of reference masks.

    Parameters are those of `Trainer`; the network is a `MaskedAutoencoder`.
    """

    def __init__(self, *arguments: Any, network: MaskedAutoencoder, **options: Any) -> None:
        objective = partial(ReconstructionObjective, stride=network.stride)
        super().__init__(*arguments, network=network, objective=objective, **options)
