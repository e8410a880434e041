"""A training that learns nothing is noticed early, with likely causes, once."""

from __future__ import annotations

import numpy as np

from medhybrid.training.early_signs import EarlySigns
from tests.synthetic import make_test_plan


def messages(losses: list[float]) -> list[str]:
    signs = EarlySigns(make_test_plan())
    found = [signs.see_loss(i / len(losses), loss) for i, loss in enumerate(losses)]
    return [m for m in found if m]


def test_a_loss_that_does_not_fall_is_told_once() -> None:
    rng = np.random.default_rng(0)

    told = messages(list(2 + rng.normal(0, 0.02, 100)))

    assert len(told) == 1
    assert "the loss has not fallen after 10%" in told[0]
    assert "peak_rate" in told[0]


def test_a_falling_loss_is_not_told() -> None:
    assert messages(list(np.geomspace(2, 0.5, 100))) == []


def test_dice_of_0_after_a_tenth_of_the_run_is_told_with_the_labels_that_are_too_thin() -> None:
    signs = EarlySigns(make_test_plan(), ["nerve"])

    assert signs.see_dice(0.05, 0.0) == ""
    assert "thinner than two voxels (nerve)" in signs.see_dice(0.17, 0.0)
    assert signs.see_dice(0.33, 0.0) == ""
    assert EarlySigns(make_test_plan()).see_dice(0.5, 0.4) == ""
