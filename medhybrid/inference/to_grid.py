"""Logits on the network's grid to labels on the scan's own grid."""

from __future__ import annotations

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
    device = logits.device
    wx, wy, wz = (torch.from_numpy(w).to(device) for w in grid_weights(network, turned))
    best: Tensor | None = None
    labels = torch.zeros(turned.shape, dtype=torch.uint8, device=device)
    for value, one in enumerate(logits):
        full = torch.einsum("ax,xyz->ayz", wx, one.float())
        full = torch.einsum("by,ayz->abz", wy, full)
        full = torch.einsum("cz,abz->abc", wz, full)
        if best is None:
            best = full
            continue
        larger = full > best
        labels[larger] = value
        best = torch.where(larger, full, best)
    return np.ascontiguousarray(turn.undo(labels.cpu().numpy())).astype(np.uint8, copy=False)
