"""Plots of validations can be drawn for all inputs, and their reliability bins are correct."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy.special import softmax

from medhybrid.metrics import expected_calibration_error, reliability_bins
from medhybrid.review import plots
from medhybrid.review.plots import CaseRow


def rows(n: int) -> list[CaseRow]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        dice = {"a": float(rng.uniform(0.5, 1)), "b": float(rng.uniform(0, 1))}
        reference = {"a": float(rng.uniform(1, 20)), "b": 0.0 if i == 0 else float(rng.uniform(0.1, 2))}
        predicted = {k: v * float(rng.uniform(0.8, 1.2)) for k, v in reference.items()}
        made.append(CaseRow(f"case {i}", float(np.mean(list(dice.values()))), dice, reference, predicted))
    return made


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("draw", [plots.dice_by_case, plots.volumes, plots.dice_over_size])
def test_every_number_of_cases_can_be_drawn(tmp_path: Path, draw: object, n: int) -> None:
    path = draw(tmp_path / "plots" / "x.png", rows(n))  # type: ignore[operator]

    assert matplotlib.image.imread(path).std() > 0.05


def test_learning_curves_of_unequal_length_are_drawn(tmp_path: Path) -> None:
    curves = {"fold 0": [(0.0, 0.1), (5.0, 0.8), (10.0, 0.9)], "fold 1": [(1.0, 0.2), (8.0, 0.85)]}

    path = plots.learning_curves(tmp_path / "curves.png", curves, unit="minutes")

    assert matplotlib.image.imread(path).std() > 0.05


def test_reliability_bins_add_up_to_the_calibration_error(tmp_path: Path) -> None:
    """Compare with the error by its definition, bin by bin, on samples of a known overconfidence."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (5000, 3))
    labels = (softmax(logits / 2, axis=1).cumsum(1) > rng.random((5000, 1))).argmax(1)
    chances = softmax(logits, axis=1)

    bins = reliability_bins(chances, labels)

    assert bins.weight.sum() == pytest.approx(1)
    assert (bins.confidence[2:] > bins.accuracy[2:]).all(), "too sure everywhere"
    assert bins.error == pytest.approx(expected_calibration_error(chances, labels))
    right = chances.argmax(1) == labels
    chosen = chances.max(1) >= 14 / 15
    assert bins.accuracy[-1] == pytest.approx(right[chosen].mean())
    path = plots.reliability(tmp_path / "r.png", bins, reliability_bins(softmax(logits / 2, axis=1), labels))
    assert matplotlib.image.imread(path).std() > 0.05
