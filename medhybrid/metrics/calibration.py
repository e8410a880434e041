"""Calibration of probabilities, and scores derived from them: pure functions on arrays."""

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
    """Fit the temperature that minimises the cross-entropy of softmax(logits / temperature).

    Parameters
    ----------
    logits : (N, K) ndarray
    labels : (N,) integer ndarray
        Class of each row.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, section 4.2.
    """
    from scipy.optimize import minimize_scalar  # imported here: it takes a second, and a prediction does not need it

    rows = np.arange(len(labels))

    def cost(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(cost, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded").x))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability diagram of the B bins of confidence that are not empty.

    Attributes
    ----------
    confidence : (B,) ndarray
        Mean confidence of a bin.
    accuracy : (B,) ndarray
        Share of a bin's rows for which the most likely class is right.
    weight : (B,) ndarray
        Share of all rows that are in the bin.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    weight: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Return the expected calibration error: the mean of abs(confidence - accuracy), weighted by bin size; in [0, 1]."""
        return float((self.weight * np.abs(self.confidence - self.accuracy)).sum())


def reliability_bins(probabilities: Floats, labels: NDArray[np.integer]) -> Reliability:
    """Compute the accuracy of the most likely class in bins of its probability.

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
    """Compute the expected calibration error, in [0, 1].

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
    """Estimate the Dice of a mask from probabilities, without a reference.

    The estimate is of first order: twice the expected overlap, divided by the sum of mask size and expected reference size.
    If this sum is at most one voxel, the function returns the probability that the most likely voxel is background, because
    an empty mask is then right.

    Parameters
    ----------
    probability : (X, Y, Z) ndarray
        Calibrated probability of the mask's label.
    mask : (X, Y, Z) bool ndarray
    """
    size = float(probability.sum()) + float(mask.sum())
    return 1.0 - float(probability.max()) if size <= 1 else 2 * float(probability[mask].sum()) / size


def area_under_curve(scores: Sequence[float], is_bad: Sequence[bool]) -> float:
    """Compute the area under the ROC curve: the probability that a bad case has a lower score than a good one.

    Returns
    -------
    float
        In [0, 1]; NaN if all cases are bad or all are good.

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
