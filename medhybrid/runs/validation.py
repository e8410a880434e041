"""Records of validations: figures, masks, tables, plots and the report.

RUN/pictures/<case>_<step>.png    figures of a few cases at each validation; MLflow shows them with a slider
RUN/validation/<case>.nii.gz      masks of the final validation, with the label values of the dataset on the grids of the scans
RUN/validation.csv                Dice and volumes by case, the worst first, with the figure of each of the worst cases
RUN/plots/                        Dice by case, predicted and reference volumes, Dice over size, reliability
RUN/report.html                   cases with a viewer, the worst first
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from medhybrid.data.plan import Plan
from medhybrid.data.prepare import outside_labels
from medhybrid.data.store import PreparedCase
from medhybrid.inference.confidence import reliability_of
from medhybrid.review import plots
from medhybrid.review.report import ReportInfo, write_report
from medhybrid.review.training import case_row, case_view, draw_reference, draw_result, result_table, write_table
from medhybrid.scans import write_nifti
from medhybrid.training.tracker import Tracker
from medhybrid.training.validation import CaseResult, Validation
from medhybrid.version import __version__

logger = logging.getLogger(__name__)

MAX_DRAWN = 30
"""Number of cases, the worst ones, with figures in the table and the report."""

MAX_DRAWN_VOXELS = 40_000_000
"""Total voxels of the cases drawn in the report; the file has about as many bytes."""


def show_references(cases: Sequence[PreparedCase], folder: Path, tracker: Tracker, channel: int) -> None:
    """Draw the references as step 0 of the figures in MLflow."""
    with _harmless("figures of the references"):
        for case in cases:
            path = draw_reference(case, folder / "pictures" / f"{case.name}_{0:06d}.png", channel=channel)
            tracker.log_image(path, f"validation/{case.name}", 0)


def show_progress(
    validation: Validation, shown_cases: Collection[str], folder: Path, tracker: Tracker, channel: int
) -> None:
    """Draw the same few cases at each validation."""
    with _harmless("figures of this validation"):
        for result in (r for r in validation.results if r.case.name in shown_cases):
            path = folder / "pictures" / f"{result.case.name}_{validation.step:06d}.png"
            draw_result(result, path, channel=channel, step=validation.step)
            tracker.log_image(path, f"validation/{result.case.name}", validation.step)


def record_validation(
    validation: Validation, folder: Path, tracker: Tracker, channel: int, description: str, *, logs_report: bool
) -> None:
    """Write masks, table, figures, plots and report of the final validation; masks and table first.

    Parameters
    ----------
    description : str
        Description of the run; the scores are added below it.
    logs_report : bool
        Send the report to the tracker; it contains voxels of the scans.
    """
    worst_first = sorted(validation.results, key=lambda r: r.mean_dice)
    rows = [case_row(r) for r in worst_first]
    _write_masks(validation, folder)
    table = write_table(folder / "validation.csv", rows, [""] * len(rows))
    with _harmless("description"):
        tracker.describe(f"{description}\n\n### Validation\n\n{result_table(validation)}")
    with _harmless("figures of the cases"):
        pictures = _draw_worst(worst_first, validation.step, folder, channel)
        table = write_table(folder / "validation.csv", rows, pictures)
    tracker.log_table(table, "validation")
    tracker.log_file(table, "")
    with _harmless("plots"):
        for path in _draw_plots(worst_first, rows, folder / "plots"):
            tracker.log_file(path, "plots")
    with _harmless("report"):
        page = _write_report(worst_first, folder, channel, validation.basis)
        if logs_report:
            tracker.log_file(page, "")


@contextmanager
def _harmless(what: str) -> Iterator[None]:
    """Log an error instead of raising it, since a failed figure must not stop a training."""
    try:
        yield
    except Exception as error:
        logger.warning("%s not written: %s: %s", what, type(error).__name__, error)
        logger.debug("%s", what, exc_info=error)


def _write_masks(validation: Validation, folder: Path) -> None:
    labels = Plan.load(folder / "plan.json").labels
    for r in validation.results:
        path = folder / "validation" / f"{r.case.name}.nii.gz"
        write_nifti(path, outside_labels(r.prediction, labels), r.case.source_grid.affine)


def _draw_worst(results: Sequence[CaseResult], step: int, folder: Path, channel: int) -> list[str]:
    """Draw the worst cases; returns paths in the run folder, empty for cases that are not drawn."""
    pictures = []
    for r in results[:MAX_DRAWN]:
        pictures.append(f"pictures/{r.case.name}_{step:06d}.png")
        if not (folder / pictures[-1]).is_file():
            draw_result(r, folder / pictures[-1], channel=channel, step=step)
    return pictures + [""] * (len(results) - len(pictures))


def _draw_plots(results: Sequence[CaseResult], rows: Sequence[plots.CaseRow], place: Path) -> list[Path]:
    paths = [
        plots.dice_by_case(place / "dice_by_case.png", rows),
        plots.volumes(place / "volumes.png", rows),
        plots.dice_over_size(place / "dice_over_size.png", rows),
    ]
    bins = reliability_of([r.voxels for r in results if r.voxels is not None])
    return paths if bins is None else [*paths, plots.reliability(place / "reliability.png", *bins)]


def _write_report(results: Sequence[CaseResult], folder: Path, channel: int, basis: str) -> Path:
    plan = Plan.load(folder / "plan.json")
    labels = {n: v for v, n in enumerate(plan.labels, start=1)}
    voxels = np.cumsum([np.prod(r.case.grid.shape) for r in results])
    n_drawn = max(1, min(MAX_DRAWN, int((voxels <= MAX_DRAWN_VOXELS).sum())))
    facts = {"run": folder.name, "cases": str(len(results)), "drawn": f"the worst {min(n_drawn, len(results))}"}
    facts |= {"scores": basis} if basis else {}
    views = (case_view(r, channel=channel, is_drawn=n < n_drawn) for n, r in enumerate(results))
    info = ReportInfo(
        f"Validation of {folder.name}",
        labels,
        facts,
        regions=plan.regions,
        key=folder.name,
        folder=folder.name,
        version=__version__,
    )
    return write_report(folder, info, views, len(results), layout="single")
