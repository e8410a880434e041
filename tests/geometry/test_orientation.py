"""Tests of reorientation to RAS and back: every voxel keeps its value and world position."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation

from medhybrid.geometry import Grid, apply_affine, match_axes, orientation_code, turn_to_ras
from tests.strategies import SIGNED_PERMUTATIONS, grids

SHAPE = (3, 4, 5)


def affine_of(orientation: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = orientation * np.array([1.0, 2.0, 3.0])
    affine[:3, 3] = (10, -20, 30)
    return affine


@pytest.mark.parametrize("orientation", SIGNED_PERMUTATIONS)
def test_reorientation_agrees_with_nibabel_in_all_48_orientations(orientation: np.ndarray) -> None:
    affine = affine_of(orientation)
    array = np.arange(60).reshape(SHAPE)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), affine))

    turn = turn_to_ras(affine)

    np.testing.assert_array_equal(turn.apply(array), np.asarray(expected.dataobj))
    np.testing.assert_allclose(turn.grid(Grid(SHAPE, affine)).affine, expected.affine)
    assert orientation_code(affine) == "".join(aff2axcodes(affine))


@given(grid=grids())
def test_undoing_a_reorientation_is_identity(grid: Grid) -> None:
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    turn = turn_to_ras(grid.affine)

    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)


@given(grid=grids())
def test_reorientation_keeps_the_world_position_of_every_voxel(grid: Grid) -> None:
    positions = apply_affine(grid.affine, np.stack(np.indices(grid.shape), -1).astype(float))  # (X, Y, Z, 3)
    turn = turn_to_ras(grid.affine)
    turned = turn.grid(grid)

    moved = turn.apply(np.moveaxis(positions, -1, 0))

    expected = apply_affine(turned.affine, np.stack(np.indices(turned.shape), -1).astype(float))
    np.testing.assert_allclose(np.moveaxis(moved, 0, -1), expected, atol=1e-6)


@given(grid=grids(max_degrees=20), order=st.integers(0, 47))
def test_matching_axes_undoes_any_reorientation(grid: Grid, order: int) -> None:
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    other_way = turn_to_ras(affine_of(SIGNED_PERMUTATIONS[order]))

    matched, matched_grid = match_axes(other_way.apply(array), other_way.grid(grid), grid)

    np.testing.assert_array_equal(matched, array)
    np.testing.assert_allclose(matched_grid.affine, grid.affine, atol=1e-9)


@pytest.mark.parametrize("orientation", SIGNED_PERMUTATIONS)
def test_axes_at_45_degrees_are_matched_to_the_axes_of_the_image(orientation: np.ndarray) -> None:
    half = np.sqrt(0.5)
    image = Grid((4, 4, 5), np.eye(4))
    image.affine[:3, :3] = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]])
    array = np.arange(80).reshape(image.shape)
    other_way = turn_to_ras(affine_of(orientation))

    matched, grid = match_axes(other_way.apply(array), other_way.grid(image), image)

    np.testing.assert_array_equal(matched, array)
    np.testing.assert_allclose(grid.affine, image.affine, atol=1e-9)


@given(grid=grids(max_degrees=20))
def test_reorientation_of_oblique_grids_agrees_with_nibabel(grid: Grid) -> None:
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    ornt = io_orientation(grid.affine)

    turn = turn_to_ras(grid.affine)

    np.testing.assert_array_equal(turn.apply(array), apply_orientation(array, ornt))
    np.testing.assert_allclose(turn.grid(grid).affine, grid.affine @ inv_ornt_aff(ornt, grid.shape), atol=1e-9)
