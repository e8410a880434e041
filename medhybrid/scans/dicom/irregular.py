"""Resampling of irregular slices to a regular orthogonal grid, and back.

A tilted gantry shifts each slice against the previous one. A missing slice leaves a gap. Between two slices, both positions
and values are interpolated linearly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry import LPS_FROM_RAS, Grid, apply_affine
from medhybrid.scans.dicom.stack import Stack, normal_of


@dataclass(frozen=True, slots=True)
class RegularGrid:
    """Orthogonal grid that encloses the slices of a stack.

    Attributes
    ----------
    grid : Grid
        Grid with the rows and columns of the slices, and the median slice distance along the normal. Voxels outside the slices,
        and more than half a distance beyond the last one, get the lowest value of the volume.
    stack : Stack
        The slices.
    """

    grid: Grid
    stack: Stack

    @classmethod
    def of(cls, stack: Stack) -> RegularGrid:
        """Create the smallest grid that contains the centre of every pixel."""
        first = stack.frames[0]
        row, column, normal = np.array(first.orientation[:3]), np.array(first.orientation[3:]), normal_of(first)
        positions = np.array([f.position_mm for f in stack.frames]) - first.position_mm
        along, right, down = positions @ normal, positions @ row, positions @ column
        row_mm, column_mm = first.spacing_mm
        step = float(np.median(np.diff(along)))
        lps = np.eye(4)
        lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * column_mm, column * row_mm, normal * step
        lps[:3, 3] = first.position_mm + row * right.min() + column * down.min()
        shape = (
            first.columns + int(np.ceil(np.ptp(right) / column_mm - 1e-3)),
            first.rows + int(np.ceil(np.ptp(down) / row_mm - 1e-3)),
            1 + int(np.ceil(along[-1] / step - 1e-3)),
        )
        return cls(Grid(shape, LPS_FROM_RAS @ lps), stack)

    def from_slices(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        """Resample values (X, Y, slices) to the grid (X, Y, Z), linearly between pixels and slices."""
        from scipy.ndimage import map_coordinates  # imported here: takes 0.3 s, and most scans do not need it

        along, right, down = self._offsets()
        slices = np.arange(len(along))
        values = array.astype(np.float32, copy=False)
        out = np.empty(self.grid.shape, np.float32)
        lowest = float(values.min())
        x, y = np.meshgrid(np.arange(out.shape[0]), np.arange(out.shape[1]), indexing="ij")
        for k in range(out.shape[2]):
            if k > along[-1] + 0.5:  # beyond the last slice
                out[:, :, k] = lowest
                continue
            at = min(float(k), along[-1])
            u = float(np.interp(at, along, slices))
            dx, dy = np.interp(at, along, right), np.interp(at, along, down)
            low, high = int(np.floor(u)), int(np.ceil(u))
            plane = (
                values[:, :, low] if low == high else (high - u) * values[:, :, low] + (u - low) * values[:, :, high]
            )
            out[:, :, k] = map_coordinates(plane, [x - dx, y - dy], order=1, mode="constant", cval=lowest)
        return out

    def to_slices(self, labels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Resample a label map (X, Y, Z) on the grid to the slices (X, Y, slices), by nearest neighbour."""
        along, right, down = self._offsets()
        out = np.zeros(self.slices_shape, labels.dtype)
        last = np.array(labels.shape) - 1
        for k in range(len(along)):
            x = np.clip(np.arange(out.shape[0]) + _nearest(right[k]), 0, last[0])
            y = np.clip(np.arange(out.shape[1]) + _nearest(down[k]), 0, last[1])
            z = int(np.clip(np.rint(along[k]), 0, last[2]))
            out[:, :, k] = labels[np.ix_(x, y, [z])][:, :, 0]
        return out

    def labels_from_slices(self, labels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Resample a label map (X, Y, slices) to the grid (X, Y, Z), by nearest neighbour and 0 outside the slices."""
        along, right, down = self._offsets()
        n_slices = np.arange(len(along))
        out = np.zeros(self.grid.shape, labels.dtype)
        for k in range(out.shape[2]):
            if k > along[-1] + 0.5:
                continue
            at = min(float(k), along[-1])
            plane = labels[:, :, round(float(np.interp(at, along, n_slices)))]
            x = np.arange(out.shape[0]) - _nearest(float(np.interp(at, along, right)))
            y = np.arange(out.shape[1]) - _nearest(float(np.interp(at, along, down)))
            has_x, has_y = (x >= 0) & (x < plane.shape[0]), (y >= 0) & (y < plane.shape[1])
            out[np.ix_(has_x, has_y, [k])] = plane[np.ix_(x[has_x], y[has_y])][:, :, None]
        return out

    @property
    def slices_shape(self) -> tuple[int, int, int]:
        """Return the number of columns, rows and slices."""
        first = self.stack.frames[0]
        return first.columns, first.rows, len(self.stack.frames)

    def locate_in_slices(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert points (N, 3) in LPS mm to (column, row, slice)."""
        along, right, down = self._offsets()
        to_voxel: NDArray[np.float64] = (np.linalg.inv(self.grid.affine) @ LPS_FROM_RAS).astype(np.float64)
        voxels = apply_affine(to_voxel, points)
        z = voxels[:, 2]
        beyond = z - np.clip(z, along[0], along[-1])
        k = np.interp(z, along, np.arange(len(along))) + beyond
        return np.column_stack([voxels[:, 0] - np.interp(z, along, right), voxels[:, 1] - np.interp(z, along, down), k])

    def _offsets(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return each slice's position along the normal, and its shift in X and Y, in voxels of the grid."""
        to_voxel = np.linalg.inv(self.grid.affine) @ LPS_FROM_RAS
        positions = np.array([f.position_mm for f in self.stack.frames])
        voxels = positions @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        return voxels[:, 2], voxels[:, 0], voxels[:, 1]


def _nearest(shift: float) -> int:
    """Round a shift in voxels to an integer, and halves upwards.

    `np.rint` rounds halves to even numbers: applied to each pixel's position, it would map two pixels to one voxel.
    """
    return int(np.floor(shift + 0.5))
