"""What a scan will need, told before its work begins: a folder must not end because the system ends the process."""

from __future__ import annotations

import numpy as np
import psutil

from medhybrid.data.plan import Plan
from medhybrid.errors import ScanError
from medhybrid.geometry import respace, turn_to_ras
from medhybrid.scans import Scan

GIB = 2**30

WORKING = 300 * 2**20
"""Bytes of what is worked on at once: slabs, pieces, points near borders (`windows.PIECE`, `to_grid.SLAB_VOXELS`)."""

ACTIVATIONS = 400
"""Bytes that the network of the packaged configs needs for a voxel of a window (measured: 340 in float32, 170 in bf16)."""


def needed_memory(scan: Scan, plan: Plan, *, n_networks: int = 1, with_probabilities: bool = False) -> int:
    """Bytes that a prediction needs at its peak, besides the scan itself, which has been read.

    The most of three: preparing (the network's view, and two copies of a channel for its intensities), the network (that view,
    padded, windows, and logits of a window's rows for each of the models that are averaged), and measuring (the label map
    and numbered components).
    """
    n_voxels = int(np.prod(scan.grid.shape))
    network = respace(turn_to_ras(scan.affine).grid(scan.grid), plan.spacing_mm)
    padded = [max(n, w) for n, w in zip(network.shape, plan.patch_size, strict=True)]
    view = 4 * len(plan.channels) * int(np.prod(network.shape))
    row = 4 * (plan.n_labels + 1) * padded[1] * padded[2]
    preparing = view + 8 * int(np.prod(network.shape))
    inferring = (
        2 * view
        + n_networks * row * plan.patch_size[0]
        + 2 * ACTIVATIONS * int(np.prod(plan.patch_size))
        + 2 * n_voxels
    )
    measuring = 8 * n_voxels
    if with_probabilities:  # held whole, on both grids
        inferring += row * padded[0] + 8 * (plan.n_labels + 1) * n_voxels
        measuring += 8 * (plan.n_labels + 1) * n_voxels
    return WORKING + max(preparing, inferring, measuring)


def refuse_too_large(
    scan: Scan, plan: Plan, limit: int | None = None, *, n_networks: int = 1, with_probabilities: bool = False
) -> None:
    """Raise `ScanError` for a scan that needs more than `limit` bytes, or than are free."""
    needed = needed_memory(scan, plan, n_networks=n_networks, with_probabilities=with_probabilities)
    free = psutil.virtual_memory().available if limit is None else limit - scan.array.nbytes
    if needed > free:
        raise ScanError(
            f"{scan.case}: the scan of {' x '.join(map(str, scan.grid.shape))} voxels needs more memory than there is",
            expected=f"{(needed + scan.array.nbytes) / GIB:.1f} GiB",
            found=f"{(max(free, 0) + scan.array.nbytes) / GIB:.1f} GiB" + ("" if limit is None else " (--max-memory)"),
            remedy="close other programs, give it a machine with more, "
            + ("leave --probabilities out, " if with_probabilities else "")
            + "or predict a cropped scan",
        )
