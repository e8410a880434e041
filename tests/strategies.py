"""What property tests draw from: grids in any orientation, oblique and anisotropic."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medhybrid.geometry import Grid

SIGNED_PERMUTATIONS = [
    np.eye(3)[:, list(order)] * np.array(signs)
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
"""The 48 axis-aligned orientations (24 of them mirror)."""

shapes = st.tuples(st.integers(2, 14), st.integers(2, 14), st.integers(2, 14))

spacings_mm = st.tuples(*(st.floats(0.4, 6.0) for _ in range(3)))


@st.composite
def affines(draw: st.DrawFn, max_degrees: float = 40.0) -> np.ndarray:
    """Orientation, oblique rotation, spacing and origin."""
    orientation = SIGNED_PERMUTATIONS[draw(st.integers(0, 47))]
    angles = draw(st.tuples(*(st.floats(-max_degrees, max_degrees) for _ in range(3))))
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ orientation * np.array(draw(spacings_mm))
    affine[:3, 3] = draw(st.tuples(*(st.floats(-200, 200) for _ in range(3))))
    return affine


@st.composite
def grids(draw: st.DrawFn, max_degrees: float = 40.0) -> Grid:
    """A grid of at most 14 voxels along each axis."""
    return Grid(draw(shapes), draw(affines(max_degrees)))
