"""Remarks at the start of a training, on labels and settings that are likely to disappoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medhybrid.data.plan import Plan
from medhybrid.data.store import PreparedCase
from medhybrid.progress import Reporter
from medhybrid.runs.setup import RunSetup

NO_VALIDATION = (
    "every case trains (training.fold=all), so nothing is validated: there are no scores, the averaged weights of the last "
    "step become the model, its confidence is not calibrated, and component rules are those of the config "
    "(prepare.keep_largest)"
)


def thin_labels(setup: RunSetup) -> list[str]:
    """Return the labels that the grid of a training case makes smaller by a half or more."""
    kept = [
        (name, case.record.grid_ml.get(name, before), before)
        for case in setup.train_cases
        for name, before in case.record.reference_ml.items()
        if before
    ]
    return sorted({name for name, after, before in kept if after < before / 2})


def report_other_budget(setup: RunSetup, reporter: Reporter) -> None:
    """Report that the plan was made for another length of the training, if its rules chose a value by the length."""
    budget, training, reasons = setup.plan.budget, setup.config.training, setup.plan.reasons
    chosen = [k for k in ("spacing_mm", "patch_size", "batch_size") if not reasons.get(k, "").startswith("config:")]
    if budget is None or not chosen or (budget.minutes, budget.steps) == (training.max_minutes, training.iterations):
        return
    planned, asked = (
        _length_of(*v) for v in ((budget.minutes, budget.steps), (training.max_minutes, training.iterations))
    )
    reporter.message(
        f"the plan was made for {planned} and this training has {asked}: {', '.join(chosen)} may be better for that length "
        "after medhybrid preprocess with this config"
    )


def _length_of(minutes: float | None, steps: int | None) -> str:
    return f"{minutes:g} minutes" if minutes is not None else f"{steps} steps"


def report_absent_labels(plan: Plan, cases: Sequence[PreparedCase], fold: int | str, reporter: Reporter) -> None:
    """Report labels that no training case has, or that vanish on the network's grid."""
    present = {int(value) for case in cases for value in np.unique(case.foreground[:, 3])}
    absent = [name for name, classes in plan.structures.items() if not present & set(classes)]
    lost = [name for name in absent if any(case.record.reference_ml.get(name) for case in cases)]
    if lost:
        spacing = " x ".join(f"{s:g}" for s in plan.spacing_mm)
        reporter.message(
            f"{', '.join(lost)} vanishes on the network's grid of {spacing} mm in every training case of fold {fold}, "
            "so that it cannot be trained. Set a finer prepare.spacing_mm; problems.csv has a suitable spacing"
        )
    if nowhere := [name for name in absent if name not in lost]:
        reporter.message(f"no training case of fold {fold} has {', '.join(nowhere)}: it cannot be trained")
