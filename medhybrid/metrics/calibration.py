"""Whether probabilities mean what they say, and what they say of a mask: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

N_BINS = 15
LOG_TEMPERATURE_BOUNDS = (-2.0, 2.0)

Floats = NDArray[np.floating]


def fit_temperature(logits: Floats, labels: NDArray[np.integer]) -> float:
    """The temperature that makes softmax(logits / temperature) most likely.

    Parameters
    ----------
    logits : (N, K) ndarray
    labels : (N,) integer ndarray
        The class of each row.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # a second of import that a prediction does not need

    rows = np.arange(len(labels))

    def cost(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(cost, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded").x))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of confidence that hold anything: mean confidence, share that is right, share of all rows; each (B,)."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    weight: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Mean gap between confidence and accuracy, weighted by size; in [0, 1]."""
        return float((self.weight * np.abs(self.confidence - self.accuracy)).sum())


def reliability_bins(probabilities: Floats, labels: NDArray[np.integer]) -> Reliability:
    """How often the most likely class is right, by how likely it is held.

    Parameters
    ----------
    probabilities : (N, K) ndarray
    labels : (N,) integer ndarray

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, section 2, with 15 bins.
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    held = [bins == b for b in range(N_BINS) if (bins == b).any()]
    means = [(confidence[h].mean(), is_right[h].mean(), h.mean()) for h in held]
    return Reliability(*np.array(means, np.float64).reshape(-1, 3).T)


def expected_calibration_error(probabilities: Floats, labels: NDArray[np.integer]) -> float:
    """Mean gap between confidence and accuracy over bins of confidence, weighted by their size; in [0, 1].

    Parameters
    ----------
    probabilities : (N, K) ndarray
    labels : (N,) integer ndarray

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, equation 5, with 15 bins.
    """
    return reliability_bins(probabilities, labels).error


def expected_dice(probability: Floats, mask: NDArray[np.bool_]) -> float:
    """Return the Dice that a mask would have if voxels were foreground as often as their probability says.

    Twice the expected overlap over the expected sizes: a first-order estimate of the expected Dice. Where less than a voxel is
    expected, it is the probability that the likeliest voxel is background: an empty mask is right if that holds.

    Parameters
    ----------
    probability : (X, Y, Z) ndarray
        Of the mask's label.
    """
    size = float(probability.sum()) + float(mask.sum())
    return 1.0 - float(probability.max()) if size <= 1 else 2 * float(probability[mask].sum()) / size


def area_under_curve(scores: Sequence[float], is_bad: Sequence[bool]) -> float:
    """Chance that a bad case has a lower score than a good one; nan where all are of one kind.

    References
    ----------
    Hanley and McNeil (1982), doi:10.1148/radiology.143.1.7063747, as a rank sum.
    """
    from scipy.stats import rankdata  # as in `fit_temperature`

    bad = np.asarray(is_bad, bool)
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if not n_bad or not n_good:
        return float("nan")
    ranks = rankdata(np.asarray(scores, float))
    return float((ranks[~bad].sum() - n_good * (n_good + 1) / 2) / (n_bad * n_good))
