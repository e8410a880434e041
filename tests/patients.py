"""Scans with a bright block in the right, anterior and superior region of the patient, placed by the affine only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BODY = 400
BLOCK = 1000
"""Intensities."""

BLOCK_PLACE = 0.4
BLOCK_REACH = 0.2
HOLE_REACH = 0.3
"""Centres and half widths of block and hole, as fractions of the scan's half extent along each patient axis."""


@dataclass(frozen=True)
class Acquisition:
    """Axis directions `(3, 3)` in RAS, spacing in mm and shape of a scan."""

    directions: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine from voxels to RAS in mm; the centre of the scan is the origin."""
        affine = np.eye(4)
        affine[:3, :3] = self.directions * self.spacing_mm
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return affine

    def scan(self) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """Return the image, with the block and a dark hole on the opposite side, and the mask of the block."""
        voxels = np.stack(np.indices(self.shape), axis=-1)  # (X, Y, Z, 3)
        mm = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        reach_mm = np.abs(self.directions) @ (np.array(self.shape) * self.spacing_mm) / 2
        block = (np.abs(mm - BLOCK_PLACE * reach_mm) <= BLOCK_REACH * reach_mm).all(axis=-1)
        hole = (np.abs(mm + BLOCK_PLACE * reach_mm) <= HOLE_REACH * reach_mm).all(axis=-1)
        image = np.full(self.shape, BODY, np.uint16)
        image[hole] = 0
        image[block] = BLOCK
        return image, block.astype(np.uint8)


def turned(degrees: Mapping[int, float]) -> NDArray[np.float64]:
    """Return the product of rotations by these angles around these world axes."""
    rotation = np.eye(3)
    for axis, angle in degrees.items():
        a, b = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(np.deg2rad(angle))
        step[b, a] = np.sin(np.deg2rad(angle))
        step[a, b] = -step[b, a]
        rotation = step @ rotation
    return rotation


SAGITTAL = np.array([[0.0, 0, -1], [-1, 0, 0], [0, -1, 0]])
CORONAL = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])

ACQUISITIONS = {
    "ras": Acquisition(np.eye(3), (1.0, 1.0, 2.0), (44, 50, 22)),
    "las": Acquisition(np.diag([-1.0, 1, 1]), (1.0, 1.0, 2.0), (44, 50, 22)),
    "oblique": Acquisition(turned({2: -25, 0: 20}) @ np.diag([-1.0, -1, 1]), (1.0, 1.0, 2.0), (44, 50, 24)),
    "sagittal": Acquisition(SAGITTAL, (1.0, 1.0, 4.0), (50, 46, 14)),
    "coronal": Acquisition(CORONAL, (1.0, 1.0, 4.0), (46, 44, 14)),
}
"""Common acquisitions."""

THIN = {
    "slab": Acquisition(SAGITTAL, (1.0, 1.0, 0.6), (120, 120, 10)),
    "sheet": Acquisition(SAGITTAL, (1.0, 1.0, 0.2), (120, 120, 10)),
}
"""Acquisitions with few thin slices."""

DOUBLE_OBLIQUE = Acquisition(turned({0: -60, 1: -10, 2: 50}), (1.0, 1.0, 1.5), (44, 50, 30))
"""Acquisition whose axes can be assigned to the patient's axes in more than one order."""
