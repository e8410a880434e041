"""Comparison of several runs on the same cases: a table with intervals, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medhybrid.metrics import Difference, Interval, mean_interval, paired_difference


@dataclass(frozen=True, slots=True)
class RunScores:
    """Scores of one run on the cases that all runs have.

    Attributes
    ----------
    dice : tuple of float
        Mean Dice of each case, in the same order for all runs.
    difference : Difference, optional
        Difference in Dice (run - first run), paired by case; None for the first run.
    p : float, optional
        p-value of the difference, corrected for the number of comparisons by Holm's method.
    """

    name: str
    dice: tuple[float, ...]
    mean: Interval
    median: float
    difference: Difference | None = None
    p: float | None = None


def score_runs(names: Sequence[str], dice: Sequence[Sequence[float]]) -> tuple[RunScores, ...]:
    """Compute means with intervals, and the differences to the first run.

    Parameters
    ----------
    dice : sequence of sequence of float
        For each run, the Dice of each case.

    References
    ----------
    Holm (1979), Scandinavian Journal of Statistics 6(2), 65-70.
    """
    differences = [paired_difference(values, dice[0]) for values in dice[1:]]
    corrected = holm([d.p for d in differences])
    return tuple(
        RunScores(
            name,
            tuple(values),
            mean_interval(values),
            float(np.median(values)),
            differences[i - 1] if i else None,
            corrected[i - 1] if i else None,
        )
        for i, (name, values) in enumerate(zip(names, dice, strict=True))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of comparisons by Holm's step-down method."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = largest
    return corrected


def rows_of_runs(runs: Sequence[RunScores]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table of the runs."""
    columns = ["run", "mean Dice (95 % CI)", "median", f"difference to {runs[0].name} (95 % CI)", "p", "better, worse"]
    rows = []
    for run in runs:
        d = run.difference
        compared = ["", "", ""] if d is None else [str(d.interval), f"{run.p:.3f}", f"{d.n_better}, {d.n_worse}"]
        rows.append([run.name, str(run.mean), f"{run.median:.4f}", *compared])
    return columns, rows


def markdown_of_runs(runs: Sequence[RunScores]) -> str:
    """Return the table in Markdown, with a line on the methods."""
    columns, rows = rows_of_runs(runs)
    lines = [columns, ["---"] * len(columns), *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    note = (
        f"{len(runs[0].dice)} cases. Intervals: bootstrap over cases. p: Wilcoxon's signed-rank test of the differences, "
        f"corrected by Holm's method for {len(runs) - 1} comparisons."
    )
    return f"{text}\n\n{note}\n"


def draw_runs(path: Path, runs: Sequence[RunScores]) -> Path:
    """Draw the Dice of all cases with the mean of each run (left), and the differences to the first run (right)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    places = np.arange(len(runs))[::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 1.6 + 0.5 * len(runs)), sharey=True, layout="constrained", width_ratios=[3, 2]
    )
    for place, run in zip(places, runs, strict=True):
        spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(run.dice))
        left.scatter(run.dice, place + spread, s=9, color="0.7", zorder=1)
        _draw_interval(left, run.mean, place, "#0072B2")
        if run.difference is not None:
            _draw_interval(right, run.difference.interval, place, "#D55E00")
    right.axvline(0, color="0.6", linewidth=0.8)
    left.set_yticks(places, [run.name for run in runs])
    left.set(xlabel="Dice of each case, with mean and 95 % interval")
    right.set(xlabel=f"difference to {runs[0].name}, with 95 % interval")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path


def _draw_interval(axes: object, interval: Interval, place: float, colour: str) -> None:
    axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2, zorder=3)  # type: ignore[attr-defined]
    axes.plot([interval.mean], [place], "o", color=colour, markersize=6, zorder=4)  # type: ignore[attr-defined]
