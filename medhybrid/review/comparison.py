"""Comparison of several settings: a table with intervals and paired differences, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medhybrid.errors import DataError
from medhybrid.metrics import mean_interval, paired_difference


@dataclass(frozen=True, slots=True)
class Setting:
    """Results of the trainings with one setting.

    Attributes
    ----------
    cases : dict
        Dice of each case, as mean over seeds.
    by_seed : tuple of float
        Mean Dice of each training.
    n_steps : tuple of int
        Optimiser steps of each training.
    curves : tuple of tuples of (float, float)
        Validations of each training: minutes (or steps, if the length is in steps) and mean Dice. All validations but the last
        use a part of the cases only.
    """

    name: str
    n_parameters: int
    n_steps: tuple[int, ...]
    by_seed: tuple[float, ...]
    cases: dict[str, float]
    curves: tuple[tuple[tuple[float, float], ...], ...] = ()


def comparison_table(settings: Sequence[Setting]) -> str:
    """Return a Markdown table of the settings, with the difference of the first setting to each of them, paired by case.

    Raises
    ------
    DataError
        If the cases of the settings differ.
    """
    first = settings[0]
    if odd := [s.name for s in settings if s.cases.keys() != first.cases.keys()]:
        raise DataError(
            f"{', '.join(odd)} cannot be compared with {first.name}: their cases differ",
            expected="the same cases, since differences are paired by case",
        )
    reference = [first.cases[c] for c in sorted(first.cases)]
    columns = ["setting", "parameters", "steps", "mean Dice (95 %)", "median", "by seed"]
    columns += [f"{first.name} - setting (95 %)", "p", "better, worse"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for s in settings:
        values = [s.cases[c] for c in sorted(s.cases)]
        cells = [s.name, f"{s.n_parameters / 1e6:.2f} M", ", ".join(map(str, s.n_steps)), str(mean_interval(values))]
        cells += [f"{np.median(values):.4f}", ", ".join(f"{d:.4f}" for d in s.by_seed)]
        if s is first:
            cells += ["", "", ""]
        else:
            gap = paired_difference(reference, values)
            cells += [str(gap.interval), f"{gap.p:.3f}", f"{gap.n_better}, {gap.n_worse}"]
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        f"{len(reference)} cases, each the mean of {len(first.by_seed)} trainings. Intervals: bootstrap over cases; p: "
        "Wilcoxon's signed-rank test of the paired differences."
    )
    return "\n".join([*lines, "", note, ""])


def draw_comparison(settings: Sequence[Setting], path: Path, *, unit: str = "minutes") -> Path:
    """Draw the Dice of every case by setting, with medians and means (left), and the Dice over the training (right)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = np.array([[s.cases[c] for c in sorted(s.cases)] for s in settings])  # (setting, case)
    places = range(len(settings))
    width = 1.5 * len(settings) + 2
    figure, (left, right) = plt.subplots(1, 2, figsize=(width + 5, 4.5), width_ratios=[width, 5], layout="constrained")
    left.plot(places, values, color="0.8", linewidth=0.7, zorder=1)
    left.boxplot(values.T, positions=places, widths=0.4, showfliers=False, showmeans=True)
    left.set_xticks(places, [s.name for s in settings])
    left.set_ylabel("Dice of a validation case, mean over seeds")
    for n, s in enumerate(settings):
        for k, curve in enumerate(s.curves):
            right.plot(
                *zip(*curve, strict=True), color=f"C{n}", marker="o", markersize=3, label=s.name if k == 0 else None
            )
    right.set(xlabel=unit, ylabel="mean Dice of each training")
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
