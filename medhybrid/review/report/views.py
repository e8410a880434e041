"""Values of one case for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""Largest number of components listed for a label: a poor mask has thousands."""

NEEDS_REVIEW = ("needs review", "look at this one")
"""Verdicts of a mask that needs review: the present one, and that of earlier versions."""


LOW_DICE = 0.5
"""A mask with a lower Dice against the reference needs review: less than half of prediction and reference agrees."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """26-connected component of one label.

    Attributes
    ----------
    diameter_mm : float
        Largest distance between two of its voxels.
    voxel : (3,) tuple of int
        The voxel of the component that is nearest to its centre, on the RAS grid of the report's image.
    centre_mm : (3,) tuple of float
        Position of this voxel in RAS mm.
    """

    label: str
    volume_ml: float
    diameter_mm: float
    voxel: tuple[int, int, int]
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class VolumeView:
    """Image of one channel of a scan with its masks, all (X, Y, Z) in RAS order on `grid`.

    Attributes
    ----------
    start : (3,) tuple of int
        Index of the first voxel in the complete scan, if this is a part of it.
    whole : (3,) tuple of int
        Shape of the complete scan; the shape of `image` if it is empty.
    channel : str
        Name of the channel of `image`.
    others : dict
        Channel name to image, on the same grid.
    """

    image: NDArray[np.generic]
    prediction: NDArray[np.generic]
    reference: NDArray[np.generic] | None
    grid: Grid
    start: tuple[int, int, int] = (0, 0, 0)
    whole: tuple[int, ...] = ()
    channel: str = ""
    others: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def from_scan(
        cls,
        image: NDArray[np.generic],
        prediction: NDArray[np.generic],
        reference: NDArray[np.generic] | None,
        grid: Grid,
        *,
        channel: str = "",
        others: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> VolumeView:
        """Turn arrays on a scan's own grid to RAS order."""
        turn = turn_to_ras(grid.affine)
        turned = None if reference is None else turn.apply(reference)
        more = {name: turn.apply(array) for name, array in (others or {}).items()}
        return cls(turn.apply(image), turn.apply(prediction), turned, turn.grid(grid), channel=channel, others=more)


@dataclass(frozen=True, slots=True)
class Size:
    """Volume, number of components and largest diameter of a label; None for values that were not measured."""

    volume_ml: float
    n_lesions: int | None
    largest_mm: float | None


@dataclass(frozen=True, slots=True)
class CaseView:
    """Case of a report.

    Attributes
    ----------
    status : str
        `done`; or `failed` for a scan without mask, with the reason in `message`.
    sign : str
        Short hash of the mask, which ties a reviewer's mark to this mask.
    score : float, optional
        The model's confidence: the Dice that it expects for its mask.
    sizes : dict
        Size of each label.
    facts : tuple of (str, str)
        Names and values of the scan's properties: grid, spacing, axes.
    notes : tuple of str
        Remarks on scan and mask for the reader.
    scores : tuple of LabelScore
        Scores against the reference, if there is one.
    mean_dice : float, optional
        Mean Dice, if it is known without `scores`.
    volume : VolumeView, optional
        Image and masks; None if the scan could not be read again.
    mask_path, scan_path : str
        Files of mask and scan, relative to the report; empty if they must not be named or do not exist.
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
    volume: VolumeView | None = None
    mask_path: str = ""
    scan_path: str = ""

    @property
    def dice(self) -> float | None:
        """Mean Dice over the labels in reference or prediction; 1 if both are empty; None without a reference."""
        if not self.scores:
            return self.mean_dice
        held = [s.dice for s in self.scores if s.reference_ml or s.predicted_ml]
        return float(np.mean(held)) if held else 1.0

    @property
    def is_found(self) -> bool:
        """Whether the mask is not empty."""
        return any(s.volume_ml > 0 or (s.n_lesions or 0) > 0 for s in self.sizes.values())

    @property
    def is_poor(self) -> bool:
        """Whether the Dice against the reference is low."""
        return self.dice is not None and self.dice < LOW_DICE

    @property
    def state(self) -> Literal["failed", "look", "found", "empty"]:
        """State of the case: no mask (`failed`), needs review (`look`), segmented (`found`), empty mask (`empty`)."""
        if self.status == "failed":
            return "failed"
        if self.verdict in NEEDS_REVIEW or self.is_poor:
            return "look"
        return "found" if self.is_found else "empty"

    @property
    def reason(self) -> str:
        """Reason of the state, for a case without mask or one that needs review; otherwise the remark of `predict`."""
        poor = f"Dice against the reference is {self.dice:.3f}, below {LOW_DICE}" if self.is_poor else ""
        return "; ".join(part for part in (self.message, poor) if part)


def case_order(view: CaseView) -> tuple[int, float, str]:
    """Return the sort key of a case: scans without mask come first, then masks that need review, then the rest.

    Within each group, the lowest confidence comes first, or the lowest Dice if the model gives no confidence.
    """
    rank = {"failed": 0, "look": 1, "found": 2, "empty": 2}[view.state]
    sure = view.score if view.score is not None else view.dice
    return rank, 1.0 if sure is None else sure, view.case


def lesions_of(volume: VolumeView, labels: Mapping[str, Sequence[int]]) -> list[Lesion]:
    """Return the components of a prediction, largest first within each label; at most `MAX_LESIONS` for each label.

    Parameters
    ----------
    labels : mapping
        Label or region to its values.
    """
    affine = volume.grid.affine
    found = []
    for name, values in labels.items():
        labelled, n = ndimage.label(np.isin(volume.prediction, values), CONNECTIVITY)
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
