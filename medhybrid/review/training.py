"""What a validation leaves for people: a picture of each case and a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from medhybrid.data.store import PreparedCase
from medhybrid.geometry import resample_labels
from medhybrid.review.figures import draw_case
from medhybrid.training.validation import CaseResult, Validation


def draw_result(result: CaseResult, folder: Path, *, channel: int, step: int) -> Path:
    """A PNG of one case: reference and prediction on the network's grid."""
    case = result.case
    turned = case.turn.grid(case.source_grid)
    prediction = resample_labels(case.turn.apply(result.prediction), turned, case.grid, len(result.dice))
    path = folder / f"{case.name}_{step:06d}.png"
    draw_case(
        path,
        case.image()[channel],
        reference=case.labels(),
        prediction=prediction,
        spacing_mm=case.grid.spacing_mm,
        title=f"{case.name}    step {step}    Dice {result.mean_dice:.3f}",
    )
    return path


def draw_reference(case: PreparedCase, folder: Path, *, channel: int) -> Path:
    """A PNG of one case with its reference alone: step 0 of its series of pictures."""
    path = folder / f"{case.name}_{0:06d}.png"
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


def write_table(validation: Validation, path: Path) -> Path:
    """Dice by case and label, worst first."""
    ordered = sorted(validation.results, key=lambda r: r.mean_dice)
    labels = list(ordered[0].dice)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "dice", *(f"dice {n}" for n in labels), *(f"reference ml {n}" for n in labels)])
        for r in ordered:
            ml = [r.case.record.reference_ml[n] for n in labels]
            writer.writerow([r.case.name, f"{r.mean_dice:.4f}", *(f"{r.dice[n]:.4f}" for n in labels), *ml])
    return path
