"""Even sampling of the voxels of an image."""

from __future__ import annotations

import math


def sample_step(shape: tuple[int, ...], n_wanted: int) -> int:
    """Return a step through the voxels in memory order that yields about `n_wanted` of them, from all rows and slices.

    The step has no common factor with the length of an axis. Otherwise it would miss slices: in a volume of 256 x 256 x 30
    voxels, every 30th voxel is in the same slice.
    """
    n_voxels = math.prod(shape)
    if n_voxels < 2 * n_wanted:
        return 1
    step = n_voxels // n_wanted
    while any(math.gcd(step, n) > 1 for n in shape):
        step += 1
    return step
