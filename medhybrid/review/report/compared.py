"""Comparison of two runs as one page: difference in Dice, the cases that changed most, and differing settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medhybrid.files import write_atomically
from medhybrid.metrics import Difference
from medhybrid.review.figures import largest_region_centre
from medhybrid.review.report.charts import paired
from medhybrid.review.report.display import display_window
from medhybrid.review.report.page import asset, environment
from medhybrid.review.report.slices import Slice, crop_together, draw
from medhybrid.review.report.views import VolumeView


@dataclass(frozen=True, slots=True)
class ComparisonInfo:
    """Result of the comparison of two runs.

    Attributes
    ----------
    first, second : str
        Names of the runs.
    difference : Difference
        Difference in Dice, second - first.
    rows : tuple of (str, float, float)
        Case, Dice of the first and of the second run; the largest loss comes first.
    settings : tuple of (str, str, str)
        Differing setting, its value in the first and in the second run.
    left_out : tuple of str
        Cases that only one of the runs has.
    labels : dict
        Label names and their values in the masks.
    """

    first: str
    second: str
    difference: Difference
    rows: tuple[tuple[str, float, float], ...]
    settings: tuple[tuple[str, str, str], ...]
    left_out: tuple[str, ...]
    labels: Mapping[str, int]
    version: str


@dataclass(frozen=True, slots=True)
class ComparedCase:
    """Case with its Dice and its images in both runs."""

    case: str
    first_dice: float
    second_dice: float
    first: VolumeView | None
    second: VolumeView | None


def write_comparison(path: Path, info: ComparisonInfo, cases: Iterable[ComparedCase]) -> Path:
    """Write the page. The slices of a case go through the centre of the largest region in which the two masks differ."""
    pages = environment()
    sections = [(c, *_slices(c, list(info.labels.values()))) for c in cases]
    means = tuple(float(np.mean([r[k] for r in info.rows])) for k in (1, 2))
    body = pages.get_template("comparison.html").render(
        c=info, means=means, sections=sections, chart=paired(info.first, info.second, info.rows), verdict=_verdict(info)
    )
    page = {
        "title": f"{info.first} and {info.second}",
        "index": body,
        "sections": (),
        "key": "comparison",
        "folder": "",
        "marks": "marks",
        "css": asset("report.css"),
        "scripts": [asset("report.js")],
        "viewer": "",
        "niivue": None,
        "version": info.version,
        "has_marks": False,
    }
    write_atomically(path, pages.get_template("page.html").render(page=page))
    return path


def _verdict(info: ComparisonInfo) -> str:
    if not info.difference.is_shown:
        return "No significant difference: the 95 % interval contains 0, or Wilcoxon's test gives p of 0.05 or more."
    better = "better" if info.difference.interval.mean > 0 else "worse"
    return f"{info.second} is {better}: the 95 % interval does not contain 0, and Wilcoxon's test gives p below 0.05."


def _slices(case: ComparedCase, labels: list[int]) -> tuple[list[Slice], list[Slice]]:
    if case.first is None or case.second is None or case.first.image.shape != case.second.image.shape:
        return [], []
    first, second = crop_together(case.first, case.second)
    differs = np.asarray(first.prediction != second.prediction)
    centre = largest_region_centre(differs.astype(np.uint8))
    window = display_window(first)
    one, two = ([draw(p, axis, centre[axis], window, labels) for axis in (2, 1, 0)] for p in (first, second))
    return one, two
