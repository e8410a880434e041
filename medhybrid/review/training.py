"""Figures, tables and report entries for the cases of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.data.store import PreparedCase
from medhybrid.files import write_csv
from medhybrid.geometry import resample_labels
from medhybrid.metrics import LabelScore, mean_interval, score_case
from medhybrid.review.figures import draw_case
from medhybrid.review.plots import CaseRow
from medhybrid.review.report import CaseView, VolumeView
from medhybrid.review.report.views import Size
from medhybrid.training.validation import CaseResult, Validation


def draw_result(result: CaseResult, path: Path, *, channel: int, step: int) -> Path:
    """Write a PNG of one case with reference and prediction, on the network's grid."""
    case = result.case
    basis = " on labelled voxels" if case.record.known_share < 1 else ""
    draw_case(
        path,
        case.image()[channel],
        reference=case.labels(),
        prediction=_on_prepared_grid(result),
        spacing_mm=case.grid.spacing_mm,
        title=f"{case.name}    step {step}    Dice {result.mean_dice:.3f}{basis}",
    )
    return path


def draw_reference(case: PreparedCase, path: Path, *, channel: int) -> Path:
    """Write a PNG of one case with its reference alone: step 0 of its series of figures."""
    labels = case.labels()
    draw_case(
        path,
        case.image()[channel],
        reference=labels,
        prediction=np.zeros_like(labels),
        spacing_mm=case.grid.spacing_mm,
        title=f"{case.name}    reference, before training",
    )
    return path


def case_row(result: CaseResult) -> CaseRow:
    """Return Dice and volumes of a case, on the voxels whose label is known."""
    ml = result.case.source_grid.voxel_ml
    known = result.prediction.ravel()
    if result.case.record.known_share < 1:
        known = known[result.case.source_mask_with_unknown().ravel() != UNKNOWN]
    sizes = np.bincount(known, minlength=_n_classes(result) + 1)
    predicted = {n: float(sizes[list(result.classes[n])].sum()) * ml for n in result.dice}
    return CaseRow(result.case.name, result.mean_dice, result.dice, result.case.record.reference_ml, predicted)


def _n_classes(result: CaseResult) -> int:
    return max(v for classes in result.classes.values() for v in classes)


def write_table(path: Path, rows: Sequence[CaseRow], pictures: Sequence[str]) -> Path:
    """Write a table of Dice and volumes by case and label. Cells of labels that a reference does not have are empty.

    Parameters
    ----------
    pictures : sequence of str
        Path of each case's figure below the table's folder; empty for a case without figure.
    """
    labels = list(dict.fromkeys(n for row in rows for n in row.dice))
    names = ["case", "dice", "picture", *(f"dice {n}" for n in labels)]
    names += [*(f"reference ml {n}" for n in labels), *(f"predicted ml {n}" for n in labels)]
    lines: list[Sequence[object]] = [names]
    for row, picture in zip(rows, pictures, strict=True):
        dice = [f"{row.dice[n]:.4f}" if n in row.dice else "" for n in labels]
        reference = [row.reference_ml.get(n, "") for n in labels]
        ml = [f"{row.predicted_ml[n]:.4f}" if n in row.predicted_ml else "" for n in labels]
        lines.append([row.case, f"{row.mean_dice:.4f}", picture, *dice, *reference, *ml])
    write_csv(path, lines)
    return path


def result_table(validation: Validation) -> str:
    """Return a Markdown table of the Dice of each label, with its interval over cases, and what it was measured on."""
    columns = {"mean over labels": [r.mean_dice for r in validation.results]}
    for name in validation.structures:
        columns[name] = [r.dice[name] for r in validation.results if name in r.dice and r.reference_ml(name) > 0]
    lines = ["| Dice | mean (95 %) | median | lowest | cases |", "| --- | --- | --- | --- | --- |"]
    for name, values in columns.items():
        if values:
            told = [
                name,
                str(mean_interval(values)),
                f"{np.median(values):.4f}",
                f"{min(values):.4f}",
                str(len(values)),
            ]
            lines.append("| " + " | ".join(told) + " |")
    if validation.basis:
        lines += ["", f"{validation.basis}."]
    return "\n".join(lines)


def case_view(result: CaseResult, *, channel: int, is_drawn: bool) -> CaseView:
    """Return the report entry of a case, with label values 1 to K; without `is_drawn`, only Dice and volumes."""
    case, grid = result.case, result.case.source_grid
    labels = {n: result.classes[n][0] if len(result.classes[n]) == 1 else result.classes[n] for n in result.dice}
    missing = [n for n in result.classes if n not in result.dice]
    notes = () if is_drawn else ("No images: the report shows images of the cases with the lowest Dice only.",)
    if missing:
        notes = (*notes, f"The reference has no {', '.join(missing)}: not scored.")
    row = case_row(result)
    volume: VolumeView | None = None
    scores: tuple[LabelScore, ...] = ()
    if is_drawn:
        volume = VolumeView(case.image()[channel], _on_prepared_grid(result), case.labels(), case.grid)
        reference = case.source_mask_with_unknown()
        known = reference != UNKNOWN
        scores = tuple(score_case(case.name, result.prediction, reference, labels, grid, known=known))
    spacing = " x ".join(f"{s:.3g}" for s in grid.spacing_mm)
    return CaseView(
        case=case.name,
        status="done",
        sizes={n: Size(row.predicted_ml[n], None, None) for n in labels},
        facts=(("grid", " x ".join(map(str, grid.shape))), ("spacing", f"{spacing} mm")),
        notes=notes,
        scores=scores,
        mean_dice=result.mean_dice,
        volume=volume,
    )


def _on_prepared_grid(result: CaseResult) -> NDArray[np.uint8]:
    case = result.case
    turned = case.turn.grid(case.source_grid)
    return resample_labels(case.turn.apply(result.prediction), turned, case.grid, _n_classes(result))
