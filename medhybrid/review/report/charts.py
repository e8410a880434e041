"""Distributions over cases as SVG: each case is a point with a link to it, and outliers are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 640, 118
LEFT, RIGHT, MIDDLE, RADIUS = 24, 24, 58, 4.0
WHISKER = 1.5
"""A point is an outlier if it is farther than this many interquartile ranges beyond the quartiles (Tukey 1977)."""

MAX_NAMED = 6


@dataclass(frozen=True, slots=True)
class Point:
    """Value of a case, with the link to the case."""

    case: str
    value: float
    href: str


def strip(title: str, points: Sequence[Point], *, is_log: bool = False, is_high_good: bool = False) -> str:
    """Draw points over a box plot, side by side where they would overlap. On a log scale, values of 0 are left of the axis.

    Parameters
    ----------
    title : str
        Name of the values, with their unit.
    is_log : bool
        Use a logarithmic scale, also to find outliers.
    is_high_good : bool
        Only low values are outliers.
    """
    if not points:
        return ""
    positive = np.array([p.value for p in points if p.value > 0 or not is_log])
    scaled = np.log10(positive) if is_log else positive
    low, high = (float(scaled.min()), float(scaled.max())) if len(scaled) else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    left = LEFT + (46 if is_log and len(positive) < len(points) else 0)

    def x(value: float) -> float:
        if is_log and value <= 0:
            return LEFT + 8
        place = np.log10(value) if is_log else value
        return float(left + (WIDTH - left - RIGHT) * (place - low) / (high - low))

    parts = [f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(title)}">']
    parts.append(f'<text x="{LEFT}" y="13" class="title">{escape(title)}</text>')
    limits = (-np.inf, np.inf)
    if len(positive) > 3:
        q1, q2, q3 = (float(v) for v in np.percentile(scaled, [25, 50, 75]))
        limits = (q1 - WHISKER * (q3 - q1), np.inf if is_high_good else q3 + WHISKER * (q3 - q1))
        a, m, b = (x(10**v if is_log else v) for v in (q1, q2, q3))
        top, tall = MIDDLE - 22, 44
        parts.append(f'<rect class="box" x="{a:.1f}" y="{top}" width="{max(b - a, 1):.1f}" height="{tall}"/>')
        parts.append(f'<line class="median" x1="{m:.1f}" x2="{m:.1f}" y1="{top}" y2="{top + tall}"/>')
    parts.append(f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="92" y2="92"/>')
    for value in _ticks(low, high, is_log):
        parts.append(f'<line class="axis" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="92" y2="97"/>')
        parts.append(f'<text x="{x(value):.1f}" y="110" text-anchor="middle">{figure(value)}</text>')
    if left > LEFT:
        parts.append(f'<text x="{LEFT + 8}" y="110" text-anchor="middle">0</text>')
    placed: list[tuple[float, float]] = []
    n_named = 0
    for p in sorted(points, key=lambda p: p.value):
        px = x(p.value)
        py = _free_row(px, placed)
        placed.append((px, py))
        place = np.log10(p.value) if is_log and p.value > 0 else p.value
        is_out = not (limits[0] <= place <= limits[1]) and not (is_log and p.value <= 0)
        parts.append(
            f'<a href="{escape(p.href)}"><circle class="{"outlier" if is_out else "point"}" cx="{px:.1f}" '
            f'cy="{py:.1f}" r="{RADIUS}"/><title>{escape(p.case)}: {figure(p.value)}</title></a>'
        )
        if is_out and n_named < MAX_NAMED:
            n_named += 1
            anchor = "end" if px > WIDTH * 0.7 else "start" if px < WIDTH * 0.3 else "middle"
            parts.append(f'<text class="name" x="{px:.1f}" y="{28 + 9 * (n_named % 2)}" text-anchor="{anchor}">')
            parts.append(f"{escape(p.case)}</text>")
    parts.append("</svg>")
    return "".join(parts)


def paired(first: str, second: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """Draw a line for each case from its Dice in the first run to that in the second; losses are in another colour."""
    low = min(min(a, b) for _, a, b in rows)
    high = max(max(a, b) for _, a, b in rows)
    high = high if high > low else low + 1e-3
    width, height, top, left = 640, 300, 26, 60

    def y(value: float) -> float:
        return top + (height - top - 24) * (high - value) / (high - low)

    parts = [
        f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="Dice of each case in both runs">'
    ]
    for value in _ticks(low, high, False):
        parts.append(f'<line class="axis" x1="{left - 6}" x2="{left}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{left - 9}" y="{y(value) + 4:.1f}" text-anchor="end">{figure(value)}</text>')
    for case, a, b in rows:
        kind = "down" if b < a else "up"
        parts.append(f'<line class="{kind}" x1="{left + 20}" x2="{width - 40}" y1="{y(a):.1f}" y2="{y(b):.1f}">')
        parts.append(f"<title>{escape(case)}: {figure(a)} to {figure(b)}</title></line>")
    parts.append(f'<text class="title" x="{left + 20}" y="16">{escape(first)}</text>')
    parts.append(f'<text class="title" x="{width - 40}" y="16" text-anchor="end">{escape(second)}</text></svg>')
    return "".join(parts)


def figure(value: float) -> str:
    """Format a number with three significant digits and without an exponent."""
    if abs(value) >= 999.5:
        return f"{value:.0f}"
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def _free_row(px: float, placed: Sequence[tuple[float, float]]) -> float:
    """Return the height nearest to the middle at which a point overlaps no other; the middle if every height is taken."""
    near = [(x, y) for x, y in placed[-60:] if abs(x - px) < 2 * RADIUS]
    for k in range(9):
        for sign in (1, -1) if k else (1,):
            row = MIDDLE + sign * k * RADIUS
            if abs(row - MIDDLE) <= 28 and all((x - px) ** 2 + (y - row) ** 2 >= (2 * RADIUS) ** 2 for x, y in near):
                return row
    return MIDDLE


def _ticks(low: float, high: float, is_log: bool) -> list[float]:
    if is_log:
        whole = [10.0**e for e in range(int(np.ceil(low)), int(np.floor(high)) + 1)]
        return whole if len(whole) > 1 else [float(f"{10**v:.3g}") for v in np.linspace(low, high, 4)]
    step = 10 ** np.floor(np.log10(high - low))
    step = next(step * f for f in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (step * f) <= 7)
    return [float(v) for v in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]
