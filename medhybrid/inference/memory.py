"""Estimate of the memory that a scan needs, before it is read.

Without it, the operating system could kill the process at a large scan, and the other scans of the folder would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psutil

from medhybrid.config import InferenceConfig
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import network_grid
from medhybrid.errors import ScanError
from medhybrid.geometry import turn_to_ras
from medhybrid.memory import free_memory
from medhybrid.scans import Scan

GIB = 2**30

WORKING = 300 * 2**20
"""Bytes of temporary arrays: slabs, pieces, points near borders (`windows.PIECE`, `to_grid.SLAB_VOXELS`)."""

READING = 6
"""Bytes of memory for each value while it is read: 4 as float32, and 2 as the 16 bits that most files store."""

ACTIVATIONS = 400
"""Bytes of activations for each voxel of a window, for the network of the packaged configs, with few labels.

Measured: 340 in float32, 170 in bf16.
"""

FEW_LABELS = 3
LOGIT_COPIES = 3
"""Copies of a window's logits in float32 while it is blended; those of few labels are part of `ACTIVATIONS`."""


def needed_memory(
    scan: Scan,
    plan: Plan,
    config: InferenceConfig,
    *,
    n_networks: int = 1,
    with_probabilities: bool = False,
    shape: Sequence[int] = (),
    activations: int = ACTIVATIONS,
) -> int:
    """Return the bytes that a prediction needs at its peak, without the scan itself, which is in memory already.

    It is the largest of three phases. Preparing: the image on the network's grid, and two copies of a channel for its
    normalisation. Network: that image, also padded, windows, and the logits of a window's rows for each averaged model.
    Measuring: the label map and the numbered components.

    Parameters
    ----------
    shape : (3,) sequence of int
        Shape of the image on the network's grid; by default that of the plan's spacing.
    activations : int
        Bytes of activations for each voxel of a window.
    """
    n_voxels = int(np.prod(scan.grid.shape))
    shape = shape or network_grid(turn_to_ras(scan.affine).grid(scan.grid), plan).shape
    padded = [max(n, w) for n, w in zip(shape, plan.patch_size, strict=True)]
    view = 4 * len(plan.channels) * int(np.prod(shape))
    row = 4 * (plan.n_labels + 1) * padded[1] * padded[2]
    preparing = view + 8 * int(np.prod(shape))
    n_more = max(0, plan.n_labels - FEW_LABELS)
    windows = config.window_batch * (activations + 4 * LOGIT_COPIES * n_more) * int(np.prod(plan.patch_size))
    inferring = 2 * view + n_networks * row * plan.patch_size[0] + windows + 2 * n_voxels
    measuring = 8 * n_voxels
    if with_probabilities:  # in memory as a whole, on both grids
        inferring += row * padded[0] + 8 * (plan.n_labels + 1) * n_voxels
        measuring += 8 * (plan.n_labels + 1) * n_voxels
    return n_networks * WORKING + max(preparing, inferring, measuring)


def collected_bytes(shape: Sequence[int], plan: Plan, rows: int | None = None) -> int:
    """Return the bytes of an image (C, X, Y, Z) and of its logits, with their blending weights, while they are collected.

    Parameters
    ----------
    rows : int, optional
        Rows along X whose logits are held at once; None for all.
    """
    n_voxels = int(np.prod(shape[1:]))
    held = n_voxels if rows is None else int(np.prod(shape[2:])) * min(rows, shape[1])
    return 4 * (shape[0] * n_voxels + (plan.n_labels + 3) * held)


def refuse_too_large_to_read(case: str, shapes: Sequence[Sequence[int]], limit: int | None = None) -> None:
    """Raise `ScanError` for a scan whose values need more than `limit` bytes, or than the free memory if it is None.

    Only headers are read: a compressed file or an archive may hold far more values than its own size suggests.

    Parameters
    ----------
    shapes : sequence of shapes
        Shape of each channel of the scan, from its header.
    """
    needed = READING * sum(int(np.prod(shape, dtype=object)) for shape in shapes)
    there = free_memory() if limit is None else limit
    if needed > there:
        raise ScanError(
            f"{case}: reading the scan of {_sizes(shapes)} values needs more memory than is available",
            expected=f"{needed / GIB:.1f} GiB",
            found=f"{there / GIB:.1f} GiB" + ("" if limit is None else " (--max-memory)"),
            remedy="check its header; close other programs, use a computer with more memory, or predict a cropped scan",
        )


def _sizes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(" x ".join(map(str, shape)) for shape in dict.fromkeys(map(tuple, shapes)))


def refuse_too_large(
    scan: Scan,
    plan: Plan,
    config: InferenceConfig,
    limit: int | None = None,
    *,
    n_networks: int = 1,
    with_probabilities: bool = False,
    doubts: Sequence[str] = (),
    shape: Sequence[int] = (),
    activations: int = ACTIVATIONS,
) -> None:
    """Raise `ScanError` for a scan that needs more than `limit` bytes, or than the process could get if it is None.

    Parameters
    ----------
    doubts : sequence of str
        Differences between the scan and the training scans, for the message: a wrong header may be why it is so large.
    shape, activations
        See `needed_memory`.
    """
    needed = needed_memory(
        scan,
        plan,
        config,
        n_networks=n_networks,
        with_probabilities=with_probabilities,
        shape=shape,
        activations=activations,
    )
    needed += scan.array.nbytes
    # memory that the process already uses counts as available: `needed` includes the scan, which is in memory
    there = free_memory() + psutil.Process().memory_info().rss if limit is None else limit
    if needed > there:
        raise ScanError(
            f"{scan.case}: the scan of {' x '.join(map(str, scan.grid.shape))} voxels needs more memory than is available",
            expected=f"{needed / GIB:.1f} GiB",
            found=f"{there / GIB:.1f} GiB" + ("" if limit is None else " (--max-memory)"),
            remedy="".join(f"check its header: {d}; " for d in doubts)
            + "close other programs, use a computer with more memory, "
            + ("omit --probabilities, " if with_probabilities else "")
            + "or predict a cropped scan",
        )
