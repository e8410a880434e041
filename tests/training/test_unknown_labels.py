"""Voxels of unknown label are neither trained nor scored, and prepared masks keep them apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.data.sampling import PatchSampler
from medhybrid.networks import Logits
from medhybrid.training.loss_terms import DICE, overlap_loss
from medhybrid.training.losses import compute_loss
from medhybrid.training.validation import dice_of_known
from tests.synthetic import blob_case, save_nifti, small_config, write_study


def logits(n_classes: int, seed: int = 0) -> Logits:
    made = torch.Generator().manual_seed(seed)
    full = torch.randn(2, n_classes, 8, 8, 8, generator=made, requires_grad=True)
    return Logits(full, torch.randn(2, n_classes, 4, 4, 4, generator=made))


def test_the_loss_does_not_depend_on_the_logits_of_unknown_voxels() -> None:
    target = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    target[:, 4:] = UNKNOWN
    first = logits(3)
    other = Logits(first.full.detach().clone(), first.auxiliary)
    other.full[:, :, 4:] = 100.0

    losses = [compute_loss(x, target, 0.0, has_unknown=True).total for x in (first, other)]
    losses[0].backward()

    assert losses[0].item() == pytest.approx(losses[1].item())
    assert first.full.grad is not None
    assert not first.full.grad[:, :, 4:].any()
    assert first.full.grad[:, :, :4].any()


def test_a_batch_without_known_voxels_has_a_finite_loss() -> None:
    target = torch.full((2, 8, 8, 8), UNKNOWN)

    assert torch.isfinite(compute_loss(logits(3), target, 0.3, has_unknown=True).total)


def test_known_voxels_alone_give_the_plain_loss() -> None:
    target = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(1))

    plain, careful = (compute_loss(logits(3), target, 0.3, has_unknown=u).total.item() for u in (False, True))

    assert careful == pytest.approx(plain, rel=1e-6)


def test_dice_of_many_classes_is_that_of_each_class_alone() -> None:
    probabilities = torch.rand(2, 40, 6, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    target = torch.randint(0, 40, (2, 6, 6, 6), generator=torch.Generator().manual_seed(1))
    alone = []
    for k in range(1, 40):
        p, t = probabilities[:, k], target == k
        alone.append(1 - (2 * float((p * t).sum()) + 1) / (float(p.sum()) + int(t.sum()) + 1))

    assert float(overlap_loss(probabilities, target, DICE)) == pytest.approx(np.mean(alone), rel=1e-5)


def test_scribbles_train_and_only_their_voxels_are_scored(tmp_path: Path) -> None:
    write_study(tmp_path / "data", 6)
    for i in range(6):
        mask = blob_case(i)[1]
        scribble = np.full(mask.shape, 9, np.uint8)
        scribble[::3, :, ::2] = mask[::3, :, ::2]
        save_nifti(tmp_path / "data" / "labelsTr" / f"case_{i:02d}.nii.gz", scribble)
    config = small_config(tmp_path, "data.ignore_value=9", "tracking.kind=none", "training.iterations=4")

    preparation = medhybrid.preprocess(config)
    run = medhybrid.train(config)

    case = PreparedDataset(preparation.folder).open(["case_05"])[0]
    known = case.source_mask_with_unknown() != UNKNOWN
    assert not [f for f in preparation.findings if f.severity == "error"]
    assert 0.1 < known.mean() < 0.3
    assert set(np.unique(case.labels_with_unknown())) == {0, 1, 2, UNKNOWN}
    assert set(np.unique(case.labels())) == {0, 1, 2}
    record = json.loads((case.folder / "case.json").read_text())
    reference = blob_case(5)[1][::3, :, ::2]
    assert record["reference_ml"]["left"] == pytest.approx((reference == 1).sum() * 6.75e-3, rel=1e-6)
    assert 0 <= run.metrics["val/dice"] <= 1
    assert run.metrics["val/labelled_share"] == pytest.approx(case.record.known_share) == pytest.approx(known.mean())
    assert "Dice on labelled voxels only" in (run.folder / "report.html").read_text()
    assert "says" in (run.folder / "model" / "card.md").read_text()


def test_patches_of_scribbles_are_near_labelled_voxels_of_foreground_and_background(tmp_path: Path) -> None:
    write_study(tmp_path / "data", 6)
    for i in range(6):
        mask = blob_case(i)[1]
        scribble = np.full(mask.shape, 9, np.uint8)
        scribble[4, 4:8, 10] = 0
        scribble[tuple(np.argwhere(mask == 1)[5])] = 1
        scribble[tuple(np.argwhere(mask == 4)[5])] = 4
        save_nifti(tmp_path / "data" / "labelsTr" / f"case_{i:02d}.nii.gz", scribble)
    config = small_config(tmp_path, "data.ignore_value=9", "prepare.spacing_mm=[1.5,1.5,3.0]")
    cases = PreparedDataset(medhybrid.preprocess(config).folder).open(["case_00"])
    source = PatchSampler(cases, patch_size=(12, 12, 8), batch_size=2, foreground_share=0.5, seed=0)

    patches = [labels for step in range(20) for labels in source.batch(step).labels]

    assert all((labels != UNKNOWN).any() for labels in patches)
    assert {0, 1, 2} <= {int(v) for labels in patches for v in np.unique(labels)}
    assert sum((labels == 0).any() for labels in patches) < 35, "also patches away from the background scribble"


def test_dice_of_scribbles_is_that_of_the_labelled_voxels() -> None:
    reference = np.array([0, 1, 1, UNKNOWN, UNKNOWN, 2, 0], np.uint8)
    prediction = np.array([1, 1, 0, 1, 2, 2, 0], np.uint8)

    found = dice_of_known(prediction, reference, {"a": (1,), "b": (2,), "both": (1, 2)})

    assert found == pytest.approx({"a": 2 * 1 / 4, "b": 1.0, "both": 2 * 2 / 6})
