"""Calibration measures on synthetic data with a known result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from medhybrid.metrics import area_under_curve, dice, expected_calibration_error, expected_dice, fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_used_for_drawing_labels_is_recovered(temperature: float, rng: np.random.Generator) -> None:
    logits = rng.normal(0, 3, (20_000, 3))
    chances = softmax(logits / temperature, axis=1)
    labels = (chances.cumsum(1) > rng.random((len(chances), 1))).argmax(1)

    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)
    assert expected_calibration_error(chances, labels) < 0.01


def test_the_calibration_error_is_confidence_minus_accuracy_of_overconfident_predictions() -> None:
    probabilities = np.tile([0.1, 0.9], (1000, 1))
    labels = np.r_[np.ones(600, int), np.zeros(400, int)]  # right in 60 % at a confidence of 90 %

    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.3)


def test_expected_dice_is_the_mean_dice_of_references_drawn_from_the_probabilities(rng: np.random.Generator) -> None:
    x = np.linspace(-3, 3, 24)
    probability = 1 / (1 + np.exp(4 * (np.hypot(x[:, None], x[None, :]) - 1.5)))[..., None] * np.ones(6)
    mask = probability > 0.5
    drawn = [dice(mask, rng.random(mask.shape) < probability) for _ in range(200)]

    assert expected_dice(probability, mask) == pytest.approx(np.mean(drawn), abs=0.005)


@pytest.mark.parametrize(("probability", "expected"), [(np.zeros((4, 4, 4)), 1.0), (np.full((4, 4, 4), 0.4), 0.0)])
def test_an_empty_mask_has_high_expected_dice_only_with_low_probabilities(
    probability: np.ndarray, expected: float
) -> None:
    assert expected_dice(probability, np.zeros((4, 4, 4), bool)) == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_under_curve_is_the_share_of_correctly_ordered_pairs(cases: list[tuple[int, bool]]) -> None:
    bad, good = [s for s, b in cases if b], [s for s, b in cases if not b]
    pairs = [1.0 if b < g else 0.5 if b == g else 0.0 for b in bad for g in good]

    found = area_under_curve([s for s, _ in cases], [b for _, b in cases])

    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)
