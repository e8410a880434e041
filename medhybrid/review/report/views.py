"""What a report tells of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.metrics import LabelScore, measure_whole
from medhybrid.metrics.lesions import CONNECTIVITY
from medhybrid.review.figures import nearest_to_centre

MAX_LESIONS = 30
"""Lesions of a label that are listed, largest first: a poor mask has thousands."""

NEEDS_REVIEW = ("needs review", "look at this one")
"""The verdict of a doubtful mask, now and in records of earlier versions."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """A 26-connected component of one label.

    Attributes
    ----------
    diameter_mm : float
        Largest distance between two of its voxels.
    voxel : (3,) tuple of int
        Its voxel nearest to its centre, on the RAS grid of the pictures.
    centre_mm : (3,) tuple of float
        The same place in RAS mm.
    """

    label: str
    volume_ml: float
    diameter_mm: float
    voxel: tuple[int, int, int]
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Pictured:
    """One channel of a scan with its masks, all (X, Y, Z) in RAS order on `grid`."""

    image: NDArray[np.generic]
    prediction: NDArray[np.generic]
    reference: NDArray[np.generic] | None
    grid: Grid

    @classmethod
    def from_scan(
        cls,
        image: NDArray[np.generic],
        prediction: NDArray[np.generic],
        reference: NDArray[np.generic] | None,
        grid: Grid,
    ) -> Pictured:
        """Turn arrays on a scan's own grid to RAS order."""
        turn = turn_to_ras(grid.affine)
        turned = None if reference is None else turn.apply(reference)
        return cls(turn.apply(image), turn.apply(prediction), turned, turn.grid(grid))


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a label there is; None where it was not counted."""

    volume_ml: float
    n_lesions: int | None
    largest_mm: float | None


@dataclass(frozen=True, slots=True)
class CaseView:
    """One case of a report.

    Attributes
    ----------
    status : str
        `done`, or `failed`: there is no mask, and `message` says why.
    sign : str
        Of the mask, so that a mark stays with it.
    score : float, optional
        The model's confidence: the Dice that it expects of its mask.
    sizes : dict
        By label.
    facts : tuple of (str, str)
        Name and value of what is known of the scan: grid, spacing, axes.
    notes : tuple of str
        What a reader should know of scan and mask.
    scores : tuple of LabelScore
        Against the reference, where there is one.
    mean_dice : float, optional
        Where it is known without them.
    pictured : Pictured, optional
        None where the scan could not be read again.
    """

    case: str
    status: Literal["done", "failed"]
    message: str = ""
    sign: str = ""
    verdict: str = ""
    score: float | None = None
    sizes: Mapping[str, Size] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    scores: tuple[LabelScore, ...] = ()
    mean_dice: float | None = None
    pictured: Pictured | None = None

    @property
    def dice(self) -> float | None:
        """Mean over the labels that reference or prediction hold; 1 where neither holds any; None without reference."""
        if not self.scores:
            return self.mean_dice
        held = [s.dice for s in self.scores if s.reference_ml or s.predicted_ml]
        return float(np.mean(held)) if held else 1.0

    @property
    def is_found(self) -> bool:
        """Whether the mask holds anything."""
        return any(s.volume_ml > 0 for s in self.sizes.values())

    @property
    def state(self) -> Literal["failed", "look", "found", "empty"]:
        """In one word: no mask, a doubtful one, one with a finding, one without."""
        if self.status == "failed":
            return "failed"
        if self.verdict in NEEDS_REVIEW:
            return "look"
        return "found" if self.is_found else "empty"


def case_order(view: CaseView) -> tuple[int, float, str]:
    """What to look at first: scans without mask, doubtful masks, then the rest; the least sure, else the lowest Dice, first."""
    rank = {"failed": 0, "look": 1, "found": 2, "empty": 2}[view.state]
    sure = view.score if view.score is not None else view.dice
    return rank, 1.0 if sure is None else sure, view.case


def lesions_of(pictured: Pictured, labels: Mapping[str, int]) -> list[Lesion]:
    """The lesions of a prediction, largest first within each label; at most `MAX_LESIONS` a label."""
    affine = pictured.grid.affine
    found = []
    for name, value in labels.items():
        labelled, n = ndimage.label(pictured.prediction == value, CONNECTIVITY)
        if not n:
            continue
        sizes = np.bincount(labelled.ravel())[1:]
        boxes = ndimage.find_objects(labelled)
        for index in np.argsort(-sizes, kind="stable")[:MAX_LESIONS]:
            box = boxes[index]
            part = labelled[box] == index + 1
            size = measure_whole(part, affine)
            inside = nearest_to_centre(part)
            x, y, z = (int(b.start + v) for b, v in zip(box, inside, strict=True))
            mm = affine[:3, :3] @ (x, y, z) + affine[:3, 3]
            centre = (float(mm[0]), float(mm[1]), float(mm[2]))
            found.append(Lesion(name, size.volume_ml, size.diameter_mm, (x, y, z), centre))
    return found
