"""Lesion-wise counts, and sizes of components.

A lesion is a 26-connected component of the foreground. A reference lesion is found if it shares at least one voxel with the
prediction. A predicted lesion is a true positive if it shares at least one voxel with the reference.
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
"""Up to this number, all pairs of points are compared; a convex hull would take longer."""


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """Lesion counts of a case.

    Attributes
    ----------
    n_reference, n_found : int
        Lesions of the reference, and how many of them are found.
    n_predicted, n_true : int
        Lesions of the prediction, and how many of them are true positives.
    """

    n_reference: int
    n_found: int
    n_predicted: int
    n_true: int

    @property
    def recall(self) -> float:
        """Return the share of reference lesions that are found; 1 if the reference has no lesion."""
        return self.n_found / self.n_reference if self.n_reference else 1.0

    @property
    def precision(self) -> float:
        """Return the share of predicted lesions that are true positives; 1 if no lesion is predicted."""
        return self.n_true / self.n_predicted if self.n_predicted else 1.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of recall and precision.

        It is 1 if reference and prediction both have no lesion, and 0 if only one of them has none.
        """
        if not self.n_reference and not self.n_predicted:
            return 1.0
        if not self.n_reference or not self.n_predicted:
            return 0.0
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def count_lesions(prediction: Mask, reference: Mask) -> LesionCounts:
    """Count the lesions of two masks (X, Y, Z) and the overlapping ones."""
    check_same_shape(prediction, reference)
    in_reference, n_reference = ndimage.label(reference, CONNECTIVITY)
    in_prediction, n_predicted = ndimage.label(prediction, CONNECTIVITY)
    found = np.unique(in_reference[prediction & reference])
    true = np.unique(in_prediction[prediction & reference])
    return LesionCounts(int(n_reference), len(found), int(n_predicted), len(true))


@dataclass(frozen=True, slots=True)
class Component:
    """Connected component of a mask.

    Attributes
    ----------
    volume_ml : float
        Number of voxels times the voxel's volume.
    diameter_mm : float
        Largest distance between the centres of two voxels of the component, in 3D; 0 for a single voxel.
    """

    volume_ml: float
    diameter_mm: float


def measure_components(mask: Mask, affine: NDArray[np.float64]) -> list[Component]:
    """Measure the components of a mask (X, Y, Z) with `affine` (4, 4) to mm; return the largest volume first."""
    labelled, n = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(labelled.ravel(), minlength=n + 1)[1:]
    speck = Component(voxel_ml(affine), 0.0)  # measured once: a poor mask has thousands of single voxels
    components = [
        speck if size == 1 else _measure(labelled[box] == value, affine)
        for value, (size, box) in enumerate(zip(sizes, ndimage.find_objects(labelled), strict=True), start=1)
    ]
    return sorted(components, key=lambda c: -c.volume_ml)


def measure_whole(mask: Mask, affine: NDArray[np.float64]) -> Component:
    """Measure all voxels of a mask as one component."""
    return _measure(mask, affine)


def _measure(mask: Mask, affine: NDArray[np.float64]) -> Component:
    return Component(int(np.count_nonzero(mask)) * voxel_ml(affine), longest_distance(_ends(mask) @ affine[:3, :3].T))


def _ends(mask: Mask) -> NDArray[np.int64]:
    """Return the first and last voxel (N, 3) of each column along Z, without duplicates.

    The two voxels with the largest distance are among them.
    """
    x, y = np.nonzero(mask.any(axis=2))
    values = mask[x, y]  # (N, Z)
    first, last = values.argmax(axis=1), mask.shape[2] - 1 - values[:, ::-1].argmax(axis=1)
    is_long = last > first
    return np.stack([np.append(x, x[is_long]), np.append(y, y[is_long]), np.append(first, last[is_long])], axis=1)


def longest_distance(points: NDArray[np.float64]) -> float:
    """Return the largest distance between two of the points (N, 3); it is between two corners of the convex hull."""
    if len(points) > MAX_POINTS_WITHOUT_HULL:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # all in one plane or on one line: the hull in the axes that span them
            centred = points - points.mean(0)
            _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
            flat = centred @ axes[sizes > 1e-6 * sizes[0]].T
            points = points[_hull_vertices(flat)]
    return float(pdist(points).max()) if len(points) > 1 else 0.0


def _hull_vertices(flat: NDArray[np.float64]) -> NDArray[np.int64]:
    if flat.shape[1] == 1:
        return np.array([int(flat.argmin()), int(flat.argmax())])
    return np.asarray(ConvexHull(flat).vertices, np.int64)
