"""Sliding-window prediction of a prepared image: all voxels are covered, overlaps are blended, windows of air are skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medhybrid.data.sides import LEFT_RIGHT
from medhybrid.inference.device_memory import affordable, free_cache, is_out_of_memory
from medhybrid.inference.focus import Focus
from medhybrid.inference.memory import ACTIVATIONS
from medhybrid.inference.precision import Precision, in_precision
from medhybrid.inference.rows import gather

logger = logging.getLogger(__name__)

Predictor = Callable[[Tensor], Tensor]
"""(B, C, *window) -> logits (B, K, *window)."""

Box = tuple[slice, slice, slice]

EDGE_WEIGHT = 0.05
"""Lowest blending weight, relative to that of a window's centre."""

PIECE = 1 << 24
"""Largest number of logits in a slab, unless a single row has more."""

AIR_LOGIT = 1e4
"""Background logit where no window was run."""


@dataclass
class BatchSize:
    """Number of windows that are computed at once; it is reduced when a device has too little memory."""

    n: int


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return evenly spaced starts of windows that cover `length`; neighbours share at least `overlap` of a window."""
    if length <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    n = -(-(length - window) // step) + 1
    return [round(i * (length - window) / (n - 1)) for i in range(n)]


def blending_weights(window: Sequence[int]) -> Tensor:
    """Return Gaussian weights (*window), highest at the centre, with a sigma of an eighth of the window."""
    profiles = []
    for n in window:
        x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / (n / 8)
        profiles.append(torch.exp(-0.5 * x**2))
    weights = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    return (weights / weights.max()).clamp_min(EDGE_WEIGHT).float()


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every subset of axes, the empty one first."""
    return [c for r in range(len(axes) + 1) for c in combinations(axes, r)]


def predict_windows(image: Tensor, predictor: Predictor, **settings: Any) -> Tensor:
    """Return blended logits (K, X, Y, Z) of an image (C, X, Y, Z), float32; settings as for `predict_slabs`."""
    return gather(predict_slabs(image, predictor, **settings), image.shape[1])


