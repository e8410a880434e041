"""Labels that a case does not have are neither trained as background nor scored; the truth is computed with numpy."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.networks import Logits
from medhybrid.networks.regions import RegionScores
from medhybrid.training.losses import compute_loss, compute_region_loss
from tests.synthetic import blob_case, save_nifti, small_config
from tests.synthetic import write_csv as write_table

HAS = torch.tensor([[True, False, True], [True, True, True]])
"""The first sample does not have label 2."""


def random_logits(n_classes: int) -> Logits:
    made = torch.Generator().manual_seed(0)
    full = torch.randn(2, n_classes, 4, 4, 4, generator=made, dtype=torch.float64).requires_grad_()
    return Logits(full, torch.zeros(2, n_classes, 2, 2, 2))


def random_target() -> torch.Tensor:
    target = torch.randint(0, 4, (2, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    target[0][target[0] == 2] = 0  # as prepared cases have it
    return target


def test_the_loss_is_that_of_probabilities_in_which_missing_labels_are_background() -> None:
    logits, target = random_logits(4), random_target()

    terms = compute_loss(logits, target, 0.0, annotated=HAS)

    p = softmax(logits.full.detach().numpy(), axis=1)
    truth = target.numpy()
    merged = p.copy()
    merged[0, 0] += merged[0, 2]
    chosen = np.take_along_axis(merged, truth[:, None], axis=1)
    assert terms.terms["cross_entropy"].item() == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    losses = []
    for label, samples in ((1, [0, 1]), (2, [1]), (3, [0, 1])):
        inside, share = truth[samples] == label, p[samples, label]
        losses.append(1 - (2 * (share * inside).sum() + 1) / (share.sum() + inside.sum() + 1))
    assert terms.terms["dice_loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_background_voxel_does_not_decide_between_background_and_a_missing_label() -> None:
    logits, target = random_logits(4), random_target()
    moved = logits.full.detach().clone()
    is_background = target[0] == 0
    total = moved[0, [0, 2]].logsumexp(0)  # the same probability of both together, divided in another way
    moved[0, 0] = torch.where(is_background, total + np.log(0.3), moved[0, 0])
    moved[0, 2] = torch.where(is_background, total + np.log(0.7), moved[0, 2])

    first, second = (
        compute_loss(Logits(x, logits.auxiliary), target, 0.0, annotated=HAS) for x in (logits.full, moved)
    )

    assert first.total.item() == pytest.approx(second.total.item(), rel=1e-6)


def test_samples_with_all_labels_have_the_plain_loss() -> None:
    logits, target = random_logits(4), random_target()

    plain, careful = (compute_loss(logits, target, 0.3, annotated=has) for has in (None, torch.ones_like(HAS)))

    assert careful.total.item() == pytest.approx(plain.total.item(), rel=1e-6)


def test_a_label_that_no_sample_has_adds_no_loss_and_a_finite_gradient() -> None:
    logits, target = random_logits(4), random_target()
    has = torch.zeros_like(HAS)
    has[:, 0] = True
    target[target > 1] = 0

    terms = compute_loss(logits, target, 0.0, annotated=has)
    terms.total.backward()

    p = softmax(logits.full.detach().numpy(), axis=1)[:, 1]
    inside = target.numpy() == 1
    assert terms.terms["dice_loss"].item() == pytest.approx(
        1 - (2 * (p * inside).sum() + 1) / (p.sum() + inside.sum() + 1), rel=1e-5
    )
    assert torch.isfinite(logits.full.grad).all()


def test_a_region_that_a_sample_does_not_have_is_left_out_for_it() -> None:
    regions = RegionScores([(1, 2, 3), (2, 3), (3,)], 3)
    logits, target = random_logits(3), random_target()

    terms = compute_region_loss(logits, target, regions, 0.0, annotated=HAS)
    terms.total.backward()

    p, truth = expit(logits.full.detach().numpy()), target.numpy()
    entropies, losses = [], []
    for region, (members, samples) in enumerate((((1, 2, 3), [0, 1]), ((2, 3), [1]), ((3,), [0, 1]))):
        inside, share = np.isin(truth[samples], members), p[samples, region]
        entropies.append(-np.log(np.where(inside, share, 1 - share)).ravel())
        losses.append(1 - (2 * (share * inside).sum() + 1) / (share.sum() + inside.sum() + 1))
    assert terms.terms["cross_entropy"].item() == pytest.approx(np.concatenate(entropies).mean(), rel=1e-5)
    assert terms.terms["dice_loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert not logits.full.grad[0, 1].any()
    assert logits.full.grad[1, 1].any()


def test_partly_labelled_cases_train_and_their_other_labels_are_a_gap(tmp_path: Path) -> None:
    rows = []
    for i in range(6):
        image, mask = blob_case(i)
        if i % 2:
            mask[mask == 4] = 0
        save_nifti(tmp_path / "data" / "images" / f"{i}.nii.gz", image)
        save_nifti(tmp_path / "data" / "masks" / f"{i}.nii.gz", mask)
        files = {"T1": f"images/{i}.nii.gz", "mask": f"masks/{i}.nii.gz"}
        rows.append({"case": f"c{i}", "fold": "0" if i > 3 else "-1", "labels": "left" if i % 2 else "all", **files})
    write_table(tmp_path / "data", rows)
    config = small_config(tmp_path, "tracking.kind=none", "training.iterations=4")

    preparation = medhybrid.preprocess(config)
    run = medhybrid.train(config)

    partial, whole = PreparedDataset(preparation.folder).open(["c1", "c0"])
    assert (partial.record.annotated, whole.record.annotated) == (("left",), None)
    assert set(partial.record.reference_ml) == {"left"}
    with (run.folder / "validation.csv").open(newline="") as file:
        by_case = {row["case"]: row for row in csv.DictReader(file)}
    assert by_case["c5"]["dice right"] == by_case["c5"]["reference ml right"] == ""
    assert by_case["c4"]["dice right"] != ""
    assert "The reference has no right" in (run.folder / "report.html").read_text()
