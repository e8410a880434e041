"""Surface distances on sheared grids, as of CT with a tilted gantry, equal those between positions in the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medhybrid.geometry import Grid, is_sheared
from medhybrid.metrics import hd95_mm, score_case, surface_dice

SPACING = (0.75, 1.25, 3.0)
TILTS = (0.2, 0.36, -0.5)
"""Tangents of gantry tilts of 11 to 27 degrees."""


def sheared(tilt: float) -> np.ndarray:
    """Return the affine of a series whose slices are displaced along Y, as by a tilted gantry."""
    affine = np.diag([*SPACING, 1.0])
    affine[1, 2] = tilt * SPACING[2]
    affine[:3, 3] = 10, -20, 30
    return affine


def blobs(seed: int, shape: tuple[int, int, int] = (9, 8, 7)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    index = np.stack(np.indices(shape)).astype(float)
    masks = []
    for _ in range(2):
        centre, radius = rng.uniform(0.2, 0.8, 3) * shape, rng.uniform(1.2, 4, 3)
        masks.append((((index - centre[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0) < 1)
    return masks[0], masks[1]


def distances_in_world(a: np.ndarray, b: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the distances between surface voxels of both directions, from all pairs of positions."""
    at = []
    for mask in (a, b):
        surface = np.argwhere(mask & ~ndimage.binary_erosion(mask))
        at.append(surface @ affine[:3, :3].T + affine[:3, 3])
    pairs = cdist(*at)
    return np.concatenate([pairs.min(1), pairs.min(0)])


def score(a: np.ndarray, b: np.ndarray, affine: np.ndarray, tolerance_mm: float = 1.0) -> tuple[float, float]:
    (found,) = score_case(
        "a", a.astype(np.uint8), b.astype(np.uint8), {"x": 1}, Grid(a.shape, affine), tolerance_mm=tolerance_mm
    )
    return found.hd95_mm, found.surface_dice


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), tilt=st.sampled_from(TILTS), tolerance_mm=st.sampled_from([0.4, 1.0, 2.6]))
def test_on_a_sheared_grid_surfaces_are_compared_in_the_world(seed: int, tilt: float, tolerance_mm: float) -> None:
    a, b = blobs(seed)
    assume(a.any() and b.any())
    truth = distances_in_world(a, b, sheared(tilt))
    assume(not np.isclose(truth, tolerance_mm, atol=1e-3).any())

    hd95, share = score(a, b, sheared(tilt), tolerance_mm)

    assert hd95 == pytest.approx(np.percentile(truth, 95))
    assert share == pytest.approx((truth <= tolerance_mm).mean())


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), turn=st.sampled_from([(0, 1, 2), (2, 0, 1), (1, 2, 0)]), flip=st.booleans())
def test_on_an_orthogonal_grid_the_spacing_suffices(seed: int, turn: tuple[int, int, int], flip: bool) -> None:
    a, b = blobs(seed)
    assume(a.any() and b.any())
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(turn)] * SPACING * (-1 if flip else 1)

    hd95, share = score(a, b, affine)

    assert (hd95, share) == (hd95_mm(a, b, SPACING), surface_dice(a, b, SPACING))
    assert hd95 == pytest.approx(np.percentile(distances_in_world(a, b, affine), 95))


@given(seed=st.integers(0, 10_000), angle=st.floats(0.1, 1.4))
@settings(max_examples=20)
def test_a_rotated_grid_has_the_distances_of_an_aligned_one(seed: int, angle: float) -> None:
    a, b = blobs(seed)
    assume(a.any() and b.any())
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * SPACING

    assert not is_sheared(affine)
    assert score(a, b, affine) == pytest.approx(score(a, b, np.diag([*SPACING, 1.0])), rel=1e-9)


@pytest.mark.parametrize("tilt", TILTS)
def test_the_distance_of_two_voxels_is_that_of_their_positions(tilt: float) -> None:
    a, b = np.zeros((5, 9, 6), bool), np.zeros((5, 9, 6), bool)
    a[2, 4, 1] = b[2, 6, 4] = True  # two rows and three slices apart, and displaced along Y by the tilt
    y_mm, z_mm = 2 * SPACING[1] + 3 * tilt * SPACING[2], 3 * SPACING[2]

    hd95, share = score(a, b, sheared(tilt))

    assert hd95 == pytest.approx(np.hypot(y_mm, z_mm))
    assert share == 0


@pytest.mark.parametrize("shape", [(9, 8, 1), (1, 8, 7)])
def test_a_mask_of_one_slice_on_a_sheared_grid_equals_itself(shape: tuple[int, int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(n // 4, n // 4 + 3) for n in shape)] = True

    assert score(mask, mask, sheared(0.36)) == (0, 1)


def test_empty_masks_on_a_sheared_grid_are_equal_and_an_empty_one_is_a_diagonal_away() -> None:
    some, none = np.zeros((5, 6, 7), bool), np.zeros((5, 6, 7), bool)
    some[2:4, 2:4, 2:4] = True
    axes = np.linalg.norm(sheared(0.36)[:3, :3], axis=0)

    assert score(none, none, sheared(0.36)) == (0, 1)
    assert score(some, none, sheared(0.36)) == pytest.approx((np.linalg.norm(axes * (5, 6, 7)), 0))
