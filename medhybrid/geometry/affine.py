"""Affines: 4x4 float64 matrices from voxel indices (i, j, k) to world coordinates in RAS millimetres.

An integer index is the centre of a voxel. The nibabel page on coordinate systems explains the convention.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError

Affine = NDArray[np.float64]

MIN_RELATIVE_VOLUME = 1e-9
"""Smallest ratio of a voxel's volume to the product of its edges. Below it, the affine is singular."""

MAX_LAST_ROW_ERROR = 1e-8
"""Largest deviation of an affine's last row from (0, 0, 0, 1). Products of affines have rounding errors."""

MAX_SHEAR_COSINE = 1e-3
"""Largest inner product of the direction cosines of two orthogonal axes (0.06 degrees)."""

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Matrix between RAS, used in this package, and LPS, used by DICOM and ITK. It is its own inverse."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxel grid in world coordinates: shape `(X, Y, Z)` and affine `(4, 4)` to RAS mm.

    Raises
    ------
    GeometryError
        If the affine is not finite, not 4x4, or singular.
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        check_affine(self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distance between neighbouring voxel centres along each axis, in mm."""
        return spacing_mm(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Return the volume of a voxel in ml. It is also correct for sheared grids (tilted gantry)."""
        return voxel_ml(self.affine)

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """Return the world positions `(8, 3)` of the corner voxels' centres, in RAS mm."""
        index = np.array(list(product(*((0, n - 1) for n in self.shape))), float)
        return apply_affine(self.affine, index)

    def box(self, box: tuple[slice, ...]) -> Grid:
        """Return the grid of a subvolume.

        Parameters
        ----------
        box : tuple of slice
            One slice with step 1 per axis.
        """
        ranges = [range(*s.indices(n)) for s, n in zip(box, self.shape, strict=True)]
        affine = self.affine.copy()
        affine[:3, 3] = apply_affine(self.affine, np.array([r.start for r in ranges], float))
        x, y, z = (len(r) for r in ranges)
        return Grid((x, y, z), affine)


def check_affine(affine: Affine) -> None:
    """Raise `GeometryError` for an affine that is not 4x4, not finite or singular."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise GeometryError(
            "affine is not 4x4 or not finite", expected="4x4 finite numbers", found=str(affine.tolist())
        )
    if np.abs(affine[3] - (0, 0, 0, 1)).max() > MAX_LAST_ROW_ERROR:
        raise GeometryError("affine has a wrong last row", expected="(0, 0, 0, 1)", found=str(affine[3].tolist()))
    if is_singular(affine):
        raise GeometryError("affine is singular", found=str(affine.tolist()), remedy="repair the file's header")


def is_singular(affine: Affine) -> bool:
    """Return True if a finite affine (4, 4) maps all voxels to one plane, line or point."""
    edges = np.array(spacing_mm(affine))
    if (edges == 0).any():
        return True
    return bool(abs(np.linalg.det(affine[:3, :3] / edges)) < MIN_RELATIVE_VOLUME)


def voxel_ml(affine: Affine) -> float:
    """Return the volume of one voxel of `affine` (4, 4), in ml."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Return the voxel spacing along each axis of `affine` (4, 4), in mm."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def apply_affine(affine: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform points `(..., 3)` by `affine` (4, 4)."""
    result: NDArray[np.float64] = points @ affine[:3, :3].T + affine[:3, 3]
    return result


def is_sheared(affine: Affine) -> bool:
    """Return True if the axes are not orthogonal, for example in CT with a tilted gantry."""
    cosines = affine[:3, :3] / np.array(spacing_mm(affine))
    gram = cosines.T @ cosines
    return bool(np.abs(gram - np.eye(3)).max() > MAX_SHEAR_COSINE)


def corner_distance_mm(a: Grid, b: Grid) -> float:
    """Return the largest distance between corresponding corners of two grids of the same shape, in mm.

    Raises
    ------
    GeometryError
        If the shapes differ.
    """
    if a.shape != b.shape:
        raise GeometryError("grids have different shapes", expected=str(a.shape), found=str(b.shape))
    return float(np.linalg.norm(a.corners_mm - b.corners_mm, axis=1).max())
