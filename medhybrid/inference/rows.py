"""Logits that come slab by slab along the first axis and are forgotten when no longer needed.

A scan's logits at full size (labels x voxels x 4 bytes) are most of what a prediction would need; where only labels and a score
are wanted they are never in memory as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


class Rows:
    """Reads rows of logits (K, X, Y, Z) in ascending order from slabs (K, n, Y, Z) that follow each other.

    Parameters
    ----------
    on_slab : callable
        Told every slab once, as it comes.
    """

    def __init__(self, slabs: Iterable[Tensor], *, on_slab: Callable[[Tensor], None] = lambda _: None) -> None:
        self._coming: Iterator[Tensor] = iter(slabs)
        self._on_slab = on_slab
        self._held: deque[Tensor] = deque()
        self._first = self._end = 0  # of the rows that are held

    def take(self, first: int, last: int) -> Tensor:
        """Rows `first` to before `last` (K, last - first, Y, Z); those before `first` cannot be asked for again."""
        if first < self._first:
            raise IndexError(f"row {first} is forgotten; the first that is held is {self._first}")
        while self._end < last:
            slab = next(self._coming)
            self._on_slab(slab)
            self._held.append(slab)
            self._end += slab.shape[1]
        while self._held and self._first + self._held[0].shape[1] <= first:
            self._first += self._held.popleft().shape[1]
        if len(self._held) > 1:  # what lies before `first` is left behind, or a row would hold all rows before it
            needed = (self._held.popleft()[:, first - self._first :], *self._held)
            self._held, self._first = deque([torch.cat(needed, dim=1)]), first
        return self._held[0][:, first - self._first : last - self._first]

    @property
    def n_held(self) -> int:
        """Rows in memory."""
        return sum(slab.shape[1] for slab in self._held)

    def rest(self) -> None:
        """Let the remaining slabs come."""
        for slab in self._coming:
            self._on_slab(slab)


def gather(slabs: Iterable[Tensor], n_rows: int) -> Tensor:
    """All rows of slabs as one tensor (K, n_rows, Y, Z)."""
    whole: Tensor | None = None
    end = 0
    for slab in slabs:
        if whole is None:
            whole = slab.new_empty((slab.shape[0], n_rows, *slab.shape[2:]))
        whole[:, end : end + slab.shape[1]] = slab
        end += slab.shape[1]
    assert whole is not None
    return whole
