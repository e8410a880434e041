"""Calibration of a model's confidence on validation cases, and the cases that need review."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medhybrid.inference import confidence
from medhybrid.inference.confidence import (
    DEFAULT_THRESHOLD,
    NOT_CALIBRATED,
    Calibration,
    calibrate,
    low_confidence,
    sample_voxels,
    score_logits,
    uncertainty,
)
from medhybrid.metrics import expected_dice

SHAPE = (24, 20, 12)


def case(rng: np.random.Generator, sharpness: float, doubt: float = 0.0) -> tuple[torch.Tensor, np.ndarray]:
    """Return logits of a ball whose border is blurred by `doubt`, and a reference sampled from the softened probabilities."""
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    truth = 8 * (0.55 - np.linalg.norm(index, axis=0)) - doubt
    reference = (rng.random(SHAPE) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    logits = np.stack([np.zeros(SHAPE), sharpness * truth])
    return torch.from_numpy(logits).float(), reference


def test_temperature_scaling_recovers_the_temperature_and_reduces_the_error(rng: np.random.Generator) -> None:
    samples = [sample_voxels(*case(rng, sharpness=3.0)) for _ in range(6)]

    found = calibrate(samples, [0.9] * 6)

    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.ece is not None
    assert found.ece_calibrated is not None
    assert found.ece_calibrated < found.ece / 2
    assert (found.auc, found.threshold) == (None, DEFAULT_THRESHOLD), "every mask is good: nothing to choose by"


def test_doubtful_cases_score_below_the_threshold_and_the_others_above(rng: np.random.Generator) -> None:
    cases = [case(rng, 1.0, doubt) for doubt in (0, 0.2, 0.1, 3.4, 3.6)]
    dice = [0.9, 0.88, 0.86, 0.4, 0.3]

    found = calibrate([sample_voxels(*c) for c in cases], dice)

    assert found.auc == 1.0
    verdicts = [
        "needs review" if low_confidence(score_logits(logits, found), found) else "confident" for logits, _ in cases
    ]
    assert verdicts == ["confident"] * 3 + ["needs review"] * 2


@pytest.mark.parametrize("slab", [1, 700, 10**6])
def test_the_score_is_the_lowest_expected_dice_of_the_labels(monkeypatch: pytest.MonkeyPatch, slab: int) -> None:
    monkeypatch.setattr(confidence, "SLAB_VOXELS", slab)
    logits = 3 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))

    score = score_logits(logits, Calibration(temperature=1.7))

    probabilities = (logits / 1.7).softmax(0).numpy()
    mask = probabilities.argmax(0)
    assert score == pytest.approx(min(expected_dice(probabilities[k], mask == k) for k in (1, 2, 3)), abs=1e-6)


def test_one_case_gives_the_default_calibration(rng: np.random.Generator) -> None:
    assert calibrate([sample_voxels(*case(rng, 1.0))], [0.5]) == Calibration()


def test_uncertainty_is_0_for_certain_voxels_and_1_for_equal_probabilities() -> None:
    probabilities = np.array([[1.0, 0.5, 1 / 3], [0.0, 0.5, 1 / 3], [0.0, 0.0, 1 / 3]], np.float32)[:, None, None]

    np.testing.assert_allclose(uncertainty(probabilities)[0, 0], [0, np.log(2) / np.log(3), 1], atol=1e-5)


def test_every_mask_of_a_failed_training_needs_review() -> None:
    assert low_confidence(1.0, NOT_CALIBRATED) == ("confidence not calibrated: the training of the model failed",)
    assert low_confidence(0.9, Calibration()) == ()
