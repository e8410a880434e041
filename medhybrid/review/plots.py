"""Plots of a validation and of several trainings, for the MLflow run and the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.metrics import Reliability

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Palette of Okabe and Ito, which is readable with colour vision deficiency."""

LIMITS_SD = 1.96
SMALLEST_ML = 1e-3
"""Volume at which an absent label is drawn on a logarithmic scale."""

Curve = Sequence[tuple[float, float]]
"""Minutes or steps, and mean Dice."""


@dataclass(frozen=True, slots=True)
class CaseRow:
    """Validation result of one case: Dice, and volumes in ml, by label. Labels that the reference does not have are absent."""

    case: str
    mean_dice: float
    dice: Mapping[str, float]
    reference_ml: Mapping[str, float]
    predicted_ml: Mapping[str, float]


def _labels_of(rows: Sequence[CaseRow]) -> list[str]:
    return list(dict.fromkeys(n for row in rows for n in row.dice))


def dice_by_case(path: Path, rows: Sequence[CaseRow]) -> Path:
    """Draw the Dice of all cases as points over a box plot, for the mean and each label.

    The three cases with the lowest mean Dice are named.
    """
    columns = {"mean": [r.mean_dice for r in rows]}
    columns |= {n: [r.dice[n] for r in rows if n in r.dice] for n in _labels_of(rows)}
    with _axes(path, (2.2 + 1.3 * len(columns), 4)) as axes:
        axes.boxplot(list(columns.values()), widths=0.5, showfliers=False, medianprops={"color": "black"})
        for n, values in enumerate(columns.values()):
            spread = np.random.default_rng(0).uniform(-0.17, 0.17, len(values))
            axes.scatter(n + 1 + spread, values, s=16, color=COLOURS[n % len(COLOURS)], alpha=0.75, zorder=3)
            if n == 0:
                for i in np.argsort(values, kind="stable")[:3]:
                    axes.annotate(
                        rows[i].case, (1 + spread[i], values[i]), fontsize=7, textcoords="offset points", xytext=(5, -3)
                    )
        axes.set_xticks(range(1, len(columns) + 1), list(columns))
        axes.set(ylabel="Dice of a validation case", ylim=(min(0.0, *map(min, columns.values())), 1.02))
    return path


def volumes(path: Path, rows: Sequence[CaseRow]) -> Path:
    """Draw a Bland-Altman plot of predicted and reference volumes, with bias and limits of agreement.

    References
    ----------
    Bland and Altman (1986), The Lancet 327(8476), doi:10.1016/S0140-6736(86)90837-8.
    """
    labels = _labels_of(rows)
    with _axes(path, (4.3 * len(labels), 3.8), n=len(labels)) as grid:
        for axes, name, colour in zip(grid, labels, COLOURS * len(labels), strict=False):
            reference = np.array([r.reference_ml[name] for r in rows if name in r.dice])
            predicted = np.array([r.predicted_ml[name] for r in rows if name in r.dice])
            gap = predicted - reference
            axes.scatter((predicted + reference) / 2, gap, s=16, color=colour)
            bias, spread = float(gap.mean()), LIMITS_SD * float(gap.std(ddof=1)) if len(gap) > 1 else 0.0
            for value, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
                axes.axhline(value, color="0.4", linestyle=style, linewidth=1)
            axes.set(xlabel="mean of both, ml", ylabel="prediction - reference, ml")
            axes.set_title(
                f"{name}: bias {bias:+.3g} ml, limits {bias - spread:+.3g} to {bias + spread:+.3g}", fontsize=9
            )
    return path


def dice_over_size(path: Path, rows: Sequence[CaseRow]) -> Path:
    """Draw the Dice of each label over its reference volume, which shows whether small regions fail."""
    with _axes(path, (5.6, 3.8)) as axes:
        labels = _labels_of(rows)
        for name, colour in zip(labels, COLOURS * len(labels), strict=False):
            with_label = [r for r in rows if name in r.dice]
            sizes = [max(r.reference_ml[name], SMALLEST_ML) for r in with_label]
            axes.scatter(sizes, [r.dice[name] for r in with_label], s=18, color=colour, label=name, alpha=0.8)
        axes.set(xscale="log", xlabel="reference, ml", ylabel="Dice", ylim=(-0.02, 1.02))
        axes.legend(frameon=False, fontsize=8)
    return path


def reliability(path: Path, before: Reliability, after: Reliability) -> Path:
    """Draw a reliability diagram near the labels: accuracy over confidence, before and after temperature scaling."""
    with _axes(path, (4.6, 4.2)) as axes:
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for bins, name, colour in ((before, "uncalibrated", COLOURS[1]), (after, "calibrated", COLOURS[0])):
            axes.plot(
                bins.confidence,
                bins.accuracy,
                marker="o",
                markersize=4,
                color=colour,
                label=f"{name}, error {bins.error:.3f}",
            )
        low = min(0.5, *(float(b.confidence.min()) for b in (before, after)))
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.01), ylim=(low, 1.01), aspect="equal")
        axes.legend(frameon=False, fontsize=8)
    return path


def learning_curves(path: Path, curves: Mapping[str, Curve], *, unit: str) -> Path:
    """Draw the mean validation Dice over the training: a line for each training, their mean and their range.

    All validations but the last use a part of the cases only.
    """
    ends = [c[-1][0] for c in curves.values() if c]
    with _axes(path, (6, 4)) as axes:
        for name, curve in curves.items():
            axes.plot(*zip(*curve, strict=True), linewidth=1, marker="o", markersize=3, label=name, alpha=0.8)
        if len(curves) > 1 and all(curves.values()):
            places = np.linspace(0, min(ends), 60)
            places = places[places >= max(c[0][0] for c in curves.values())]
            lines = np.array([np.interp(places, *_columns(c)) for c in curves.values()])
            axes.fill_between(places, lines.min(0), lines.max(0), color="0.5", alpha=0.2, linewidth=0)
            axes.plot(places, lines.mean(0), color="black", linewidth=2, label="mean")
        axes.set(xlabel=unit, ylabel="mean Dice of validation cases")
        axes.legend(frameon=False, fontsize=8)
    return path


def _columns(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.array(curve, float).T
    return x, y


@contextmanager
def _axes(path: Path, size: tuple[float, float], *, n: int = 0) -> Iterator[Any]:
    """Yield axes (with `n`, a row of them), and write their figure at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    made: Any = figure.subplots(1, n, squeeze=False)[0] if n else figure.subplots()
    for axes in made if n else [made]:
        axes.spines[["top", "right"]].set_visible(False)
    yield made
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
