"""Imported models predict the masks of nnU-Net: the same weights, the same images, every voxel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medhybrid
from medhybrid.inference.nnunet.model import NnUNetModel, window_starts
from medhybrid.inference.nnunet.prepare import grid_for_nnunet
from medhybrid.inference.nnunet.rules import Channel, NnUNetRules, Resampling, VoxelSize
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


@pytest.mark.parametrize("kind", ["oblique", "slices"])
def test_the_memory_is_estimated_for_the_image_that_the_network_gets(kind: str, tmp_path: Path) -> None:
    recorded = write_recorded(kind, tmp_path / "theirs")
    model = medhybrid.load_model(import_nnunet(recorded.folder, out=tmp_path / "model"), device="cpu")
    scan = medhybrid.read_scan(recorded.images / "case0_0000.nii.gz")
    assert model.network_shape(scan) == model.prepare(scan).image.shape[1:]


def test_slices_along_any_axis_have_the_mask_of_the_turned_scan(tmp_path: Path) -> None:
    """Turn the recorded model from one slice axis to another, and the scan with it."""
    recorded = write_recorded("slices", tmp_path / "theirs")
    scans = [medhybrid.read_scan(p) for p in sorted(recorded.images.glob("case0_*"))]
    first = np.concatenate([s.array for s in scans])
    plans = json.loads((recorded.folder / "plans.json").read_text())
    forward = plans["transpose_forward"]
    network_view = np.transpose(
        first.transpose(0, 3, 2, 1), [0, *(a + 1 for a in forward)]
    )  # nnU-Net's arrays are (Z, Y, X)
    plain = imported(recorded.folder, tmp_path / "plain")
    before = scans[0].grid.spacing_mm[::-1]
    expected = None
    for i, other in enumerate(([0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])):
        changed = {"transpose_forward": other, "transpose_backward": np.argsort(other).tolist()}
        (recorded.folder / "plans.json").write_text(json.dumps(plans | changed))
        model = imported(recorded.folder, tmp_path / f"model{i}")
        array = np.transpose(network_view, [0, *(a + 1 for a in np.argsort(other))]).transpose(0, 3, 2, 1)
        spacing = [[before[a] for a in forward][k] for k in np.argsort(other)][::-1]
        scan = medhybrid.Scan(array, np.diag([*spacing, 1.0]), scans[0].source, "case0", plain.plan.channels)
        mask = np.transpose(model.predict(scan).T, other)
        expected = mask if expected is None else expected
        assert len(np.unique(mask)) > 1
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("length", "window"), [(12, 1), (5, 1), (1, 1), (9, 2), (30, 16), (16, 16), (40, 12)])
def test_windows_start_once_and_cover_the_axis(length: int, window: int) -> None:
    starts = window_starts(length, window, 0.5)

    assert starts == sorted(set(starts))
    assert {v for s in starts for v in range(s, s + window)} == set(range(length))


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


def test_a_model_of_image_files_counts_pixels_as_1_mm(tmp_path: Path) -> None:
    """Give a PNG of 0.1 mm the mask of its pixels at 1 mm, as nnU-Net's reader of PNG does."""
    recorded = write_recorded("colour", tmp_path / "theirs")
    channels = [medhybrid.read_scan(p) for p in sorted(recorded.images.glob("case0_*"))]
    array = np.concatenate([scan.array for scan in channels])
    plain = imported(recorded.folder, tmp_path / "plain")
    at_1_mm = medhybrid.Scan(array, np.diag([-1.0, -1, 1, 1]), channels[0].source, "case0", plain.plan.channels)
    plans = json.loads((recorded.folder / "plans.json").read_text())
    plans |= {"image_reader_writer": "NaturalImage2DIO", "original_median_spacing_after_transp": [999.0, 1.0, 1.0]}
    (recorded.folder / "plans.json").write_text(json.dumps(plans))
    image = Image.fromarray(array[..., 0].transpose(2, 1, 0).astype(np.uint8))
    image.save(tmp_path / "case0.png", dpi=(254.0, 254.0))

    made = imported(recorded.folder, tmp_path / "of_images").segment(medhybrid.read_scan(tmp_path / "case0.png"))

    np.testing.assert_array_equal(made.mask, plain.predict(at_1_mm))
    assert len(np.unique(made.mask)) > 1
    assert not [reason for reason in made.reasons if "spacing" in reason]


def imported(folder: Path, out: Path) -> NnUNetModel:
    model = medhybrid.load_model(import_nnunet(folder, out=out), device="cpu", precision="float32")
    assert isinstance(model, NnUNetModel)
    return model


@pytest.mark.parametrize("has_file", [True, False])
def test_a_model_of_tiff_stacks_takes_the_voxel_size_from_the_file_beside_it(has_file: bool, tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((6, 9), n, np.uint8)) for n in range(4)]
    sized = "ImageJ=1.54\nunit=mm\nspacing=5\n"
    pages[0].save(
        tmp_path / "a_0000.tif",
        save_all=True,
        append_images=pages[1:],
        description=sized,
        x_resolution=2.0,
        y_resolution=2.0,
    )
    if has_file:
        (tmp_path / "a.json").write_text('{"spacing": [3.0, 0.5, 0.7]}')
    rules = rules_for("beside")

    grid = grid_for_nnunet(medhybrid.read_scan(tmp_path / "a_0000.tif"), rules)

    assert grid.spacing_mm == pytest.approx((0.7, 0.5, 3.0) if has_file else (1.0, 1.0, 1.0))


def rules_for(voxel_size: VoxelSize) -> NnUNetRules:
    channel, linear = Channel(scheme="NoNormalization"), Resampling(order=1)
    return NnUNetRules(
        configuration="3d_fullres",
        trainer="",
        folds=("0",),
        channels=(channel,),
        images=linear,
        logits=linear,
        voxel_size=voxel_size,
    )


def _mirror_x(n: int) -> np.ndarray:
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = n - 1
    return affine
