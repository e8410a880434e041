"""Confidence of a model in its masks: calibrated probabilities, an uncertainty map and a score for each case.

The score of a case is the Dice that the calibrated probabilities predict for its mask (`metrics.expected_dice`): the lowest
over its labels. A case that scores below the model's threshold needs review. The score is computed on the network's grid,
where the logits already are, so it adds almost no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import softmax
from torch import Tensor

from medhybrid.data.even_sample import sample_step
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.inference.to_grid import highest_label
from medhybrid.metrics import (
    Reliability,
    area_under_curve,
    expected_calibration_error,
    expected_dice,
    fit_temperature,
    reliability_bins,
)

GOOD_DICE = 0.7
"""A validation mask with a lower Dice counts as bad when the threshold is chosen."""

DEFAULT_THRESHOLD = 0.8
"""Score below which a case needs review, if the validation cases were all good or all bad."""

SAMPLED_VOXELS = 20_000
"""Approximate number of voxels of a case that calibration uses."""

SAMPLED_MARGIN = 4
"""Voxels around reference and prediction that are sampled as well. Farther voxels are certain and would hide errors."""

SLAB_VOXELS = 2_000_000
"""Voxels of a scan whose probabilities are in memory at once."""

Verdict = Literal["confident", "needs review"]


class Calibration(BaseModel):
    """Calibration of a model's confidence, fitted on validation cases.

    Attributes
    ----------
    temperature : float
        Divisor of the logits before the softmax.
    ece, ece_calibrated : float
        Expected calibration error near the labels, before and after temperature scaling. For the second, each half of the
        cases is scaled by the temperature of the other half.
    threshold : float
        Cases with a lower score need review.
    auc : float, optional
        Probability that a validation case with Dice below 0.7 has a lower score than one above. None if the validation cases
        are all below 0.7 or all above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = 1.0
    ece: float | None = None
    ece_calibrated: float | None = None
    threshold: float = DEFAULT_THRESHOLD
    auc: float | None = None

    @property
    def is_fitted(self) -> bool:
        """Return whether validation cases fitted it; otherwise temperature and threshold are the defaults."""
        return self.ece is not None


NOT_CALIBRATED = Calibration(threshold=1.0)
"""Calibration of a model whose training failed: every mask needs review."""


@dataclass(frozen=True, slots=True)
class VoxelSample:
    """Logits (N, K), reference (N,) and prediction (N,) of sampled voxels near the labels of a case."""

    logits: NDArray[np.float32]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def sample_voxels(logits: Tensor, reference: NDArray[np.uint8]) -> VoxelSample:
    """Sample every n-th voxel of the box around reference and prediction, about `SAMPLED_VOXELS` in all.

    Parameters
    ----------
    logits : (K, X, Y, Z) Tensor
    reference : (X, Y, Z) ndarray
        Class indices 0 to K - 1 on the same grid, or `UNKNOWN` for voxels that are not sampled.
    """
    prediction = logits.argmax(0).to(torch.uint8).cpu().numpy()
    is_known = reference != UNKNOWN
    where = np.argwhere(((prediction > 0) | (reference > 0)) & is_known)
    low, high = (where.min(0), where.max(0) + 1) if len(where) else (np.zeros(3, int), np.array(reference.shape))
    box = tuple(slice(max(0, int(a) - SAMPLED_MARGIN), int(b) + SAMPLED_MARGIN) for a, b in zip(low, high, strict=True))
    step = sample_step(reference[box].shape, SAMPLED_VOXELS)
    near = logits[(slice(None), *box)].flatten(1)[:, ::step].T.float().cpu().numpy()
    sampled, kept = (values[box].ravel()[::step] for values in (reference, is_known))
    return VoxelSample(near[kept], sampled[kept], prediction[box].ravel()[::step][kept])


