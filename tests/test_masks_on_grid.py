"""Every mask has the shape and affine of its input, and covers the bright voxels.

The model is a threshold: a voxel is lesion if its normalised intensity is above the middle of two plateaus. For any
orientation, oblique angle and anisotropy of the input, the mask must cover the bright box of the input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from medhybrid.config import ScansConfig
from medhybrid.data.plan import Plan
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.model import Model
from medhybrid.inference.precision import Precision
from medhybrid.networks import Logits
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from medhybrid.scans.scan import Scan, Source
from medhybrid.steps.predict import predict
from tests.strategies import SIGNED_PERMUTATIONS, grids
from tests.synthetic import make_test_plan, make_test_record

BRIGHT, DARK = 900, 100


class Threshold(nn.Module):
    """Network that labels voxels above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: Tensor) -> Logits:
        full = torch.cat([self.level - image, image - self.level], 1)
        return Logits(full, full)


def thresholding_model(plan: Plan, level: float) -> Model:
    record = make_test_record(plan)
    model: Any = Model(Threshold(level), record, torch.device("cpu"))  # type: ignore[arg-type]
    model.precision = Precision.FLOAT32
    return model  # type: ignore[no-any-return]


def with_box(shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Return a dark volume with a bright box off its centre."""
    array = np.full(shape, DARK, np.int16)
    box = tuple(slice(n // 5, max(n // 5 + 1, n // 2)) for n in shape)
    array[box] = BRIGHT
    return array, box


def level_of(array: np.ndarray, grid: Grid, plan: Plan) -> float:
    from medhybrid.data.prepare import prepare_image

    return float(prepare_image(array[None], grid, plan).image.max()) / 2


@settings(max_examples=60, deadline=None)
@given(grid=grids())
def test_at_the_spacing_of_the_scan_the_mask_equals_the_bright_box(grid: Grid) -> None:
    array, _ = with_box(grid.shape)
    x, y, z = turn_to_ras(grid.affine).grid(grid).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))
    scan = Scan(array[None], grid.affine, Source("nifti", ()), "x", ("",))

    mask = thresholding_model(plan, level_of(array, grid, plan)).predict(scan)

    np.testing.assert_array_equal(mask == 255, array == BRIGHT)
    assert mask.shape == grid.shape


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(grid=grids())
def test_through_another_spacing_the_mask_stays_in_place(grid: Grid) -> None:
    array, box = with_box(grid.shape)
    plan = make_test_plan(spacing_mm=(1.5, 1.5, 3.0))
    scan = Scan(array[None], grid.affine, Source("nifti", ()), "x", ("",))
    level = level_of(array, grid, plan)
    sides_mm = [(s.stop - s.start) * m for s, m in zip(box, grid.spacing_mm, strict=True)]
    if min(sides_mm) < 7:
        return  # a box thinner than two voxels of the network's grid may vanish

    mask = thresholding_model(plan, level).predict(scan)

    centre = np.argwhere(mask == 255).mean(0)
    expected = np.argwhere(array == BRIGHT).mean(0)
    off_mm = np.abs(centre - expected) * grid.spacing_mm
    assert (off_mm <= 1.7).all(), "more than half a voxel of the network's thickest axis"
    assert mask.shape == grid.shape


@pytest.mark.parametrize("orientation", range(48))
def test_masks_of_all_48_orientations_have_the_grid_of_the_input(orientation: int, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = SIGNED_PERMUTATIONS[orientation] * np.array([1.5, 1.0, 3.0])
    affine[:3, 3] = (-40, 25, 60)
    array, _ = with_box((16, 14, 9))
    source = nib.Nifti1Image(array, affine)
    source.set_qform(affine, 2)
    source.set_sform(affine, 2)
    (tmp_path / "in").mkdir()
    nib.save(source, tmp_path / "in" / "scan.nii.gz")
    plan = make_test_plan(spacing_mm=(1.0, 1.0, 1.5))

    result = predict(
        tmp_path / "in",
        model=thresholding_model(plan, level_of(array, Grid(array.shape, affine), plan)),
        out=tmp_path / "out",
    )

    assert result.n_done == 1
    mask = nib.load(tmp_path / "out" / "masks" / "scan.nii.gz")
    expected = nib.load(tmp_path / "in" / "scan.nii.gz")
    np.testing.assert_array_equal(mask.affine, expected.affine)
    np.testing.assert_array_equal(mask.get_qform(), expected.get_qform())
    assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (2, 2)
    overlap = (np.asarray(mask.dataobj) == 255) & (array == BRIGHT)
    assert 2 * overlap.sum() / ((np.asarray(mask.dataobj) == 255).sum() + (array == BRIGHT).sum()) > 0.85


def test_a_dicom_series_gets_a_mask_and_a_segmentation_at_the_same_place(tmp_path: Path) -> None:
    import highdicom as hd

    affine = np.array([[0, 0, 3.0, -20], [-1.2, 0.1, 0, 30], [-0.1, -1.2, 0, 15], [0, 0, 0, 1]])  # sagittal, oblique
    array, _ = with_box((18, 16, 8))
    write_mr_series(tmp_path / "in" / "a" / "b", array, affine, description="T1", study="s", case="c")
    x, y, z = turn_to_ras(affine).grid(Grid(array.shape, affine)).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))

    result = predict(
        tmp_path / "in",
        model=thresholding_model(plan, level_of(array, Grid(array.shape, affine), plan)),
        out=tmp_path / "out",
    )

    assert [p.status for p in result.predictions] == ["done"]
    mask = nib.load(tmp_path / "out" / "masks" / "a__b.nii.gz")
    seg = hd.seg.segread(tmp_path / "out" / "seg" / "a__b.dcm").get_volume(combine_segments=True)
    lps = np.diag([-1.0, -1, 1, 1])
    places = []
    for values, to_world in (
        (np.asarray(mask.dataobj), mask.affine),
        (seg.array, lps @ seg.affine),
        (np.where(array == BRIGHT, 1, 0), affine),
    ):
        index = np.argwhere(values != 0)
        places.append(np.sort((index @ to_world[:3, :3].T + to_world[:3, 3]).round(2), axis=0))
    np.testing.assert_allclose(places[0], places[2], atol=0.02)
    np.testing.assert_allclose(places[1], places[2], atol=0.02)


def test_a_tilted_series_is_refused_without_resample_irregular(tmp_path: Path) -> None:
    import pydicom

    array, _ = with_box((18, 16, 8))
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    for k, path in enumerate(write_mr_series(tmp_path / "in", array, affine, description="T1", study="s", case="c")):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[1] = float(dataset.ImagePositionPatient[1]) + 0.4 * k
        dataset.save_as(path)
    plan = make_test_plan(spacing_mm=(1.5, 1.5, 3.0))
    resampled = read_scan(tmp_path / "in", options=ScansConfig(resample_irregular=True))
    model = thresholding_model(plan, level_of(resampled.array[0], resampled.grid, plan))

    refused = predict(tmp_path / "in", model=model, out=tmp_path / "a")
    done = predict(tmp_path / "in", model=model, out=tmp_path / "b", options={"resample_irregular": True})

    assert "gantry tilt" in refused.predictions[0].message
    assert done.n_done == 1
    seg = pydicom.dcmread(next((tmp_path / "b" / "seg").glob("*.dcm")))
    places = [f.PlanePositionSequence[0].ImagePositionPatient for f in seg.PerFrameFunctionalGroupsSequence]
    sources = [pydicom.dcmread(p).ImagePositionPatient for p in (tmp_path / "in").iterdir()]
    gaps = np.abs(np.array(places, float)[:, None] - np.array(sources, float)[None]).max(-1).min(1)
    assert gaps.max() < 1e-4
    assert abs(int((seg.pixel_array > 0).sum()) - (array == BRIGHT).sum()) < 0.2 * (array == BRIGHT).sum()
