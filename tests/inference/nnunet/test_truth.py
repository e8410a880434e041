"""Imported models predict the masks of nnU-Net: the same weights, the same images, every voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.inference.nnunet.model import NnUNetModel
from medhybrid.inference.rows import gather
from medhybrid.inference.windows import to_tensor
from medhybrid.steps.import_nnunet import import_nnunet
from medhybrid.steps.predict import predict
from tests.inference.nnunet.recorded_model import KINDS, write_recorded


@pytest.mark.parametrize("kind", KINDS)
def test_every_voxel_of_a_mask_is_that_of_nnunet(kind: str, tmp_path: Path) -> None:
    recorded = write_recorded(kind, tmp_path / "theirs")
    model = import_nnunet(recorded.folder, out=tmp_path / "model")
    result = predict(recorded.images, model=model, out=tmp_path / "out", device="cpu", precision="float32")
    assert result.n_failed == 0
    assert {p.case for p in result.predictions} == set(recorded.masks)
    for case, expected in recorded.masks.items():
        mask = medhybrid.read_scan(next((tmp_path / "out" / "masks").glob(f"{case}*"))).array[0]
        assert len(np.unique(expected)) > 1
        certain = recorded.certain[case]
        assert certain.mean() > 0.98
        np.testing.assert_array_equal(mask[certain], expected[certain])


@pytest.mark.parametrize("kind", ["isotropic", "regions", "slices"])
def test_probabilities_agree_with_the_mask_and_sum_to_1(kind: str, tmp_path: Path) -> None:
    recorded = write_recorded(kind, tmp_path / "theirs")
    model = medhybrid.load_model(
        import_nnunet(recorded.folder, out=tmp_path / "model"), device="cpu", precision="float32"
    )
    paths = sorted(recorded.images.glob("case0_*"))
    scans = [medhybrid.read_scan(path) for path in paths]
    array = np.concatenate([scan.array for scan in scans])
    scan = medhybrid.Scan(array, scans[0].affine, scans[0].source, "case0", model.plan.channels)
    made = model.segment(scan, with_probabilities=True)
    assert made.probabilities is not None
    certain = recorded.certain["case0"]
    np.testing.assert_array_equal(made.mask[certain], recorded.masks["case0"][certain])
    np.testing.assert_allclose(made.probabilities.sum(axis=0), 1, atol=1e-4)
    if kind != "regions":  # regions are drawn over each other, also where another class has a higher probability
        np.testing.assert_array_equal(made.probabilities.argmax(axis=0), made.mask)


def test_the_logits_of_two_folds_are_averaged(tmp_path: Path) -> None:
    recorded = write_recorded("isotropic", tmp_path / "theirs")
    scan = medhybrid.read_scan(recorded.images / "case0_0000.nii.gz")
    found = []
    for folds in (("0",), ("1",), ()):
        place = import_nnunet(recorded.folder, out=tmp_path / f"model{'-'.join(folds)}", folds=folds)
        model = medhybrid.load_model(place, device="cpu", precision="float32")
        assert isinstance(model, NnUNetModel)
        prepared = model.prepare(scan)
        found.append(gather(model.slabs(to_tensor(prepared.image, torch.device("cpu"))), prepared.image.shape[1]))
    torch.testing.assert_close(found[2], (found[0] + found[1]) / 2, rtol=1e-4, atol=1e-4)


def test_a_scan_in_other_axes_is_turned_for_a_reader_that_turns(tmp_path: Path) -> None:
    recorded = write_recorded("isotropic", tmp_path / "theirs")
    model = medhybrid.load_model(
        import_nnunet(recorded.folder, out=tmp_path / "model", orientation="RAS"), device="cpu", precision="float32"
    )
    scan = medhybrid.read_scan(recorded.images / "case0_0000.nii.gz")
    flipped = medhybrid.Scan(
        scan.array[:, ::-1], scan.affine @ _mirror_x(scan.array.shape[1]), scan.source, "case0", scan.channels
    )
    np.testing.assert_array_equal(model.predict(flipped), model.predict(scan)[::-1])


def _mirror_x(n: int) -> np.ndarray:
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = n - 1
    return affine
