"""Measures of one case, one row per label, and their summary over cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.geometry import Grid, is_sheared
from medhybrid.metrics.lesions import count_lesions
from medhybrid.metrics.overlap import dice, volume_error_ml, volume_error_percent, volume_ml
from medhybrid.metrics.surface import hd95_mm, surface_dice


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Measures of one label in one case; NaN where voxels of unknown label make a measure impossible."""

    case: str
    label: str
    dice: float
    hd95_mm: float
    surface_dice: float
    reference_ml: float
    predicted_ml: float
    volume_error_ml: float
    volume_error_percent: float
    lesion_precision: float
    lesion_recall: float
    lesion_f1: float

    def as_row(self) -> dict[str, str | float]:
        """Return the measures as a row of a CSV table."""
        return asdict(self)


def score_case(
    case: str,
    prediction: NDArray[np.generic],
    reference: NDArray[np.generic],
    labels: Mapping[str, int | Sequence[int]],
    grid: Grid,
    *,
    tolerance_mm: float = 1.0,
    known: NDArray[np.bool_] | None = None,
) -> list[LabelScore]:
    """Compare each label of a label map with its reference.

    If the label of some voxels is unknown, Dice and volumes are those of the other voxels. Surfaces, components and errors of
    volumes need the whole structure, and are NaN.

    Parameters
    ----------
    prediction, reference : (X, Y, Z) ndarray
        Label maps on `grid`.
    labels : mapping
        Label name to its value, or to several values for a region.
    tolerance_mm : float
        Tolerance of the surface Dice.
    known : (X, Y, Z) bool ndarray, optional
        Voxels whose label is known; all by default.
    """
    scores, axes = [], grid.affine[:3, :3] if is_sheared(grid.affine) else grid.spacing_mm
    is_whole = known is None or bool(known.all())
    for name, value in labels.items():
        p, r = (np.isin(m, value) if isinstance(value, Sequence) else m == value for m in (prediction, reference))
        if known is not None and not is_whole:
            scores.append(_score_known(case, name, p & known, r & known, grid))
            continue
        lesions = count_lesions(p, r)
        scores.append(
            LabelScore(
                case=case,
                label=name,
                dice=dice(p, r),
                hd95_mm=hd95_mm(p, r, axes),
                surface_dice=surface_dice(p, r, axes, tolerance_mm),
                reference_ml=volume_ml(r, grid.voxel_ml),
                predicted_ml=volume_ml(p, grid.voxel_ml),
                volume_error_ml=volume_error_ml(p, r, grid.voxel_ml),
                volume_error_percent=volume_error_percent(p, r),
                lesion_precision=lesions.precision,
                lesion_recall=lesions.recall,
                lesion_f1=lesions.f1,
            )
        )
    return scores


def _score_known(
    case: str, label: str, prediction: NDArray[np.bool_], reference: NDArray[np.bool_], grid: Grid
) -> LabelScore:
    """Return Dice and volumes of masks (X, Y, Z) without the voxels of unknown label."""
    nan = float("nan")
    return LabelScore(
        case=case,
        label=label,
        dice=dice(prediction, reference),
        hd95_mm=nan,
        surface_dice=nan,
        reference_ml=volume_ml(reference, grid.voxel_ml),
        predicted_ml=volume_ml(prediction, grid.voxel_ml),
        volume_error_ml=nan,
        volume_error_percent=nan,
        lesion_precision=nan,
        lesion_recall=nan,
        lesion_f1=nan,
    )


def summarise(scores: list[LabelScore]) -> dict[str, float]:
    """Summarise scores over cases and by label. For Dice, all cases have the same weight.

    The Dice of a case is the mean over the labels that are present in its reference or its prediction. Other labels are
    excluded: with reference and prediction both empty, their Dice is 1 and would raise the mean. For a case without any label
    in either, it is the mean over all labels. Means of the other measures leave out NaN, and a measure without a value.
    """
    by_case: dict[str, list[LabelScore]] = {}
    for s in scores:
        by_case.setdefault(s.case, []).append(s)
    held = [[s for s in rows if s.reference_ml or s.predicted_ml] or rows for rows in by_case.values()]
    case_dice = np.array([np.mean([s.dice for s in rows]) for rows in held])
    summary = {
        "n_cases": float(len(by_case)),
        "dice": float(case_dice.mean()),
        "dice_median": float(np.median(case_dice)),
        "dice_min": float(case_dice.min()),
    }
    for measure in ("hd95_mm", "surface_dice", "lesion_f1", "lesion_precision", "lesion_recall", "volume_error_ml"):
        measured = [v for s in scores if not np.isnan(v := getattr(s, measure))]
        if measured:
            summary[measure] = float(np.mean(measured))
    for label in dict.fromkeys(s.label for s in scores):
        summary[f"dice.{label}"] = float(np.mean([s.dice for s in scores if s.label == label]))
    return summary
