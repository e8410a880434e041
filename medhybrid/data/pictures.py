"""Whether a picture was seen before: known by its voxels, whatever its file is called and wherever it lies.

Weights that a training begins with may have been learnt from the cases that are to validate it. The hashes say so; they
say nothing of the picture itself.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def picture_hashes(array: NDArray[np.generic]) -> tuple[str, ...]:
    """A hash for each channel of an image (C, X, Y, Z) in RAS order, sorted; blank channels have none.

    A copy with other values (scaled, resampled, smoothed) is another picture.
    """
    found = set()
    for channel in array:
        if channel.min() == channel.max():
            continue
        digest = hashlib.sha256(str(channel.shape).encode())
        digest.update(np.ascontiguousarray(channel, np.float32).tobytes())
        found.add(digest.hexdigest()[:32])
    return tuple(sorted(found))
