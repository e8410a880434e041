"""Measures agree with published values, with MONAI and with an independent scorer."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from medhybrid.errors import GeometryError
from medhybrid.geometry import Grid
from medhybrid.metrics import (
    count_lesions,
    dice,
    hd95_mm,
    score_case,
    summarise,
    surface_dice,
    surface_distances_mm,
    volume_error_ml,
    volume_error_percent,
)
from tests.synthetic import blob_case, save_nifti

SPACING = (1.0, 1.5, 3.0)

GRID = Grid((4, 4, 4), np.diag([*SPACING, 1.0]))

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:monai")


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw two blobs, each of which may be empty."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = draw(st.tuples(*(st.integers(6, 16) for _ in range(3))))
    index = np.stack(np.indices(shape)).astype(float)
    masks = []
    for _ in range(2):
        centre = rng.uniform(0.3, 0.7, 3) * shape
        mask = (((index - centre[:, None, None, None]) / rng.uniform(1.5, 4, 3)[:, None, None, None]) ** 2).sum(0) < 1
        masks.append(mask & (rng.random() > 0.1))
    return masks[0], masks[1]


def one_hot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))


@given(pair=mask_pairs())
def test_dice_agrees_with_monai_and_is_symmetric(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair

    ours = dice(a, b)

    assert ours == dice(b, a)
    if b.any():
        theirs = compute_dice(one_hot(a), one_hot(b), include_background=False, ignore_empty=False)
        assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_dice_of_simple_and_empty_masks_is_as_computed_by_hand() -> None:
    a, b = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    assert dice(a, b) == 1.0

    a[0, 0, :2] = True
    assert dice(a, b) == 0.0

    b[0, 0, 1:] = True
    assert dice(a, b) == pytest.approx(2 * 1 / (2 + 2))


@settings(deadline=None)
@given(pair=mask_pairs())
def test_surface_distances_agree_with_monais_hausdorff_distance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (np.pad(m, 2) for m in pair)  # MONAI cuts the surface at the border of the grid
    if not a.any() or not b.any():
        return
    theirs = compute_hausdorff_distance(one_hot(a), one_hot(b), spacing=[SPACING], include_background=False)

    distances = surface_distances_mm(a, b, SPACING)

    assert distances.max() == pytest.approx(float(theirs), abs=1e-4)
    assert hd95_mm(a, b, SPACING) == pytest.approx(np.percentile(distances, 95))
    assert hd95_mm(a, b, SPACING) == pytest.approx(hd95_mm(b, a, SPACING))


@settings(deadline=None)
@given(pair=mask_pairs(), tolerance=st.floats(0.5, 6))
def test_surface_dice_agrees_with_monai(pair: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    a, b = pair
    a, b = np.pad(a, 2), np.pad(b, 2)  # MONAI cuts the surface at the border of the grid
    if not a.any() or not b.any():
        return
    if np.isclose(surface_distances_mm(a, b, SPACING), tolerance, atol=1e-4).any():
        return  # a distance equal to the tolerance depends on rounding to float32
    theirs = compute_surface_dice(one_hot(a), one_hot(b), [tolerance], spacing=SPACING)

    assert surface_dice(a, b, SPACING, tolerance) == pytest.approx(float(theirs), abs=1e-5)


def test_the_surface_distance_of_two_single_voxels_is_their_distance() -> None:
    a, b = np.zeros((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    a[1, 1, 1], b[3, 1, 2] = True, True

    assert hd95_mm(a, b, SPACING) == pytest.approx(math.hypot(2 * 1.0, 3.0))


def test_empty_masks_have_the_documented_scores() -> None:
    full, empty = np.ones((4, 4, 4), bool), np.zeros((4, 4, 4), bool)

    assert (hd95_mm(empty, empty, SPACING), surface_dice(empty, empty, SPACING)) == (0.0, 1.0)
    assert hd95_mm(full, empty, SPACING) == pytest.approx(np.linalg.norm(np.array([4, 4, 4]) * SPACING))
    assert surface_dice(full, empty, SPACING) == 0.0
    assert math.isnan(volume_error_percent(full, empty))
    assert volume_error_ml(full, empty, 4.5 / 1000) == pytest.approx(64 * 4.5 / 1000)


def test_lesions_match_with_one_common_voxel() -> None:
    reference, prediction = np.zeros((20, 5, 5), bool), np.zeros((20, 5, 5), bool)
    reference[1:4, 1:4, 1:4] = reference[8:10, 1:4, 1:4] = True
    prediction[3:6, 3, 3] = prediction[14:16, 2, 2] = True

    counts = count_lesions(prediction, reference)

    assert (counts.n_reference, counts.n_found, counts.n_predicted, counts.n_true) == (2, 1, 2, 1)
    assert (counts.recall, counts.precision, counts.f1) == (0.5, 0.5, 0.5)


def test_lesions_touching_at_a_corner_are_one_component() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True

    assert count_lesions(mask, mask).n_reference == 1


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match="differ in shape"):
        dice(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool))


def test_all_cases_have_the_same_weight_in_the_summary() -> None:
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[:2], reference[2:] = 1, 2
    labels = {"a": 1, "b": 2}
    scores = score_case("x", reference, reference, labels, GRID)
    scores += score_case("y", 0 * reference, reference, labels, GRID)

    summary = summarise(scores)

    assert (summary["dice"], summary["dice_min"], summary["n_cases"]) == (0.5, 0.0, 2)
    assert summary["dice.a"] == 0.5


def test_a_label_missing_in_reference_and_prediction_is_excluded() -> None:
    reference, prediction = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    reference[0], prediction[:2] = 1, 1
    scores = score_case("x", prediction, reference, {"a": 1, "absent": 2}, GRID)

    assert summarise(scores)["dice"] == pytest.approx(2 / 3)


@pytest.mark.shared_data
def test_all_measures_agree_with_the_independent_scorer(shared: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {"left": 1, "right": 4}
    ours = []
    for i in range(6):
        _, reference = blob_case(i)
        prediction = np.roll(reference, rng.integers(-2, 3, 3), (0, 1, 2))
        prediction = 0 * prediction if i == 4 else np.where(prediction == 4, 0, prediction) if i == 5 else prediction
        save_nifti(tmp_path / "reference" / f"c{i}.nii.gz", reference)
        save_nifti(tmp_path / "prediction" / f"c{i}.nii.gz", prediction.astype(np.uint8))
        ours += score_case(f"c{i}", prediction, reference, labels, Grid(reference.shape, np.diag([1.5, 1.5, 3.0, 1.0])))
    command = [sys.executable, shared / "tools" / "score.py", tmp_path / "reference", tmp_path / "prediction"]

    done = subprocess.run([*command, "--csv", tmp_path / "rows.csv"], check=True, capture_output=True, text=True)

    with (tmp_path / "rows.csv").open() as file:
        theirs = {(r["case"], r["label"]): r for r in csv.DictReader(file)}
    for s in ours:
        row = theirs[s.case, str(labels[s.label])]
        for measure in ("dice", "hd95_mm", "surface_dice", "volume_error_ml"):
            assert getattr(s, measure) == pytest.approx(float(row[measure]), abs=1e-6), (s.case, measure)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summarise(ours)["dice"] == pytest.approx(summary["mean_dice"], abs=1e-6)
    assert summarise(ours)["dice_median"] == pytest.approx(summary["median_dice"], abs=1e-6)


def test_rounding_of_an_affine_does_not_change_surface_dice() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[3:8, 3:8, 3:8] = True
    moved = np.roll(mask, 1, 0)

    assert surface_dice(mask, moved, (1.0 + 4e-9, 1.0, 1.0)) == surface_dice(mask, moved, (1.0, 1.0, 1.0))


def test_volumes_of_sheared_voxels_are_correct() -> None:
    mask, affine = np.ones((4, 4, 4), np.uint8), np.diag([*SPACING, 1.0])
    affine[:3, 2] = 0, 3 * np.sin(0.4), 3 * np.cos(0.4)  # the same distance of slices, along a tilted axis

    (score,) = score_case("c", mask, mask, {"x": 1}, Grid((4, 4, 4), affine))

    assert score.reference_ml == score.predicted_ml == pytest.approx(np.cos(0.4) * 64 * 4.5 / 1000)


@pytest.mark.parametrize("axis", range(3))
def test_the_surface_of_a_mask_on_one_slice_is_its_border(axis: int) -> None:
    a, b = np.zeros((2, 24, 20), bool)
    a[4:16, 5:15], b[7:20, 5:12] = True, True
    borders = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    expected = [ndimage.distance_transform_edt(~other, (0.5, 2.0))[own] for own, other in (borders, borders[::-1])]
    spacing = np.insert([0.5, 2.0], axis, 7.0)

    found = surface_distances_mm(np.expand_dims(a, axis), np.expand_dims(b, axis), tuple(spacing))

    np.testing.assert_allclose(np.sort(found), np.sort(np.concatenate(expected)))
