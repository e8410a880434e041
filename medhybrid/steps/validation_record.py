"""What validations leave of themselves, in the run folder and its record.

RUN/pictures/<case>_<step>.png    the same few cases at each validation: MLflow shows them with a slider
RUN/validation/<case>.nii.gz      masks of the last validation, in the values and on the grids of the scans
RUN/validation.csv                Dice and volumes by case, worst first, with a picture of each of the worst
RUN/plots/                        Dice by case, volumes against the reference's, Dice over size, reliability
RUN/report.html                   the cases with a viewer, worst first
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import medhybrid
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import outside_labels
from medhybrid.data.store import PreparedCase
from medhybrid.inference.confidence import reliability_of
from medhybrid.review import plots
from medhybrid.review.report import CaseView, ReportInfo, write_report
from medhybrid.review.training import case_row, case_view, draw_reference, draw_result, result_table, write_table
from medhybrid.scans import write_nifti
from medhybrid.training.tracker import Tracker
from medhybrid.training.validation import CaseResult, Validation

logger = logging.getLogger(__name__)

MAX_DRAWN = 30
"""Cases, the worst ones, that the table and the report have pictures of."""


def show_references(cases: Sequence[PreparedCase], folder: Path, tracker: Tracker, channel: int) -> None:
    """Step 0 of each series of pictures: MLflow's slider begins there."""
    try:
        for case in cases:
            path = draw_reference(case, folder / "pictures" / f"{case.name}_{0:06d}.png", channel=channel)
            tracker.log_image(path, f"validation/{case.name}", 0)
    except (OSError, ValueError) as error:
        logger.warning("no pictures of the references: %s", error)


def show_validation(
    validation: Validation, pictured: Collection[str], folder: Path, tracker: Tracker, channel: int, description: str
) -> None:
    """Pictures of the same few cases each time; of the complete validation at the end all there is to see.

    Parameters
    ----------
    description : str
        What the run is; the result is put below it.
    """
    try:
        for result in (r for r in validation.results if r.case.name in pictured):
            path = folder / "pictures" / f"{result.case.name}_{validation.step:06d}.png"
            draw_result(result, path, channel=channel, step=validation.step)
            tracker.log_image(path, f"validation/{result.case.name}", validation.step)
        if validation.is_complete:
            _write_masks(validation, folder)
            worst_first = sorted(validation.results, key=lambda r: r.mean_dice)
            _show_table(worst_first, validation.step, folder, tracker, channel)
            _show_plots(worst_first, folder, tracker)
            tracker.log_file(_write_report(worst_first, folder, channel), "")
            tracker.describe(f"{description}\n\n### Validation\n\n{result_table(validation)}")
    except (OSError, ValueError) as error:  # a picture must not stop a training
        logger.warning("no pictures of this validation: %s", error)


def _write_masks(validation: Validation, folder: Path) -> None:
    labels = Plan.load(folder / "plan.json").labels
    for r in validation.results:
        path = folder / "validation" / f"{r.case.name}.nii.gz"
        write_nifti(path, outside_labels(r.prediction, labels), r.case.source_grid.affine)


def _show_table(results: Sequence[CaseResult], step: int, folder: Path, tracker: Tracker, channel: int) -> None:
    pictures = []
    for r in results[:MAX_DRAWN]:
        pictures.append(f"pictures/{r.case.name}_{step:06d}.png")
        if not (folder / pictures[-1]).is_file():
            draw_result(r, folder / pictures[-1], channel=channel, step=step)
    pictures += [""] * (len(results) - len(pictures))
    path = write_table(folder / "validation.csv", [case_row(r) for r in results], pictures)
    tracker.log_table(path, "validation")
    tracker.log_file(path, "")


def _show_plots(results: Sequence[CaseResult], folder: Path, tracker: Tracker) -> None:
    rows, place = [case_row(r) for r in results], folder / "plots"
    paths = [
        plots.dice_by_case(place / "dice_by_case.png", rows),
        plots.volumes(place / "volumes.png", rows),
        plots.dice_over_size(place / "dice_over_size.png", rows),
    ]
    bins = reliability_of([r.voxels for r in results if r.voxels is not None])
    if bins is not None:
        paths.append(plots.reliability(place / "reliability.png", *bins))
    for path in paths:
        tracker.log_file(path, "plots")


def _write_report(results: Sequence[CaseResult], folder: Path, channel: int) -> Path:
    labels = {n: v for v, n in enumerate(results[0].dice, start=1)}
    facts = {"run": folder.name, "cases": str(len(results)), "drawn": f"the worst {min(MAX_DRAWN, len(results))}"}

    def views() -> Iterator[CaseView]:
        for n, r in enumerate(results):
            yield case_view(r, channel=channel, is_drawn=n < MAX_DRAWN)

    info = ReportInfo(f"Validation of {folder.name}", labels, facts, key=folder.name, version=medhybrid.__version__)
    return write_report(folder, info, views(), len(results), layout="single")
