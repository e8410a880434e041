"""Logits on the network's grid to labels and probabilities on the scan's own grid, slab by slab.

Resampling is separable (`geometry.resample`): each axis has a matrix of few weights a row that sum to 1. A value on the scan is
so a weighted mean of neighbouring values of the network's grid, and where a label's logit is below the background's in all of
them, it is below it in the mean: such voxels, most of a scan, are background without being computed. What is left is computed
in slabs that fit a processor's cache, so that the memory needed does not grow with the number of labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.geometry import Grid, Turn, grid_weights

SLAB_VOXELS = 2_000_000
"""Voxels of the scan that are computed at once."""

Span = tuple[int, int]
"""First index, and the one after the last."""


def labels_on_scan(logits: Tensor, network: Grid, turned: Grid, turn: Turn) -> NDArray[np.uint8]:
    """The label with the highest resampled logit at each voxel of the scan.

    The logits are resampled as they are, then compared: borders come out smooth.

    Parameters
    ----------
    logits : (K, X, Y, Z) Tensor
        On `network`.
    network, turned : Grid
        The network's grid, and the scan's after turning to RAS.
    turn : Turn
        From the scan's axes to RAS.

    Returns
    -------
    (X', Y', Z') uint8 ndarray
        Inside label values in the scan's own axis order.
    """
    axes = _axes(network, turned, logits.device)
    labels = np.zeros(turned.shape, np.uint8)
    for span in _slabs(turned.shape):
        x, y, z = axes[0].rows(span), axes[1], axes[2]
        sources = x.sources
        lead = logits[1:, sources[0] : sources[1]].float() - logits[:1, sources[0] : sources[1]].float()
        ahead = lead >= 0  # (K - 1, x, Y, Z): where a label may be before background
        spans = y.reached_by(ahead.any(3).any(1).any(0)), z.reached_by(ahead.any(2).any(1).any(0))
        if any(first == last for first, last in spans):
            continue
        here = x.within(sources), y.rows(spans[0]), z.rows(spans[1])
        candidates = torch.nonzero(ahead.flatten(1).any(1)).flatten().tolist()
        box = (slice(*span), slice(*spans[0]), slice(*spans[1]))
        labels[box] = _winners(lead, candidates, here).cpu().numpy()
    return np.ascontiguousarray(turn.undo(labels))


def probabilities_on_scan(
    logits: Tensor, network: Grid, turned: Grid, turn: Turn, *, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Probabilities (K, X', Y', Z'), background first, in the scan's own axis order.

    The softmax of the same resampled logits that `labels_on_scan` compares; other arguments as there.
    """
    axes = _axes(network, turned, logits.device)
    full = np.empty((len(logits), *turned.shape), np.float32)
    for span in _slabs(turned.shape):
        x = axes[0].rows(span)
        near = logits[:, x.sources[0] : x.sources[1]].float()
        here = x.within(x.sources), axes[1], axes[2]
        slab = torch.stack([_resample(one, here) for one in near])
        full[:, span[0] : span[1]] = (slab / temperature).softmax(dim=0).cpu().numpy()
    return np.ascontiguousarray(turn.undo(full))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Weights (T, S) that make T values of S along an axis.

    Attributes
    ----------
    pairs : tuple of Tensor, optional
        Where no value takes from more than two: which two, each (T,), and the share (T, 1) of the second.
    """

    weights: Tensor
    pairs: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def of(cls, weights: Tensor) -> _Axis:
        """With its pairs, where it has them."""
        if weights.shape[1] < 2 or int((weights != 0).sum(1).max()) > 2:
            return cls(weights)
        share, order = weights.topk(2, dim=1)
        return cls(weights, (order[:, 0], order[:, 1], share[:, 1:]))

    @property
    def sources(self) -> Span:
        """The values that are needed at all."""
        return _span(self.weights.any(0))

    def rows(self, span: Span) -> _Axis:
        """The same for some of the T values."""
        some = slice(*span)
        pairs = self.pairs and (self.pairs[0][some], self.pairs[1][some], self.pairs[2][some])
        return _Axis(self.weights[some], pairs)

    def within(self, sources: Span) -> _Axis:
        """The same where only these of the S values are given."""
        return _Axis(self.weights[:, sources[0] : sources[1]])

    def reached_by(self, marked: Tensor) -> Span:
        """The T values that take from any of the marked (S,)."""
        return _span(self.weights[:, marked].any(1))


def _axes(network: Grid, turned: Grid, device: torch.device) -> tuple[_Axis, _Axis, _Axis]:
    x, y, z = (_Axis.of(torch.from_numpy(w).to(device)) for w in grid_weights(network, turned))
    return x, y, z


def _span(marked: Tensor) -> Span:
    """From the first to the last that is marked; empty where none is."""
    where = torch.nonzero(marked).flatten()
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)


def _slabs(shape: tuple[int, int, int]) -> Iterator[Span]:
    """Along the first axis, of about `SLAB_VOXELS` voxels."""
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def _winners(lead: Tensor, candidates: list[int], axes: tuple[_Axis, _Axis, _Axis]) -> Tensor:
    """Label (X', Y', Z') uint8 whose lead (K - 1, X, Y, Z) over background is the highest, 0 where none leads."""
    best = labels = None
    for k in candidates:
        full = _resample(lead[k], axes)
        if best is None or labels is None:
            labels = (full > 0).to(torch.uint8) * (k + 1)
            best = full.clamp_min_(0)
            continue
        labels.masked_fill_(full > best, k + 1)
        torch.maximum(best, full, out=best)
    assert labels is not None
    return labels


def _resample(values: Tensor, axes: tuple[_Axis, _Axis, _Axis]) -> Tensor:
    """Values (X, Y, Z) to (X', Y', Z'), the middle axis last: its few weights then act on whole rows of memory."""
    x, y, z = axes
    columns = (x.weights @ values.flatten(1)).view(len(x.weights), *values.shape[1:])  # (X', Y, Z)
    rows = columns @ z.weights.T  # (X', Y, Z')
    if y.pairs is None:
        return torch.matmul(y.weights, rows)  # (X', Y', Z')
    first, second, share = y.pairs
    return torch.lerp(rows.index_select(1, first), rows.index_select(1, second), share)