class ScoreSum:
    """Running sum for a case's score: the lowest expected Dice over its labels, in [0, 1].

    It gives the result of `metrics.expected_dice` from slabs of logits, without the probabilities of a whole scan in memory.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._overlap: NDArray[np.float64] = np.zeros(0)
        self._size: NDArray[np.float64] = np.zeros(0)
        self._peak: NDArray[np.float64] = np.zeros(0)  # highest probability of labels with a size of at most 1

    def add(self, logits: Tensor) -> None:
        """Add a slab of logits (K, n, Y, Z)."""
        if not len(self._size):
            self._overlap, self._size, self._peak = (np.zeros(len(logits)) for _ in range(3))
        n_voxels = logits[0].numel()
        for slab in torch.split(logits, max(1, logits.shape[1] * SLAB_VOXELS // n_voxels), dim=1):
            probabilities = (slab.float() / self.calibration.temperature).softmax(dim=0)
            labels = highest_label(slab)
            for k in range(1, len(logits)):
                inside = labels == k
                self._overlap[k] += float(probabilities[k][inside].sum())
                self._size[k] += float(probabilities[k].sum()) + int(inside.sum())
                if self._size[k] <= 1:
                    self._peak[k] = max(self._peak[k], float(probabilities[k].max()))

    @property
    def score(self) -> float:
        """Score of all slabs that were added; 0 if any logit was NaN or infinite."""
        if not np.isfinite(self._size).all():
            return 0.0
        labels = zip(self._overlap[1:], self._size[1:], self._peak[1:], strict=True)
        return min(2 * float(o) / float(s) if s > 1 else 1.0 - float(p) for o, s, p in labels)


def score_logits(logits: Tensor, calibration: Calibration) -> float:
    """Return the score of logits (K, X, Y, Z) that are in memory as a whole; see `ScoreSum`."""
    total = ScoreSum(calibration)
    total.add(logits)
    return total.score


def _score(probabilities: NDArray[np.floating], mask: NDArray[np.integer]) -> float:
    """Return the lowest expected Dice of probabilities (K, ...), background first, and the mask (...) from them."""
    return min(expected_dice(p, mask == value) for value, p in enumerate(probabilities) if value > 0)


def uncertainty(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the entropy (X, Y, Z) of probabilities (K, X, Y, Z), divided by its maximum.

    0 means certain, 1 means that all classes are equally likely.
    """
    entropy = np.empty(probabilities.shape[1:], np.float32)
    for x in range(len(entropy)):  # plane by plane: on the whole array, the temporaries would need twice its memory
        p = np.maximum(probabilities[:, x], 1e-12)
        entropy[x] = -(p * np.log(p)).sum(0) / np.log(len(p))
    return entropy


def low_confidence(score: float, calibration: Calibration) -> tuple[str, ...]:
    """Return the reason for review of a mask with a score below the model's threshold, or of a model without calibration."""
    if calibration == NOT_CALIBRATED:
        return ("confidence not calibrated: the training of the model failed",)
    if score >= calibration.threshold:
        return ()
    return (f"low confidence: the model expects Dice {score:.2f}, below {calibration.threshold:.2f}",)


def calibrate(samples: Sequence[VoxelSample], dice: Sequence[float]) -> Calibration:
    """Fit the temperature and the threshold on validation cases.

    The temperature is fitted on all cases. The calibration error after scaling is measured on halves, so that no case is
    scaled by a temperature that it helped to fit. The threshold separates masks with Dice below `GOOD_DICE` from the others
    with the fewest errors. If all masks are on one side, the default threshold stays.

    Parameters
    ----------
    samples : sequence of VoxelSample
        One for each validation case; fewer than two give the default calibration.
    dice : sequence of float
        Mean Dice of the same cases.
    """
    if len(samples) < 2:
        return Calibration()
    halves = [_pool(samples[i::2]) for i in range(2)]
    after = [_error(*halves[i], fit_temperature(*halves[1 - i])) for i in range(2)]
    logits, labels = _pool(samples)
    temperature = fit_temperature(logits, labels)
    scores = np.array([_score(softmax(s.logits / temperature, axis=1).T, s.prediction) for s in samples])
    is_bad = np.asarray(dice) < GOOD_DICE
    is_mixed = bool(is_bad.any() and not is_bad.all())
    return Calibration(
        temperature=round(temperature, 4),
        ece=round(_error(logits, labels, 1.0), 5),
        ece_calibrated=round(float(np.mean(after)), 5),
        threshold=_threshold(scores, is_bad) if is_mixed else DEFAULT_THRESHOLD,
        auc=round(area_under_curve(scores.tolist(), is_bad.tolist()), 4) if is_mixed else None,
    )


def reliability_of(samples: Sequence[VoxelSample]) -> tuple[Reliability, Reliability] | None:
    """Return the reliability bins before and after temperature scaling; None for fewer than two cases.

    Each half of the cases is scaled by the temperature of the other half.
    """
    if len(samples) < 2:
        return None
    halves = [_pool(samples[i::2]) for i in range(2)]
    temperatures = [fit_temperature(*halves[1 - i]) for i in range(2)]
    logits, labels = (np.concatenate(parts) for parts in zip(*halves, strict=True))
    scaled = np.concatenate([half[0] / t for half, t in zip(halves, temperatures, strict=True)])
    before, after = (reliability_bins(softmax(x, axis=1), labels) for x in (logits, scaled))
    return before, after


def _threshold(scores: NDArray[np.float64], is_bad: NDArray[np.bool_]) -> float:
    """Return the threshold with the fewest errors.

    The share of bad masks that pass and the share of good masks that are sent to review have the same weight.
    """
    ordered = np.sort(scores)
    cuts = (ordered[1:] + ordered[:-1]) / 2
    errors = [(scores[is_bad] >= c).mean() + (scores[~is_bad] < c).mean() for c in cuts]
    return round(float(cuts[int(np.argmin(errors))]), 4)


def _pool(samples: Sequence[VoxelSample]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    logits = np.concatenate([s.logits for s in samples]).astype(np.float64)
    return logits, np.concatenate([s.reference for s in samples]).astype(np.int64)


def _error(logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float) -> float:
    return expected_calibration_error(softmax(logits / temperature, axis=1), labels)
