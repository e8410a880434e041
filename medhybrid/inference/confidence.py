"""How sure a model is of its masks: calibrated probabilities, an uncertainty map, and a score that finds the doubtful cases.

The score of a case is the Dice that its mask would have if the calibrated probabilities held (`metrics.expected_dice`), the
lowest over its labels. A case below the model's threshold is to be looked at. All of it is measured on the network's grid,
where the logits are: it costs next to nothing.
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
"""A mask with less is one that a person should have looked at."""

DEFAULT_THRESHOLD = 0.8
"""Score under which a case is to be looked at, where validation had no bad case to choose it by."""

SAMPLED_VOXELS = 20_000
"""Voxels of a case that calibration looks at."""

SAMPLED_MARGIN = 4
"""Voxels around reference and prediction that are sampled: far from both everything is sure, and would hide the rest."""

SLAB_VOXELS = 2_000_000
"""Voxels of a scan whose probabilities are held at once."""

Verdict = Literal["confident", "needs review"]


class Calibration(BaseModel):
    """What validation taught of a model's confidence.

    Attributes
    ----------
    temperature : float
        Logits are divided by it.
    ece, ece_calibrated : float
        Expected calibration error near the labels before and after; after, each half of the cases with the other's temperature.
    threshold : float
        Cases that score less are to be looked at.
    auc : float, optional
        Chance that a validation case with Dice below 0.7 scores less than one above; None where all are of one kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = 1.0
    ece: float | None = None
    ece_calibrated: float | None = None
    threshold: float = DEFAULT_THRESHOLD
    auc: float | None = None


@dataclass(frozen=True, slots=True)
class VoxelSample:
    """Logits (N, K), reference and prediction (N,) of some voxels near the labels of a case."""

    logits: NDArray[np.float32]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def sample_voxels(logits: Tensor, reference: NDArray[np.uint8]) -> VoxelSample:
    """Every n-th voxel of the box around reference and prediction, so that about `SAMPLED_VOXELS` are taken.

    Parameters
    ----------
    logits : (K, X, Y, Z) Tensor
    reference : (X, Y, Z) ndarray
        Inside values, on the same grid.
    """
    prediction = logits.argmax(0).to(torch.uint8).cpu().numpy()
    where = np.argwhere((prediction > 0) | (reference > 0))
    low, high = (where.min(0), where.max(0) + 1) if len(where) else (np.zeros(3, int), np.array(reference.shape))
    box = tuple(slice(max(0, int(a) - SAMPLED_MARGIN), int(b) + SAMPLED_MARGIN) for a, b in zip(low, high, strict=True))
    step = sample_step(reference[box].shape, SAMPLED_VOXELS)
    near = logits[(slice(None), *box)].flatten(1)[:, ::step].T.float().cpu().numpy()
    return VoxelSample(near, reference[box].ravel()[::step], prediction[box].ravel()[::step])


class ScoreSum:
    """The lowest expected Dice over the labels that are predicted or likely, in [0, 1], from logits that come in slabs.

    As `metrics.expected_dice`; probabilities of a whole scan are never held.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._overlap: NDArray[np.float64] = np.zeros(0)
        self._size: NDArray[np.float64] = np.zeros(0)
        self._peak: NDArray[np.float64] = np.zeros(0)  # of labels that are nowhere likely so far

    def add(self, logits: Tensor) -> None:
        """Logits (K, n, Y, Z)."""
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
        """Of all that was added; 0 where a logit was no number."""
        if not np.isfinite(self._size).all():
            return 0.0
        labels = zip(self._overlap[1:], self._size[1:], self._peak[1:], strict=True)
        return min(2 * float(o) / float(s) if s > 1 else 1.0 - float(p) for o, s, p in labels)


def score_logits(logits: Tensor, calibration: Calibration) -> float:
    """`ScoreSum` of logits (K, X, Y, Z)."""
    total = ScoreSum(calibration)
    total.add(logits)
    return total.score


def _score(probabilities: NDArray[np.floating], mask: NDArray[np.integer]) -> float:
    """Of probabilities (K, ...), background first, and the mask (...) that they give."""
    return min(expected_dice(p, mask == value) for value, p in enumerate(probabilities) if value > 0)


def uncertainty(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy (X, Y, Z) of the probabilities (K, X, Y, Z), as share of the largest possible: 0 sure, 1 even odds."""
    entropy = np.empty(probabilities.shape[1:], np.float32)
    for x in range(len(entropy)):  # in one piece it would need as much again, twice
        p = np.maximum(probabilities[:, x], 1e-12)
        entropy[x] = -(p * np.log(p)).sum(0) / np.log(len(p))
    return entropy


def low_confidence(score: float, calibration: Calibration) -> tuple[str, ...]:
    """Return the reason for review of a mask that scores less than the model's threshold; none for others."""
    if score >= calibration.threshold:
        return ()
    return (f"low confidence: the model expects Dice {score:.2f}, below {calibration.threshold:.2f}",)


def calibrate(samples: Sequence[VoxelSample], dice: Sequence[float]) -> Calibration:
    """What the validation cases teach.

    The temperature is that of all cases; the error after it is measured on halves, so that no case judges itself. The threshold
    tells masks with Dice below `GOOD_DICE` from the others with fewest errors; where all are of one kind the default stays.

    Parameters
    ----------
    dice : sequence of float
        Of the cases of `samples`.
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
    """Before and after the temperature, each half of the cases with the other's; None where there are too few cases."""
    if len(samples) < 2:
        return None
    halves = [_pool(samples[i::2]) for i in range(2)]
    temperatures = [fit_temperature(*halves[1 - i]) for i in range(2)]
    logits, labels = (np.concatenate(parts) for parts in zip(*halves, strict=True))
    scaled = np.concatenate([half[0] / t for half, t in zip(halves, temperatures, strict=True)])
    before, after = (reliability_bins(softmax(x, axis=1), labels) for x in (logits, scaled))
    return before, after


def _threshold(scores: NDArray[np.float64], is_bad: NDArray[np.bool_]) -> float:
    """The cut with fewest errors, shares of bad masks that pass and of good ones looked at in vain counting alike."""
    ordered = np.sort(scores)
    cuts = (ordered[1:] + ordered[:-1]) / 2
    errors = [(scores[is_bad] >= c).mean() + (scores[~is_bad] < c).mean() for c in cuts]
    return round(float(cuts[int(np.argmin(errors))]), 4)


def _pool(samples: Sequence[VoxelSample]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    logits = np.concatenate([s.logits for s in samples]).astype(np.float64)
    return logits, np.concatenate([s.reference for s in samples]).astype(np.int64)


def _error(logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float) -> float:
    return expected_calibration_error(softmax(logits / temperature, axis=1), labels)
