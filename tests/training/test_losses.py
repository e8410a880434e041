"""Losses have their golden values, agree with MONAI, and are lowest for correct logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from monai.losses import DiceLoss, FocalLoss, TverskyLoss
from pydantic import ValidationError
from torch import Tensor

from medhybrid.config import TrainingConfig
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.networks import Logits
from medhybrid.networks.regions import RegionScores
from medhybrid.training import loss_terms, softmax_sums
from medhybrid.training.loss_terms import DICE, LossRule, label_terms, overlap_loss, region_terms, tversky
from medhybrid.training.losses import compute_loss, compute_region_loss
from tests.golden.make_golden import TERMS, example

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:monai")

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())

SMOOTH = {"smooth_nr": 1.0, "smooth_dr": 1.0, "batch": True}
OF_LABELS = {"include_background": False, "to_onehot_y": True, "softmax": True, **SMOOTH}
OF_REGIONS = {"sigmoid": True, **SMOOTH}


def rule(loss: str, **settings: Any) -> LossRule:
    """Return the rule of a config with this loss."""
    return LossRule.of(TrainingConfig(iterations=1, loss=loss, **settings))  # type: ignore[arg-type]


def batch(n_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random logits (2, K, 5, 4, 3) and labels (2, 5, 4, 3)."""
    made = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, n_classes, 5, 4, 3, generator=made)
    return logits, torch.randint(0, n_classes, (2, 5, 4, 3), generator=made)


def monais(loss: str, logits: Tensor, target: Tensor) -> float:
    """Return the loss of labels by MONAI and PyTorch; MONAI's focal loss is a mean over classes, too."""
    labels = target[:, None]
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)
    overlap = TverskyLoss(alpha=0.3, beta=0.7, **OF_LABELS)
    terms = {
        "dice_ce": lambda: DiceLoss(**OF_LABELS)(logits, labels) + F.cross_entropy(logits, target),
        "dice_focal": lambda: DiceLoss(**OF_LABELS)(logits, labels) + logits.shape[1] * focal(logits, labels),
        "tversky": lambda: overlap(logits, labels),
        "tversky_ce": lambda: overlap(logits, labels) + F.cross_entropy(logits, target),
        "ce": lambda: F.cross_entropy(logits, target),
    }
    return float(terms[loss]())


LOSSES = ("dice_ce", "dice_focal", "tversky", "tversky_ce", "ce")


def test_golden_values() -> None:
    metrics = compute_loss(*example(), 0.3).metrics()

    assert {name: metrics[key] for name, key in TERMS.items()} == pytest.approx(GOLDEN, abs=1e-5)


