"""Lesion-wise counts.

A lesion is a 26-connected component of the foreground. A reference lesion is found if at least one predicted voxel
overlaps it; a predicted lesion is true if it overlaps a reference voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from medhybrid.geometry import voxel_ml
from medhybrid.metrics.overlap import Mask, check_same_shape

CONNECTIVITY = np.ones((3, 3, 3), bool)

MAX_POINTS_WITHOUT_HULL = 200
"""Fewer points are compared directly; the hull is not worth it."""


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """Lesions of a case: in the reference, found of them, predicted, true of them."""

    n_reference: int
    n_found: int
    n_predicted: int
    n_true: int

    @property
    def recall(self) -> float:
        """Found share of the reference lesions; 1 when there is none."""
        return self.n_found / self.n_reference if self.n_reference else 1.0

    @property
    def precision(self) -> float:
        """True share of the predicted lesions; 1 when there is none."""
        return self.n_true / self.n_predicted if self.n_predicted else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 1 when neither side has a lesion, 0 when one has none."""
        if not self.n_reference and not self.n_predicted:
            return 1.0
        if not self.n_reference or not self.n_predicted:
            return 0.0
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def count_lesions(prediction: Mask, reference: Mask) -> LesionCounts:
    """Match components of two masks (X, Y, Z)."""
    check_same_shape(prediction, reference)
    in_reference, n_reference = ndimage.label(reference, CONNECTIVITY)
    in_prediction, n_predicted = ndimage.label(prediction, CONNECTIVITY)
    found = np.unique(in_reference[prediction & reference])
    true = np.unique(in_prediction[prediction & reference])
    return LesionCounts(int(n_reference), len(found), int(n_predicted), len(true))


@dataclass(frozen=True, slots=True)
class Component:
    """A connected component of a mask.

    Attributes
    ----------
    volume_ml : float
        Number of voxels times the voxel's volume.
    diameter_mm : float
        Largest distance between the centres of two of its voxels, in three dimensions; 0 for one voxel.
    """

    volume_ml: float
    diameter_mm: float


def measure_components(mask: Mask, affine: NDArray[np.float64]) -> list[Component]:
    """The components of a mask (X, Y, Z) with `affine` (4, 4) to mm, largest volume first."""
    labelled, n = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(labelled.ravel(), minlength=n + 1)[1:]
    speck = Component(voxel_ml(affine), 0.0)  # a poor mask has thousands of single voxels
    components = [
        speck if size == 1 else _measure(labelled[box] == value, affine)
        for value, (size, box) in enumerate(zip(sizes, ndimage.find_objects(labelled), strict=True), start=1)
    ]
    return sorted(components, key=lambda c: -c.volume_ml)


def measure_whole(mask: Mask, affine: NDArray[np.float64]) -> Component:
    """All voxels of a mask as one."""
    return _measure(mask, affine)


def _measure(mask: Mask, affine: NDArray[np.float64]) -> Component:
    return Component(int(np.count_nonzero(mask)) * voxel_ml(affine), longest_distance(_ends(mask) @ affine[:3, :3].T))


def _ends(mask: Mask) -> NDArray[np.int64]:
    """First and last voxel (N, 3) of each column along Z, once each: none between them can be farthest from anything."""
    x, y = np.nonzero(mask.any(axis=2))
    values = mask[x, y]  # (N, Z)
    first, last = values.argmax(axis=1), mask.shape[2] - 1 - values[:, ::-1].argmax(axis=1)
    is_long = last > first
    return np.stack([np.append(x, x[is_long]), np.append(y, y[is_long]), np.append(first, last[is_long])], axis=1)


def longest_distance(points: NDArray[np.float64]) -> float:
    """Largest distance of two points (N, 3): only corners of the convex hull can be that far apart."""
    if len(points) > MAX_POINTS_WITHOUT_HULL:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all in one plane or line: the hull of what spans them
            centred = points - points.mean(0)
            _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
            flat = centred @ axes[sizes > 1e-6 * sizes[0]].T
            points = points[_hull_vertices(flat)]
    return float(pdist(points).max()) if len(points) > 1 else 0.0


def _hull_vertices(flat: NDArray[np.float64]) -> NDArray[np.int64]:
    if flat.shape[1] == 1:
        return np.array([int(flat.argmin()), int(flat.argmax())])
    return np.asarray(ConvexHull(flat).vertices, np.int64)
