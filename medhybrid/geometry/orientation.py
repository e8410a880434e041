"""Turning arrays to the closest canonical orientation (RAS) by permuting and flipping axes, and back.

No interpolation: every voxel keeps its value and its place in the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry.affine import Affine, Grid, corner_distance_mm, spacing_mm

MAX_PART_GAP_MM = 0.01
"""A part whose corners lie further from voxels of a grid is none of it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A permutation and flips of the three spatial axes.

    Attributes
    ----------
    axes : (3,) tuple of int
        Source axis of each target axis.
    flips : (3,) tuple of bool
        Whether the target axis runs against its source axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Turn the last three axes of `array` (..., X, Y, Z); a view."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + a for a in self.axes))
        return turned[(..., *(slice(None, None, -1) if f else slice(None) for f in self.flips))]

    @property
    def inverse(self) -> Turn:
        """The turn back."""
        x, y, z = (self.axes.index(a) for a in range(3))
        return Turn((x, y, z), (self.flips[x], self.flips[y], self.flips[z]))

    def undo(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of `apply`; a view."""
        return self.inverse.apply(array)

    def grid(self, source: Grid) -> Grid:
        """The grid of the turned array."""
        shape = tuple(source.shape[a] for a in self.axes)
        to_source = np.zeros((4, 4))  # turned index -> source index
        to_source[3, 3] = 1
        for target, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_source[axis, target] = -1 if flip else 1
            to_source[axis, 3] = source.shape[axis] - 1 if flip else 0
        return Grid((shape[0], shape[1], shape[2]), source.affine @ to_source)


def turn_to_ras(affine: Affine) -> Turn:
    """The turn that brings an array with `affine` (4, 4) closest to RAS.

    Each voxel axis is assigned to one world axis so that the sum of absolute direction cosines is largest.
    """
    return _turn_of(_directions(affine))


def _directions(affine: Affine) -> NDArray[np.float64]:
    """Unit vectors (world, voxel) along the axes of an affine."""
    return np.asarray(affine[:3, :3] / np.array(spacing_mm(affine)))


def _turn_of(cosines: NDArray[np.float64]) -> Turn:
    """Return the turn that brings axes closest to others, by the cosines (other axis, axis) between them."""
    others = np.arange(3)
    axes = max(permutations(range(3)), key=lambda voxel: float(np.abs(cosines[others, voxel]).sum()))
    flips = cosines[others, axes] < 0
    return Turn((axes[0], axes[1], axes[2]), (bool(flips[0]), bool(flips[1]), bool(flips[2])))


def match_axes(array: NDArray[np.generic], source: Grid, target: Grid) -> tuple[NDArray[np.generic], Grid]:
    """Turn `array` (..., X, Y, Z) on `source` to the axis order and directions of `target`; the array and its new grid.

    Two files of one scan may run through its voxels in another order. Whether both grids then are one is for the caller to
    compare.
    """
    turn = _turn_of(
        _directions(target.affine).T @ _directions(source.affine)
    )  # at 45 degrees, RAS would decide by rounding
    return turn.apply(array), turn.grid(source)


def extend_to(array: NDArray[np.generic], source: Grid, target: Grid) -> tuple[NDArray[np.generic], Grid]:
    """Fill an array (..., X, Y, Z) with zeros up to the grid that it was cut from; one that is no part of it stays as it is.

    Both grids run through their voxels in one order; see `match_axes`.
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


def orientation_code(affine: Affine) -> str:
    """Three letters naming where the axes point, for example `"LPS"`."""
    turn = turn_to_ras(affine)
    letters = [""] * 3
    for world, (axis, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        letters[axis] = ("LPI" if flip else "RAS")[world]
    return "".join(letters)
