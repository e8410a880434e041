"""Lesion-wise counts.

A lesion is a 26-connected component of the foreground. A reference lesion is found if at least one predicted voxel
overlaps it; a predicted lesion is true if it overlaps a reference voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medhybrid.metrics.overlap import Mask, check_same_shape

CONNECTIVITY = np.ones((3, 3, 3), bool)


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


def component_volumes_ml(mask: Mask, spacing_mm: tuple[float, float, float]) -> list[float]:
    """Volumes of the components of a mask, largest first."""
    labelled, n = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(labelled.ravel(), minlength=n + 1)[1:]
    ml = float(np.prod(spacing_mm)) / 1000
    return sorted((float(s) * ml for s in sizes), reverse=True)
