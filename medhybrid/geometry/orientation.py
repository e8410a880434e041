"""Reorientation of arrays to the closest canonical orientation (RAS) by permuting and flipping axes, and back.

Nothing is interpolated: every voxel keeps its value and its world position.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry.affine import Affine, Grid, corner_distance_mm, spacing_mm

MAX_PART_GAP_MM = 0.01
"""Largest distance of a subvolume's corners from the voxels of the full grid."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Permutation and flips of the three spatial axes.

    Attributes
    ----------
    axes : (3,) tuple of int
        Source axis of each target axis.
    flips : (3,) tuple of bool
        True if the target axis runs in the opposite direction of its source axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return `array` (..., X, Y, Z) with its last three axes reoriented, as a view."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + a for a in self.axes))
        return turned[(..., *(slice(None, None, -1) if f else slice(None) for f in self.flips))]

    @property
    def inverse(self) -> Turn:
        """Return the inverse permutation and flips."""
        x, y, z = (self.axes.index(a) for a in range(3))
        return Turn((x, y, z), (self.flips[x], self.flips[y], self.flips[z]))

    def undo(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return `array` (..., X, Y, Z) in its orientation before `apply`, as a view."""
        return self.inverse.apply(array)

    def grid(self, source: Grid) -> Grid:
        """Return the grid of the reoriented array."""
        shape = tuple(source.shape[a] for a in self.axes)
        to_source = np.zeros((4, 4))  # turned index -> source index
        to_source[3, 3] = 1
        for target, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_source[axis, target] = -1 if flip else 1
            to_source[axis, 3] = source.shape[axis] - 1 if flip else 0
        return Grid((shape[0], shape[1], shape[2]), source.affine @ to_source)


def turn_to_ras(affine: Affine) -> Turn:
    """Return the permutation and flips that bring an array with `affine` (4, 4) closest to RAS.

    Each voxel axis is assigned to one world axis. The assignment has the largest sum of absolute direction cosines.
    """
    return _turn_of(_directions(affine))


def _directions(affine: Affine) -> NDArray[np.float64]:
    """Return unit vectors (world, voxel) along the axes of an affine."""
    return np.asarray(affine[:3, :3] / np.array(spacing_mm(affine)))


def _turn_of(cosines: NDArray[np.float64]) -> Turn:
    """Return the permutation and flips that align axes best with other axes.

    Parameters
    ----------
    cosines : (3, 3) ndarray
        Cosines of the angles between each other axis (rows) and each axis (columns).
    """
    others = np.arange(3)
    axes = max(permutations(range(3)), key=lambda voxel: float(np.abs(cosines[others, voxel]).sum()))
    flips = cosines[others, axes] < 0
    return Turn((axes[0], axes[1], axes[2]), (bool(flips[0]), bool(flips[1]), bool(flips[2])))


def match_axes(array: NDArray[np.generic], source: Grid, target: Grid) -> tuple[NDArray[np.generic], Grid]:
    """Reorient `array` (..., X, Y, Z) on `source` to the axis order and directions of `target`.

    Two files of one scan may store its voxels in different orders. The grids may still differ afterwards: the caller
    compares them.

    Returns
    -------
    array : ndarray
        The reoriented array, as a view.
    grid : Grid
        Its grid.
    """
    turn = _turn_of(
        _directions(target.affine).T @ _directions(source.affine)
    )  # compared directly, not by RAS: near 45 degrees, rounding could assign the axes of the two grids differently
    return turn.apply(array), turn.grid(source)


def extend_to(array: NDArray[np.generic], source: Grid, target: Grid) -> tuple[NDArray[np.generic], Grid]:
    """Pad a cropped array (..., X, Y, Z) with zeros to the full grid that it was cut from.

    Both grids must have the same axis order and directions; see `match_axes`.

    Returns
    -------
    array : ndarray
        The padded array, or the array unchanged if it is not a subvolume of `target`.
    grid : Grid
        Its grid.
    """
    first = np.rint((np.linalg.inv(target.affine) @ source.affine)[:3, 3]).astype(int)
    last = first + source.shape
    if source.shape == target.shape or (first < 0).any() or (last > target.shape).any():
        return array, source
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    if corner_distance_mm(target.box((x, y, z)), source) > MAX_PART_GAP_MM:
        return array, source
    whole = np.zeros((*array.shape[:-3], *target.shape), array.dtype)
    whole[..., x, y, z] = array
    affine = source.affine.copy()
    affine[:3, 3] -= source.affine[:3, :3] @ first
    return whole, Grid(target.shape, affine)


def joint_grid(one: Grid, other: Grid) -> Grid:
    """Return the smallest grid of the first one's voxels that contains both.

    Both grids must have the same axis order and directions; see `match_axes`. Whether the voxels of the other one lie on those
    of the first is not checked; `extend_to` does so.
    """
    first = np.rint((np.linalg.inv(one.affine) @ other.affine)[:3, 3]).astype(int)
    low = np.minimum(0, first)
    x, y, z = (int(n) for n in np.maximum(one.shape, first + other.shape) - low)
    affine = one.affine.copy()
    affine[:3, 3] += one.affine[:3, :3] @ low
    return Grid((x, y, z), affine)


def orientation_code(affine: Affine) -> str:
    """Return the three letters of the directions that the axes point to, for example `"LPS"`."""
    turn = turn_to_ras(affine)
    letters = [""] * 3
    for world, (axis, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        letters[axis] = ("LPI" if flip else "RAS")[world]
    return "".join(letters)
