"""A training that learns nothing is noticed early, with likely causes, once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medhybrid.data.plan import Normalisation
from medhybrid.training.early_signs import EarlySigns
from tests.synthetic import StudyFolder, make_test_plan


@pytest.fixture
def make(study: StudyFolder):  # type: ignore[no-untyped-def]
    """Return a function that creates signs of a plan."""
    return lambda *thin, plan=None, **options: EarlySigns(study.config, plan or make_test_plan(), thin, **options)


def messages(signs: EarlySigns, losses: list[float], begin: float = 0.0) -> list[str]:
    shares = np.linspace(begin, 1, len(losses), endpoint=False)
    return [m for share, loss in zip(shares, losses, strict=True) if (m := signs.see_loss(float(share), loss))]


def flat(n: int = 100) -> list[float]:
    return list(2 + np.random.default_rng(0).normal(0, 0.02, n))


def test_a_loss_that_does_not_fall_is_told_once(make: Any) -> None:
    told = messages(make(), flat())

    assert len(told) == 1
    assert "the loss has not fallen after 10%" in told[0]
    assert "a learning rate that is too high (training.peak_rate=0.005)" in told[0]
    assert told[0].endswith("The run continues")


@pytest.mark.parametrize("losses", [np.geomspace(2, 0.5, 100), np.linspace(-0.1, -0.9, 100)])
def test_a_falling_loss_is_not_told_also_a_negative_one(make: Any, losses: np.ndarray) -> None:
    assert messages(make(), losses.tolist()) == []


def test_a_resumed_run_is_judged_by_all_its_losses_and_only_once(make: Any) -> None:
    """Late in a run, the loss is flat also in a good training."""
    assert messages(make(losses=[3.0] * 10, progress=0.5), flat(50), begin=0.5) == []

    early = make(losses=np.geomspace(8, 2.5, 20).tolist(), progress=0.05)
    assert messages(early, flat(20), begin=0.05) == []
    assert len(messages(make(losses=flat(20), progress=0.05), flat(20), begin=0.05)) == 1


def test_dice_of_0_after_a_tenth_of_the_run_is_told_with_the_labels_that_are_too_thin(make: Any) -> None:
    signs = make("nerve")

    assert signs.see_dice(0.05, {"nerve": 0.0, "eye": 0.0}) == ""
    assert "thinner than two voxels (nerve)" in signs.see_dice(0.17, {"nerve": 0.0, "eye": 0.0})
    assert signs.see_dice(0.33, {"nerve": 0.0, "eye": 0.0}) == ""
    assert make().see_dice(0.5, {"nerve": 0.4}) == ""
    assert make().see_dice(0.5, {}) == "", "no validation case has a label"


def test_single_labels_are_named_from_half_of_the_run_on(make: Any) -> None:
    signs = make("nerve", "lens")

    assert signs.see_dice(0.33, {"nerve": 0.0, "eye": 0.8}) == ""
    told = signs.see_dice(0.5, {"nerve": 0.0, "eye": 0.8})
    assert told.startswith("Dice of nerve is still 0 after 50% of the run; likely causes: labels thinner")
    assert "lens" not in told
    assert signs.see_dice(0.67, {"nerve": 0.0, "eye": 0.8}) == ""


def test_the_order_of_channels_and_mirrored_sides_are_causes_where_they_can_be(make: Any) -> None:
    two = tuple(Normalisation(channel=c, rule="zscore") for c in ("T1", "FLAIR"))
    plan = make_test_plan(normalisation=two, labels={"left_kidney": 1, "right_kidney": 2})

    told = make(plan=plan).see_dice(0.2, {"left_kidney": 0.0})
    plain = make().see_dice(0.2, {"lesion": 0.0})

    assert "channels in another order than in data.channels (T1, FLAIR)" in told
    assert "sides (left_kidney, right_kidney) that are exchanged" in told
    assert "mirroring along axis 0 (prepare.mirror_axes)" in told
    assert "channels" not in plain
    assert "sides" not in plain