def predict_slabs(
    image: Tensor,
    predictor: Predictor,
    *,
    window: tuple[int, int, int],
    n_classes: int,
    overlap: float,
    window_batch: int | BatchSize,
    mirror_axes: Sequence[int] = (),
    exchange: Sequence[int] = (),
    skip_air: bool = True,
    precision: Precision = Precision.FLOAT32,
    device: torch.device | None = None,
    starts: Callable[[int, int, float], list[int]] | None = None,
    weights: Tensor | None = None,
    focus: Focus | None = None,
) -> Iterator[Tensor]:
    """Yield blended logits (K, n, Y, Z), float32, of an image (C, X, Y, Z), slab by slab along X.

    A slab is yielded as soon as no further window overlaps it, so that at most the rows of one window are in memory. With
    `skip_air`, a window in which every channel is 0 (air, or blank channels) is not computed; its voxels become background.

    Parameters
    ----------
    window_batch : int or BatchSize
        Windows computed at once; fewer if the device has too little memory. A `BatchSize` keeps a reduced number for the next
        image.
    exchange : sequence of int
        Class of each class after mirroring left-right, that of the other side; empty if mirroring exchanges none.
    device : torch.device, optional
        Device of the predictor. Logits are blended on the device of the image.
    starts : callable
        Function from length, window and overlap to the starts of the windows along an axis; by default `window_starts`.
    weights : (*window) Tensor
        Blending weights; by default `blending_weights`.
    focus : Focus, optional
        Compute a first pass without overlap, and overlapping windows only where it finds labels; it has the share afterwards.

    Raises
    ------
    RuntimeError
        If the device has too little memory for a single window; `is_out_of_memory` is true for this error.
    """
    n_rows, n_cut = image.shape[1], max(0, window[0] - image.shape[1]) // 2
    padded = _pad_to(image, window)
    across = tuple(
        slice(b, b + n) for b, n in zip(_padding_before(image.shape[2:], window[1:]), image.shape[2:], strict=True)
    )
    starts = starts or window_starts
    xs, ys, zs = (starts(n, w, overlap) for n, w in zip(padded.shape[1:], window, strict=True))
    logits = torch.zeros((n_classes, window[0], *padded.shape[2:]), device=image.device)
    total, computed = torch.zeros_like(logits[0]), torch.zeros_like(logits[0], dtype=torch.bool)
    weights = (blending_weights(window) if weights is None else weights).to(image.device)
    size = window_batch if isinstance(window_batch, BatchSize) else BatchSize(window_batch)
    computed_on = device or image.device
    planned = affordable(computed_on, size.n, ACTIVATIONS * int(np.prod(window)))
    if planned < size.n:
        logger.warning("%s has memory for %d windows at once, not %d", computed_on, planned, size.n)
        size.n = planned
    batches = _Batches(predictor, size, mirror_axes, exchange, computed_on, precision)
    if focus is not None:
        once = _Batches(predictor, size, (), (), computed_on, precision)
        covering = _boxes([window_starts(n, w, 0.0) for n, w in zip(padded.shape[1:], window, strict=True)], window)
        covering = _with_tissue(padded, covering) if skip_air else covering
        focus.look(padded, once.run, covering, len(xs) * len(ys) * len(zs) * len(batches.flips))
    for x, following in zip(xs, [*xs[1:], xs[-1] + window[0]], strict=True):
        rows = padded[:, x : x + window[0]]
        boxes = [(slice(None), y, z) for _, y, z in _boxes([[x], ys, zs], window)]
        for box in boxes:
            total[box] += weights
        chosen = _with_tissue(rows, boxes) if skip_air else boxes
        if focus is not None:
            chosen = [box for box in chosen if focus.keeps((slice(x, x + window[0]), *box[1:]))]
        for box, one in batches.run(rows, chosen):
            logits[(slice(None), *box)] += one * weights
            computed[box] = True
        n_done = following - x  # rows that no later window overlaps
        first, last = max(0, n_cut - x), min(n_done, n_cut + n_rows - x)
        n_together = max(1, PIECE // logits[:, 0].numel())
        for begin in range(first, last, n_together):
            part = slice(begin, min(begin + n_together, last))
            done = logits[:, part] / total[part]
            done[0][~computed[part]] = AIR_LOGIT
            if focus is not None and not focus.is_whole:
                far = ~focus.voxels(slice(x + part.start, x + part.stop), padded.shape[2:])
                done[:, far] = 0
                done[0][far] = AIR_LOGIT
            yield done[(slice(None), slice(None), *across)]
        for held in (logits, total[None], computed[None]):
            _shift(held, n_done)


def _boxes(starts: Sequence[Sequence[int]], window: Sequence[int]) -> list[Box]:
    """Return the box of each window."""
    return [tuple(slice(s, s + w) for s, w in zip(some, window, strict=True)) for some in product(*starts)]  # type: ignore[misc]


def _with_tissue(rows: Tensor, boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes in which any channel of rows (C, X, Y, Z) is not 0; one answer for all, as a GPU is waited for."""
    has_tissue = torch.stack([rows[(slice(None), *box)].any() for box in boxes]).cpu().tolist()
    return [box for box, has in zip(boxes, has_tissue, strict=True) if has]


def _shift(rows: Tensor, n: int) -> None:
    """Move rows (K, X, ...) to the front by `n` in place, without a copy of the whole, and fill the end with zeros."""
    size = rows.shape[1]
    for begin in range(0, size - n, n):
        end = min(begin + n, size - n)
        rows[:, begin:end] = rows[:, begin + n : end + n]
    rows[:, size - n :] = 0


class _Batches:
    """Batches of windows for the predictor; they become smaller when the device has too little memory."""

    def __init__(
        self,
        predictor: Predictor,
        size: BatchSize,
        mirror_axes: Sequence[int],
        exchange: Sequence[int],
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.predictor, self.size = predictor, size
        self.flips = [[a + 2 for a in flip] for flip in mirrorings(mirror_axes)]
        self.exchange = list(exchange)
        self.device, self.precision = device, precision

    def run(self, rows: Tensor, boxes: Sequence[Box]) -> Iterator[tuple[Box, Tensor]]:
        """Yield each box with the logits (K, *window) of its window of rows (C, X, Y, Z), on the device of the rows."""
        waiting = list(boxes)
        while waiting:
            chosen = waiting[: self.size.n]
            result = self._try(torch.stack([rows[(slice(None), *box)] for box in chosen]))  # (B, C, *window)
            if result is None:  # out of memory: the tensors of the attempt are released by now
                free_cache(self.device)
                continue
            del waiting[: len(chosen)]
            yield from zip(chosen, result, strict=True)

    def _try(self, batch: Tensor) -> Tensor | None:
        """Return logits (B, K, *window); None if they do not fit into memory, after reducing the size of the next batches."""
        n_flips = min(len(self.flips), max(1, self.size.n // len(batch)))  # mirrorings that fit into a batch
        n_seen = n_flips * len(batch)
        try:
            with torch.inference_mode(), in_precision(self.device, self.precision):
                on_device = batch.to(self.device).contiguous(memory_format=torch.channels_last_3d)
                return _mirrored(self.predictor, on_device, self.flips, n_flips, self.exchange).to(batch.device)
        except RuntimeError as error:
            if n_seen == 1 or not is_out_of_memory(error):
                raise
        self.size.n = n_seen // 2
        said = "%s has too little memory for %d windows at once; continuing with %d"
        logger.warning(said, self.device, n_seen, self.size.n)
        return None


def _mirrored(
    predictor: Predictor, batch: Tensor, flips: Sequence[list[int]], n_together: int, exchange: list[int]
) -> Tensor:
    """Return the mean of the logits over mirrorings along axes of the batch, float32, `n_together` mirrorings at once.

    A mirrored left side is a right side: the logits of both classes are exchanged.
    """
    total = torch.zeros((), device=batch.device)
    for first in range(0, len(flips), n_together):
        some = flips[first : first + n_together]
        seen = predictor(torch.cat([batch.flip(dims) if dims else batch for dims in some])).float()
        for dims, out in zip(some, seen.chunk(len(some)), strict=True):
            out = out[:, exchange] if exchange and LEFT_RIGHT + 2 in dims else out
            total = total + (out.flip(dims) if dims else out)
    return total / len(flips)


def _padding_before(shape: Sequence[int], window: Sequence[int]) -> list[int]:
    return [max(0, w - n) // 2 for n, w in zip(shape, window, strict=True)]


def _pad_to(image: Tensor, window: tuple[int, int, int]) -> Tensor:
    padding: list[int] = []
    for n, w in zip(reversed(image.shape[1:]), reversed(window), strict=True):
        missing = max(0, w - n)
        padding += [missing // 2, missing - missing // 2]
    return F.pad(image, padding) if any(padding) else image


def to_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a prepared image (C, X, Y, Z) as a float32 tensor on a device."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
