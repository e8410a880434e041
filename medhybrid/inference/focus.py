"""First pass without overlap over a large scan, which finds where windows need overlap and test-time mirroring.

Most of a large scan is background. The first pass computes each voxel once. A cell of `CELL` voxels is near a label if a label
has a probability of at least `PROBABLE` anywhere in it, or in a neighbouring cell. The windows that contain such a cell are
computed as without a first pass, so its voxels have the same logits. All other voxels become background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8
"""Edge of a cell in voxels."""

PROBABLE = 0.01
"""Least probability of a label for a closer look."""

WORTH = 0.5
"""Largest number of windows of the first pass, relative to that of all windows, for which it is computed."""

Box = tuple[slice, slice, slice]

Run = Callable[[Tensor, Sequence[Box]], Iterable[tuple[Box, Tensor]]]
"""Function from an image (C, X, Y, Z) and boxes to each box with its logits (K, *window)."""


@dataclass
class Focus:
    """Cells of an image that are near a label.

    Attributes
    ----------
    share : float
        Share of the image's voxels that are near a label; 1 before a first pass, and without one.
    """

    share: float = 1.0
    _near: Tensor | None = field(default=None, repr=False)

    def look(self, image: Tensor, run: Run, boxes: Sequence[Box], n_all: int) -> None:
        """Compute the first pass of an image (C, X, Y, Z), unless it would not pay.

        Parameters
        ----------
        boxes : sequence
            Windows that cover the image without overlap.
        n_all : int
            Number of windows with overlap, each mirroring counted.
        """
        self.share, self._near = 1.0, None
        if len(boxes) > WORTH * n_all:
            return
        found = torch.zeros(image.shape[1:], dtype=torch.bool, device=image.device)
        for box, logits in run(image, boxes):
            found[box] |= is_probable(logits)
        near = _any_in_cells(found)
        near = F.max_pool3d(near[None].float(), 3, stride=1, padding=1)[0] > 0
        self._near = near
        self.share = float(self.voxels(slice(0, image.shape[1]), image.shape[2:]).float().mean())

    def keeps(self, box: Box) -> bool:
        """Return whether a box of the image has a cell near a label."""
        if self._near is None:
            return True
        return bool(self._near[tuple(slice(s.start // CELL, -(-s.stop // CELL)) for s in box)].any())

    def voxels(self, rows: slice, shape: Sequence[int]) -> Tensor:
        """Return which voxels (n, Y, Z) of some rows of the image are near a label."""
        assert self._near is not None
        cells = self._near[rows.start // CELL : -(-rows.stop // CELL)]
        for axis in range(3):
            cells = cells.repeat_interleave(CELL, dim=axis)
        first = rows.start % CELL
        return cells[first : first + rows.stop - rows.start, : shape[0], : shape[1]]

    @property
    def is_whole(self) -> bool:
        """Return whether the whole image is computed with overlap."""
        return self._near is None


def is_probable(logits: Tensor) -> Tensor:
    """Return where logits (K, ...) give a label a probability of about `PROBABLE` or more, compared with background alone."""
    return logits[1:].amax(dim=0) - logits[0] >= math.log(PROBABLE / (1 - PROBABLE))


def _any_in_cells(values: Tensor) -> Tensor:
    """Return whether any voxel of each cell is true."""
    padding = [n for size in reversed(values.shape) for n in (0, -size % CELL)]
    padded = F.pad(values.to(torch.uint8), padding)
    x, y, z = (n // CELL for n in padded.shape)
    return padded.view(x, CELL, y, CELL, z, CELL).amax(dim=(1, 3, 5)).bool()