@pytest.mark.parametrize("n_classes", [2, 4, 20])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_labels_is_that_of_monai(loss: str, n_classes: int) -> None:
    """Above 16 classes, overlap is summed by index."""
    logits, target = batch(n_classes)

    found = sum(label_terms(logits, target, rule(loss)).values())

    assert float(found) == pytest.approx(monais(loss, logits, target), abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_unknown_voxels_are_left_out_of_every_loss(loss: str) -> None:
    logits, target = batch(3)
    logits.requires_grad_()
    target[:, 3:] = UNKNOWN

    found = sum(label_terms(logits, target, rule(loss), has_unknown=True).values())
    found.backward()  # type: ignore[union-attr]

    expected = monais(loss, logits.detach()[:, :, :3], target[:, :3])
    assert found.item() == pytest.approx(expected, abs=1e-5)  # type: ignore[union-attr]
    assert logits.grad is not None
    assert not logits.grad[:, :, 3:].any()
    assert logits.grad[:, :, :3].any()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("n_unknown", [0, 40, 120])
def test_many_labels_have_the_gradient_of_the_plain_loss(
    n_unknown: int, is_last: bool, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of many labels are computed in blocks, here of 50 voxels of 120."""
    monkeypatch.setattr(softmax_sums, "BLOCK", 50)
    logits, target = batch(20)
    logits = logits.to(precision).contiguous(
        memory_format=torch.channels_last_3d if is_last else torch.contiguous_format
    )
    target.view(-1)[:n_unknown] = UNKNOWN
    found = []
    for n_many in (loss_terms.MANY_CLASSES, 1000):
        monkeypatch.setattr(loss_terms, "MANY_CLASSES", n_many)
        given = logits.clone().requires_grad_()
        terms = label_terms(given, target, rule("tversky_ce"), has_unknown=True)
        (gradient,) = torch.autograd.grad(2.0 * terms["cross_entropy"] + terms["tversky_loss"], given)
        found.append((*terms.values(), gradient.float()))

    for many, plain in zip(*found, strict=True):
        torch.testing.assert_close(many, plain, atol=1e-6 if precision == torch.float32 else 1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_regions_is_that_of_monai_without_unknown_voxels(loss: str) -> None:
    regions = RegionScores([(1, 2), (2,)], 2)
    logits = batch(2, seed=1)[0]
    target = batch(3)[1]
    target[:, 4:] = UNKNOWN
    known, wanted = logits[:, :, :4], regions.targets(target[:, :4])
    voxels = F.binary_cross_entropy_with_logits(known, wanted) if "focal" not in loss else FocalLoss()(known, wanted)
    overlap = DiceLoss(**OF_REGIONS) if "dice" in loss else TverskyLoss(alpha=0.3, beta=0.7, **OF_REGIONS)
    expected = (0 if loss == "tversky" else voxels) + (0 if loss == "ce" else overlap(known, wanted))

    found = sum(region_terms(logits, target, regions, rule(loss)).values())

    assert float(found) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal"])
def test_class_weights_give_a_weighted_mean_over_voxels(loss: str) -> None:
    logits, target = batch(3)
    weights = torch.tensor([0.1, 2.0, 5.0])
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, weight=weights)(logits, target[:, None])
    of_focal = 3 * focal / weights[target].mean()
    expected = of_focal if "focal" in loss else F.cross_entropy(logits, target, weights)

    named = dict(zip("abc", weights.tolist(), strict=True))
    found = label_terms(logits, target, LossRule.of(TrainingConfig(iterations=1, loss=loss), named))  # type: ignore[arg-type]

    assert float(next(iter(found.values()))) == pytest.approx(float(expected), abs=1e-5)
    assert float(found["dice_loss"]) == pytest.approx(float(overlap_loss(logits.softmax(1), target, DICE)))


def test_class_weights_of_regions_weight_their_cross_entropies() -> None:
    regions = RegionScores([(1, 2), (2,)], 2)
    logits, target = batch(2, seed=1)[0], batch(3)[1]
    each = [F.binary_cross_entropy_with_logits(logits[:, r], regions.targets(target)[:, r]) for r in (0, 1)]

    found = region_terms(logits, target, regions, LossRule(weights=torch.tensor([1.0, 3.0])))

    assert float(found["cross_entropy"]) == pytest.approx(float(each[0] + 3 * each[1]) / 4, abs=1e-6)


@given(seed=st.integers(0, 1000), weight=st.sampled_from([None, 0.5, 3.0]), has_unknown=st.booleans())
def test_a_focal_loss_without_focus_is_the_cross_entropy(seed: int, weight: float | None, has_unknown: bool) -> None:
    logits, target = batch(3, seed)
    weights = None if weight is None else torch.full((3,), weight)
    focal = LossRule(voxel="focal_loss", overlap=None, gamma=0.0, weights=weights)

    found = label_terms(logits, target, focal, has_unknown=has_unknown)["focal_loss"]

    assert float(found) == pytest.approx(float(F.cross_entropy(logits, target)), abs=1e-5)


@given(seed=st.integers(0, 1000), n_classes=st.sampled_from([3, 18]))
def test_tversky_with_a_higher_beta_punishes_a_smaller_mask_more(seed: int, n_classes: int) -> None:
    _, target = batch(n_classes, seed)
    whole = F.one_hot(target, n_classes).movedim(-1, 1).float()
    smaller, larger = whole.clone(), whole.clone()
    smaller[:, 1:, :, :2] = 0
    larger[:, 1:, :, :2] = 1

    low, high = (
        [float(overlap_loss(mask, target, tversky(1 - beta, beta))) for mask in (smaller, larger)]
        for beta in (0.3, 0.7)
    )

    assert high[0] >= low[0]
    assert high[1] <= low[1]


def test_soft_dice_by_hand() -> None:
    """One label with sums over the batch: overlap 1.5, volumes 2 and 2."""
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 1.0], [1.0, 0.5, 1.0, 0.0]]).reshape(1, 2, 4, 1, 1)
    probabilities[0, 1] = torch.tensor([0.5, 1.0, 0.5, 0.0]).reshape(4, 1, 1)
    target = torch.tensor([1, 1, 0, 0]).reshape(1, 4, 1, 1)

    assert float(overlap_loss(probabilities, target, DICE)) == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 2 + 1))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_near_zero_for_correct_logits_and_high_for_wrong_ones(loss: str) -> None:
    _, target = example()
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float() * 30
    logits = Logits(right, right[..., ::2, ::2, ::2])

    assert float(compute_loss(logits, target, 0.3, rule=rule(loss)).total) < 1e-3
    assert float(compute_loss(logits, (target + 1) % 3, 0.3, rule=rule(loss)).total) > 0.9


@pytest.mark.parametrize("loss", LOSSES)
def test_deep_supervision_adds_the_same_loss_at_the_auxiliary_size(loss: str) -> None:
    logits, target = example()
    coarse = Logits(logits.auxiliary, logits.auxiliary)
    regions, of_regions = RegionScores([(1, 2), (2,)], 2), Logits(logits.full[:, 1:], logits.auxiliary[:, 1:])

    for scale in (0.0, 0.3):
        found = compute_loss(logits, target, scale, rule=rule(loss)).total
        full, small = (
            compute_loss(x, t, 0.0, rule=rule(loss)).total
            for x, t in ((logits, target), (coarse, target[:, ::2, ::2, ::2]))
        )
        assert float(found) == pytest.approx(float(full + scale * small))
    assert torch.isfinite(compute_region_loss(of_regions, target, regions, 0.3, rule=rule(loss)).total)


def test_an_absent_label_that_is_not_predicted_adds_no_loss() -> None:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    background = torch.zeros(1, 2, 4, 4, 4)
    background[:, 0] = 1.0

    assert float(overlap_loss(background, target, DICE)) == pytest.approx(0.0)
    assert float(overlap_loss(background, target, tversky(0.3, 0.7))) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "hinge"}, "dice_ce"),
        ({"loss": "os:system"}, "dice_ce"),
        ({"loss": "dice_focal", "focal_gamma": 0.5}, "greater than or equal to 1"),
        ({"loss": "tversky", "tversky_alpha": 0, "tversky_beta": 0}, "both 0"),
        ({"loss": "tversky", "tversky_alpha": -1}, "greater than or equal to 0"),
        ({"loss": "tversky", "class_weights": "balanced"}, "no effect with loss: tversky"),
        ({"class_weights": "inverse"}, "null, balanced, or numbers"),
        ({"class_weights": []}, "null, balanced, or numbers"),
        ({"class_weights": [1, -2]}, "null, balanced, or numbers"),
        ({"class_weights": {"a": float("nan")}}, "null, balanced, or numbers"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(iterations=1, **values)
