"""Hashes of images for the data leakage check, computed from the voxels regardless of file name and location.

The cases that validate a training may have been used for training its pretrained weights. The hashes detect this, and the
image cannot be reconstructed from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def picture_hashes(array: NDArray[np.generic]) -> tuple[str, ...]:
    """Compute a hash for each channel of an image (C, X, Y, Z) in RAS order; constant channels are omitted.

    The hashes are sorted. A copy with other values (scaled, resampled, smoothed) has another hash.
    """
    found = set()
    for channel in array:
        if channel.min() == channel.max():
            continue
        digest = hashlib.sha256(str(channel.shape).encode())
        digest.update(np.ascontiguousarray(channel, np.float32).tobytes())
        found.add(digest.hexdigest()[:32])
    return tuple(sorted(found))


def is_known_image(array: NDArray[np.generic], known: Collection[str]) -> bool:
    """Return whether a channel of an image (C, X, Y, Z) in RAS order has one of the known hashes."""
    return bool(known) and not set(known).isdisjoint(picture_hashes(array))
