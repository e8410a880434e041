"""Tests of resampling against SimpleITK, and of world positions."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medhybrid.errors import GeometryError
from medhybrid.geometry import (
    LPS_FROM_RAS,
    Grid,
    apply_affine,
    resample_image,
    resample_labels,
    respace,
)
from tests.strategies import grids, spacings_mm


def to_sitk(array: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    lps = LPS_FROM_RAS @ grid.affine
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.array(grid.spacing_mm)).ravel().tolist())
    return image


@settings(max_examples=50, deadline=None)
@given(grid=grids(), factors=st.tuples(*(st.floats(0.35, 1.0) for _ in range(3))), seed=st.integers(0, 100))
def test_upsampling_agrees_with_simpleitk(grid: Grid, factors: tuple[float, ...], seed: int) -> None:
    array = np.random.default_rng(seed).normal(size=grid.shape).astype(np.float32)
    x, y, z = (s * f for s, f in zip(grid.spacing_mm, factors, strict=True))
    target = respace(grid, (x, y, z))

    ours = resample_image(array[None], grid, target)[0]

    reference = to_sitk(np.zeros(target.shape, np.float32), target)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(to_sitk(array, grid), reference, sitk.Transform(), sitk.sitkLinear, np.nan, sitk.sitkFloat32)
    ).transpose(2, 1, 0)
    inside = np.isfinite(theirs)  # outside the outermost centres, edge values are used here, but not in SimpleITK
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-4)


@given(grid=grids(), spacing=spacings_mm)
def test_a_respaced_grid_has_the_same_field_of_view(grid: Grid, spacing: tuple[float, float, float]) -> None:
    target = respace(grid, spacing)

    centre = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    np.testing.assert_allclose(apply_affine(target.affine, (np.array(target.shape) - 1) / 2), centre, atol=1e-6)
    extent, covered = np.array(grid.shape) * grid.spacing_mm, np.array(target.shape) * target.spacing_mm
    assert (np.abs(extent - covered) <= np.maximum(spacing, spacing) / np.where(extent < spacing, 1, 2) + 1e-6).all()


@given(grid=grids(), spacing=spacings_mm)
def test_resampling_keeps_the_world_position_of_values(grid: Grid, spacing: tuple[float, float, float]) -> None:
    """Compare a linear ramp in world coordinates on both grids, except near the edges."""
    target = respace(grid, spacing)
    direction = np.array([0.3, -0.5, 0.8])
    ramp = (apply_affine(grid.affine, np.stack(np.indices(grid.shape), -1).astype(float)) @ direction).astype(
        np.float32
    )

    resampled = resample_image(ramp[None], grid, target)[0]

    index = np.stack(np.indices(target.shape), -1).astype(float)
    expected = apply_affine(target.affine, index) @ direction
    in_source = apply_affine(np.linalg.inv(grid.affine) @ target.affine, index)
    reach = np.maximum(np.array(target.spacing_mm) / grid.spacing_mm, 1)
    inner = ((in_source >= reach) & (in_source <= np.array(grid.shape) - 1 - reach)).all(-1)
    tolerance = (
        0.2 * max(target.spacing_mm) + 1e-3
    )  # a triangle wider than one voxel may not be symmetric around its centre
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=tolerance)


def test_labels_keep_their_values_without_mixing() -> None:
    grid = Grid((8, 8, 8), np.eye(4))
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4], labels[4:] = 1, 3

    resampled = resample_labels(labels, grid, respace(grid, (0.5, 0.5, 0.5)), 3)

    assert set(np.unique(resampled)) == {1, 3}


def test_grids_with_different_axis_directions_are_refused() -> None:
    turned = np.eye(4)[[1, 0, 2, 3]]

    with pytest.raises(GeometryError, match="different axis directions"):
        resample_image(np.zeros((1, 4, 4, 4)), Grid((4, 4, 4), np.eye(4)), Grid((4, 4, 4), turned))


def test_many_labels_are_resampled_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 6, (9, 12, 7)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    source = Grid((18, 24, 7), np.diag([1.0, 1.0, 2.0, 1.0]))
    target = respace(source, (1.7, 1.3, 2.0))

    few = resample_labels(labels, source, target, 5)
    monkeypatch.setattr("medhybrid.geometry.resample.MANY_LABELS", 0)
    many = resample_labels(labels, source, target, 5)

    assert (few == many).mean() > 0.999, "apart from rounding at ties"
