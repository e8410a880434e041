"""Resampling of logits from the network's grid to labels and probabilities on the scan's own grid.

Resampling is separable (`geometry.resample`): along each axis, a value on the scan is a weighted mean of a few neighbours on
the network's grid. If one label has the highest logit at all these neighbours, it also has the highest mean. So logits are
resampled only near borders, point by point. The scan is processed in slabs: at full size, only the label map is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.geometry import Grid, Turn, grid_weights
from medhybrid.inference.rows import Rows

SLAB_VOXELS = 2_000_000
"""Voxels of the scan in a slab."""

SLAB_LOGITS = 16 * SLAB_VOXELS
"""Logits in a slab, which limit its voxels where there are many labels."""

Labels = NDArray[np.uint8]

Matrices = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

POINTS = 200_000
"""Voxels near borders whose logits are resampled at once."""


def labels_on_scan(logits: Tensor | Rows, network: Grid, turned: Grid, turn: Turn) -> NDArray[np.uint8]:
    """Return the label with the highest resampled logit at each voxel of the scan.

    Logits are resampled first and compared afterwards, so that borders are smooth.

    Parameters
    ----------
    logits : (K, X, Y, Z) Tensor, or Rows of it
        Logits on `network`. Rows are read in order and released after use.
    network, turned : Grid
        The network's grid, and the scan's grid after turning to RAS.
    turn : Turn
        From the scan's axes to RAS.

    Returns
    -------
    (X', Y', Z') uint8 ndarray
        Class indices in the scan's own axis order.
    """
    return np.ascontiguousarray(turn.undo(resampled_labels(logits, grid_weights(network, turned))))


def resampled_labels(
    logits: Tensor | Rows, matrices: Matrices, *, decide: Callable[[Tensor], Tensor] | None = None
) -> NDArray[np.uint8]:
    """Return the label (X', Y', Z') of each voxel after resampling logits (K, X, Y, Z).

    Parameters
    ----------
    matrices : 3 ndarrays (T, S)
        Resampling of each axis, with weights of at least 0.
    decide : callable
        Function from logits (K, ...) to labels (...) uint8; by default `highest_label`. Where it gives one label for some
        logits, it must give this label for each of their weighted means, too.
    """
    decide = decide or highest_label
    source = logits if isinstance(logits, Rows) else Rows([logits])
    shape = (len(matrices[0]), len(matrices[1]), len(matrices[2]))
    x, y, z = (_to_axis(w) for w in matrices)
    labels = np.empty(shape, np.uint8)
    for first, last in _slabs(shape, source.take(0, 1).shape[0]):
        rows = x.rows(first, last)
        begin = rows.sources.start
        values = source.take(begin, rows.sources.stop)  # (K, n, Y, Z)
        rows = _Axis(rows.neighbours - begin, rows.weights)
        coarse = decide(values).cpu().numpy()
        if coarse.min() == coarse.max():  # one label alone, mostly background
            labels[first:last] = coarse.min()
            continue
        columns = _extremes((coarse, coarse), z, dim=2)  # (n, Y, Z')
        lowest, highest = _extremes(_extremes(columns, rows, dim=0), y, dim=1)  # (X', Y', Z')
        labels[first:last] = lowest
        near_border = np.argwhere(lowest != highest)
        if len(near_border):
            last_axis = values.movedim(0, -1).float().contiguous()  # the logits of a voxel are adjacent in memory
            for some in np.array_split(near_border, -(-len(near_border) // POINTS)):
                means = _at_points(last_axis, some, (rows, y, z))  # (N, K)
                labels[first:last][tuple(some.T)] = decide(means.T).cpu().numpy()
    source.rest()
    return labels


def probabilities_on_scan(
    logits: Tensor, network: Grid, turned: Grid, turn: Turn, *, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Return probabilities (K, X', Y', Z'), background first, in the scan's own axis order.

    They are the softmax of the resampled logits that `labels_on_scan` compares. See there for the other parameters.

    Parameters
    ----------
    temperature : float
        Divisor of the logits before the softmax.
    """
    values = resampled_probabilities(
        logits, grid_weights(network, turned), temperature=temperature, n_classes=len(logits)
    )
    return np.ascontiguousarray(turn.undo(values))


def resampled_probabilities(
    logits: Tensor,
    matrices: Matrices,
    *,
    temperature: float,
    n_classes: int,
    as_classes: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """Return probabilities (n_classes, X', Y', Z'), background first, after resampling logits (K, X, Y, Z).

    Parameters
    ----------
    matrices : 3 ndarrays (T, S)
        Resampling of each axis.
    temperature : float
        Divisor of the logits before the softmax.
    as_classes : callable, optional
        Function from resampled logits (K, ...) to logits of classes (n_classes, ...).
    """
    wx, wy, wz = (torch.from_numpy(np.array(w)).to(logits.device) for w in matrices)
    shape = (len(wx), len(wy), len(wz))
    probabilities = np.empty((n_classes, *shape), np.float32)
    for first, last in _slabs(shape, len(logits)):
        slab = torch.einsum("ax,kxyz->kayz", wx[first:last], logits.float())
        slab = torch.einsum("by,kayz->kabz", wy, slab)
        slab = torch.einsum("cz,kabz->kabc", wz, slab)
        if as_classes is not None:
            slab = as_classes(slab)
        probabilities[:, first:last] = (slab / temperature).softmax(dim=0).cpu().numpy()
    return probabilities


def highest_label(values: Tensor) -> Tensor:
    """Return the index (...) uint8 of the highest of values (K, ...), the first of equal ones.

    On CPUs this is many times faster than `torch.argmax`.
    """
    best, index = values[0].clone(), torch.zeros(values.shape[1:], dtype=torch.uint8, device=values.device)
    for k, one in enumerate(values[1:], start=1):
        index.masked_fill_(one > best, k)
        torch.maximum(best, one, out=best)
    return index


@dataclass(frozen=True, slots=True)
class _Axis:
    """Resampling of S values of an axis to T: the neighbours of each new value and their weights, both (T, N)."""

    neighbours: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def sources(self) -> slice:
        """Slice from the first to the last neighbour of all values."""
        return slice(int(self.neighbours.min()), int(self.neighbours.max()) + 1)

    def rows(self, first: int, last: int) -> _Axis:
        """Return the resampling for values `first` up to `last`, exclusive, of the T values."""
        return _Axis(self.neighbours[first:last], self.weights[first:last])


def _to_axis(matrix: NDArray[np.float32]) -> _Axis:
    """Return the nonzero weights of a matrix (T, S), with the neighbours to which they belong."""
    n = int((matrix > 0).sum(1).max())
    neighbours = np.argsort(-matrix, axis=1, kind="stable")[:, :n]
    weights = np.take_along_axis(matrix, neighbours, axis=1)
    return _Axis(np.where(weights > 0, neighbours, neighbours[:, :1]), weights)


def _slabs(shape: tuple[int, int, int], n_classes: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end along the first axis of slabs of about `SLAB_VOXELS` voxels and at most `SLAB_LOGITS` logits."""
    step = max(1, min(SLAB_VOXELS, SLAB_LOGITS // n_classes) // (shape[1] * shape[2]))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def _extremes(labels: tuple[Labels, Labels], axis: _Axis, *, dim: int) -> tuple[Labels, Labels]:
    """Return the lowest and highest label among the neighbours along an axis, given those along the previous axes."""
    first, *others = axis.neighbours.T
    low, high = (x.take(first, axis=dim) for x in labels)
    for column in others:
        np.minimum(low, labels[0].take(column, axis=dim), out=low)
        np.maximum(high, labels[1].take(column, axis=dim), out=high)
    return low, high


def _at_points(values: Tensor, points: NDArray[np.int64], axes: tuple[_Axis, _Axis, _Axis]) -> Tensor:
    """Return weighted means (N, K) of values (X, Y, Z, K) at voxels (N, 3)."""
    device, shape, by_voxel = values.device, values.shape, values.flatten(0, 2)
    columns = list(zip(axes, points.T, strict=True))
    near = [torch.from_numpy(axis.neighbours[column]).to(device) for axis, column in columns]  # 3 x (N, neighbours)
    weights = [torch.from_numpy(axis.weights[column]).to(device) for axis, column in columns]
    means = by_voxel.new_zeros((len(points), by_voxel.shape[1]))
    for i, j, k in product(*(range(n.shape[1]) for n in near)):
        place = (near[0][:, i] * shape[1] + near[1][:, j]) * shape[2] + near[2][:, k]
        weight = weights[0][:, i] * weights[1][:, j] * weights[2][:, k]
        means.addcmul_(by_voxel.index_select(0, place), weight[:, None])
    return means
