"""Sliding windows over a prepared image: every voxel covered, overlaps blended, air left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.inference.device import autocast

Predictor = Callable[[Tensor], Tensor]
"""(B, C, *window) -> logits (B, K, *window)."""

EDGE_WEIGHT = 0.05
"""Least blending weight, at a window's corner, relative to its centre."""

AIR_LOGIT = 1e4
"""Background logit where no window was run."""


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows that cover `length` with at least `overlap` of a window shared by neighbours."""
    if length <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    n = -(-(length - window) // step) + 1
    return [round(i * (length - window) / (n - 1)) for i in range(n)]


def blending_weights(window: Sequence[int]) -> Tensor:
    """Weights (*window), highest at the centre, falling along a bell curve (sigma an eighth of the window)."""
    profiles = []
    for n in window:
        x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / (n / 8)
        profiles.append(torch.exp(-0.5 * x**2))
    weights = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    return (weights / weights.max()).clamp_min(EDGE_WEIGHT).float()


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every subset of axes, none first."""
    return [c for r in range(len(axes) + 1) for c in combinations(axes, r)]


def predict_windows(
    image: Tensor,
    predictor: Predictor,
    *,
    window: tuple[int, int, int],
    n_classes: int,
    overlap: float,
    window_batch: int,
    mirror_axes: Sequence[int] = (),
    skip_air: bool = True,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """Blended logits (K, X, Y, Z) of an image (C, X, Y, Z), on the image's device, float32.

    A window in which every channel is 0 (air, or blank) is not computed where `skip_air`; its background logit is high.
    """
    shape = image.shape[1:]
    padded = _pad_to(image, window)
    starts = list(product(*(window_starts(n, w, overlap) for n, w in zip(padded.shape[1:], window, strict=True))))
    logits = torch.zeros((n_classes, *padded.shape[1:]), device=image.device)
    total = torch.zeros(padded.shape[1:], device=image.device)
    weights = blending_weights(window).to(image.device)
    boxes = [tuple(slice(s, s + w) for s, w in zip(start, window, strict=True)) for start in starts]
    for box in boxes:
        total[box] += weights
    boxes_with_tissue = [box for box in boxes if not skip_air or padded[(slice(None), *box)].any()]
    channels_last = torch.channels_last_3d
    with torch.inference_mode(), autocast(image.device, precision):
        for first in range(0, len(boxes_with_tissue), window_batch):
            chosen = boxes_with_tissue[first : first + window_batch]
            batch = torch.stack([padded[(slice(None), *box)] for box in chosen])  # (B, C, *window)
            batch = batch.contiguous(memory_format=channels_last)
            result = _mirrored(predictor, batch, mirror_axes)
            for box, one in zip(chosen, result, strict=True):
                logits[(slice(None), *box)] += one * weights
    computed = torch.zeros_like(total, dtype=torch.bool)
    for box in boxes_with_tissue:
        computed[box] = True
    logits /= total
    logits[0][~computed] = AIR_LOGIT
    return _crop_to(logits, shape)


def _mirrored(predictor: Predictor, batch: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean logits over mirrorings, float32."""
    total: Tensor | None = None
    flips = mirrorings(axes)
    for flip in flips:
        dims = [a + 2 for a in flip]
        out = predictor(batch.flip(dims) if dims else batch).float()
        out = out.flip(dims) if dims else out
        total = out if total is None else total + out
    assert total is not None
    return total / len(flips)


def _pad_to(image: Tensor, window: tuple[int, int, int]) -> Tensor:
    padding: list[int] = []
    for n, w in zip(reversed(image.shape[1:]), reversed(window), strict=True):
        missing = max(0, w - n)
        padding += [missing // 2, missing - missing // 2]
    return F.pad(image, padding) if any(padding) else image


def _crop_to(logits: Tensor, shape: Sequence[int]) -> Tensor:
    begin = [(n - s) // 2 for n, s in zip(logits.shape[1:], shape, strict=True)]
    box = tuple(slice(b, b + s) for b, s in zip(begin, shape, strict=True))
    return logits[(slice(None), *box)]


def to_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """A prepared image (C, X, Y, Z) on a device."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
