"""Sizes of a mask's components, compared with distances between all pairs of voxels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import pdist

from medhybrid.metrics import measure_components
from tests.strategies import grids


@given(grid=grids(), share=st.sampled_from([0.02, 0.1, 0.4]), seed=st.integers(0, 99))
def test_each_component_has_its_volume_and_the_distance_of_its_farthest_voxels(grid, share, seed) -> None:  # type: ignore[no-untyped-def]
    mask = np.random.default_rng(seed).random(grid.shape) < share
    voxel_ml = abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    labelled, n = ndimage.label(mask, np.ones((3, 3, 3)))
    expected = []
    for value in range(1, n + 1):
        voxels = np.argwhere(labelled == value)
        far = pdist(voxels @ grid.affine[:3, :3].T)
        expected.append((len(voxels) * voxel_ml, far.max() if len(far) else 0.0))

    found = [(c.volume_ml, c.diameter_mm) for c in measure_components(mask, grid.affine)]

    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6, atol=1e-6)
    assert [volume for volume, _ in found] == sorted((volume for volume, _ in found), reverse=True)
