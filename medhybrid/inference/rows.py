"""Logits that are computed slab by slab along the first axis, and released after use.

The logits of a whole scan (labels x voxels x 4 bytes) would need most of the memory of a prediction. If only labels and a score
are needed, they are never in memory as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


class Rows:
    """Reader of rows of logits (K, X, Y, Z), in ascending order, from consecutive slabs (K, n, Y, Z).

    Parameters
    ----------
    slabs : iterable of Tensor
        Consecutive slabs along the first axis.
    on_slab : callable
        Called once with each slab, when it is read.
    """

    def __init__(self, slabs: Iterable[Tensor], *, on_slab: Callable[[Tensor], None] = lambda _: None) -> None:
        self._coming: Iterator[Tensor] = iter(slabs)
        self._on_slab = on_slab
        self._held: deque[Tensor] = deque()
        self._first = self._end = 0  # first row in memory, and the one after the last

    def take(self, first: int, last: int) -> Tensor:
        """Return rows `first` up to `last`, exclusive (K, last - first, Y, Z), and release the rows before `first`."""
        if first < self._first:
            raise IndexError(f"row {first} has been released; the first row in memory is {self._first}")
        while self._end < last:
            slab = next(self._coming)
            self._on_slab(slab)
            self._held.append(slab)
            self._end += slab.shape[1]
        while self._held and self._first + self._held[0].shape[1] <= first:
            self._first += self._held.popleft().shape[1]
        if len(self._held) > 1:  # copy only the rows from `first`: a view would keep the whole slab in memory
            needed = (self._held.popleft()[:, first - self._first :], *self._held)
            self._held, self._first = deque([torch.cat(needed, dim=1)]), first
        return self._held[0][:, first - self._first : last - self._first]

    @property
    def n_held(self) -> int:
        """Number of rows in memory."""
        return sum(slab.shape[1] for slab in self._held)

    def rest(self) -> None:
        """Read the remaining slabs, so that `on_slab` is called with each of them."""
        for slab in self._coming:
            self._on_slab(slab)


def gather(slabs: Iterable[Tensor], n_rows: int) -> Tensor:
    """Join slabs to one tensor (K, n_rows, Y, Z)."""
    whole: Tensor | None = None
    end = 0
    for slab in slabs:
        if whole is None:
            whole = slab.new_empty((slab.shape[0], n_rows, *slab.shape[2:]))
        whole[:, end : end + slab.shape[1]] = slab
        end += slab.shape[1]
    assert whole is not None
    return whole
