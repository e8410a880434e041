"""The loss has its golden values, and is lowest for correct logits."""

import json
from pathlib import Path

import pytest
import torch

from medhybrid.networks import Logits
from medhybrid.training.losses import compute_loss, soft_dice_loss
from tests.golden.make_golden import example

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())


def test_golden_values() -> None:
    terms = compute_loss(*example(), 0.3)

    for name in ("total", "cross_entropy", "dice", "auxiliary"):
        assert float(getattr(terms, name)) == pytest.approx(GOLDEN[name], abs=1e-5)


def test_soft_dice_by_hand() -> None:
    """One label with sums over the batch: overlap 1.5, volumes 2 and 2."""
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 1.0], [1.0, 0.5, 1.0, 0.0]]).reshape(1, 2, 4, 1, 1)
    probabilities[0, 1] = torch.tensor([0.5, 1.0, 0.5, 0.0]).reshape(4, 1, 1)
    target = torch.tensor([1, 1, 0, 0]).reshape(1, 4, 1, 1)

    assert float(soft_dice_loss(probabilities, target)) == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 2 + 1))


def test_the_loss_is_near_zero_for_correct_logits_and_high_for_wrong_ones() -> None:
    _, target = example()
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float() * 30
    logits = Logits(right, right[..., ::2, ::2, ::2])

    assert float(compute_loss(logits, target, 0.3).total) < 1e-3
    assert float(compute_loss(logits, (target + 1) % 3, 0.3).total) > 10


def test_an_absent_label_that_is_not_predicted_adds_no_loss() -> None:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    background = torch.zeros(1, 2, 4, 4, 4)
    background[:, 0] = 1.0

    assert float(soft_dice_loss(background, target)) == pytest.approx(0.0)
