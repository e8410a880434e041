"""Tests of affines: spacing, voxel volume, shear, and refusal of invalid affines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import voxel_sizes
from scipy.spatial import ConvexHull

from medhybrid.errors import GeometryError
from medhybrid.geometry import Grid, corner_distance_mm, is_sheared
from tests.strategies import grids


@given(grid=grids())
def test_spacing_agrees_with_nibabel(grid: Grid) -> None:
    np.testing.assert_allclose(grid.spacing_mm, voxel_sizes(grid.affine))


@given(grid=grids(), tilt=st.floats(-0.8, 0.8))
def test_the_volume_of_a_voxel_is_correct_for_sheared_grids(grid: Grid, tilt: float) -> None:
    affine = grid.affine.copy()
    affine[:3, 2] += tilt * affine[:3, 1]
    cell = Grid((2, 2, 2), affine)

    volume_mm3 = ConvexHull(cell.corners_mm - cell.corners_mm.mean(0)).volume

    assert cell.voxel_ml == pytest.approx(volume_mm3 / 1000, rel=1e-6)


@pytest.mark.parametrize(
    "affine",
    [
        np.full((4, 4), np.nan),
        np.diag([1.0, 1.0, 0.0, 1.0]),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.eye(3),
        np.diag([1.0, 1, 1, 2]),
    ],
)
def test_an_invalid_affine_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        Grid((2, 2, 2), affine)


def test_corner_distance_detects_a_rotated_grid_with_the_same_centre() -> None:
    shape = (11, 11, 11)
    turned = np.diag([-1.0, -1, 1, 1])
    turned[:2, 3] = 10

    assert corner_distance_mm(Grid(shape, np.eye(4)), Grid(shape, turned)) == pytest.approx(np.hypot(10, 10))


def test_corner_distance_of_grids_with_different_shapes_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"expected \(2, 2, 2\), found \(2, 2, 3\)|different shapes"):
        corner_distance_mm(Grid((2, 2, 2), np.eye(4)), Grid((2, 2, 3), np.eye(4)))


@given(grid=grids())
def test_rotations_are_not_sheared(grid: Grid) -> None:
    assert not is_sheared(grid.affine)


def test_a_tilted_gantry_is_sheared() -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.2

    assert is_sheared(affine)
