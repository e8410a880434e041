"""An even sample of the voxels of an image."""

from __future__ import annotations

import math


def sample_step(shape: tuple[int, ...], n_wanted: int) -> int:
    """Return the step through the voxels in memory order that takes about `n_wanted` of them, from all rows and slices.

    It shares no factor with an axis: in a volume of 256 x 256 x 30 voxels, each 30th is in one slice.
    """
    n_voxels = math.prod(shape)
    if n_voxels < 2 * n_wanted:
        return 1
    step = n_voxels // n_wanted
    while any(math.gcd(step, n) > 1 for n in shape):
        step += 1
    return step
