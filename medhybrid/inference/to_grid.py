"""Logits on the network's grid to labels and probabilities on the scan's own grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medhybrid.geometry import Grid, Turn, grid_weights


def labels_on_scan(logits: Tensor, network: Grid, turned: Grid, turn: Turn) -> NDArray[np.uint8]:
    """The label with the highest resampled logit at each voxel of the scan.

    The logits are resampled as they are, then compared: borders come out smooth. One label at a time is held at full size.

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
    best: Tensor | None = None
    labels = torch.zeros(turned.shape, dtype=torch.uint8, device=logits.device)
    for value, full in enumerate(_resampled(logits, network, turned)):
        if best is None:
            best = full
            continue
        larger = full > best
        labels[larger] = value
        best = torch.where(larger, full, best)
    return np.ascontiguousarray(turn.undo(labels.cpu().numpy())).astype(np.uint8, copy=False)


def probabilities_on_scan(
    logits: Tensor, network: Grid, turned: Grid, turn: Turn, *, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Probabilities (K, X', Y', Z'), background first, in the scan's own axis order.

    The softmax of the same resampled logits that `labels_on_scan` compares; other arguments as there.
    """
    full = (torch.stack(list(_resampled(logits, network, turned))) / temperature).softmax(dim=0)
    return np.ascontiguousarray(turn.undo(full.cpu().numpy())).astype(np.float32, copy=False)


def _resampled(logits: Tensor, network: Grid, turned: Grid) -> Iterator[Tensor]:
    """Each label's logit (X', Y', Z') on the turned grid."""
    wx, wy, wz = (torch.from_numpy(w).to(logits.device) for w in grid_weights(network, turned))
    for one in logits:
        full = torch.einsum("ax,xyz->ayz", wx, one.float())
        full = torch.einsum("by,ayz->abz", wy, full)
        yield torch.einsum("cz,abz->abc", wz, full)
