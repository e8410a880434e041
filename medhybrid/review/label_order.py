"""Order in which reference masks of unlabelled scans teach most: uncertain scans that differ from those before them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def label_order(uncertainty: NDArray[np.float64], features: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """Return the order of scans, and the distance of each, when it was chosen, to the nearest scan before it.

    The first is the most uncertain one. Each following scan has the largest product of its uncertainty and its distance to the
    scans chosen so far. Features are compared in units of their standard deviations. Without features, or with equal ones,
    uncertainty alone decides.

    Parameters
    ----------
    uncertainty : (N,) ndarray
        From 0 to 1.
    features : (N, D) ndarray
        D may be 0.

    References
    ----------
    The distances are those of the greedy k-centre selection of Sener & Savarese (2018), arXiv:1708.00489.
    """
    n = len(uncertainty)
    if not n:
        return [], []
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    order = [int(np.argmax(uncertainty))]
    nearest = np.linalg.norm(scaled - scaled[order[0]], axis=1) if scaled.size else np.zeros(n)
    distances = [float("nan")]
    while len(order) < n:
        left = np.setdiff1d(np.arange(n), order)
        gain = uncertainty[left] * nearest[left]
        # where no scan differs from those before it, the most uncertain one is next
        best = int(left[np.lexsort((-left, uncertainty[left], gain))[-1]])
        order.append(best)
        distances.append(float(nearest[best]))
        if scaled.size:
            nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[best], axis=1))
    return order, distances
