"""Whether a scan is like those a model was trained on. A mask of a scan that is not needs review, whatever its score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.checks import copied_channels
from medhybrid.data.fingerprint import PERCENTILES, SeenRange, percentiles_of
from medhybrid.data.outliers import NEARLY_ALL, is_nearly_constant
from medhybrid.data.plan import Plan
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.scans import Scan

MAX_SPACING_RATIO = 2.0
"""A spacing that is more often finer or coarser than every training scan's is out of range."""

MAX_EXTENT_RATIO = 2.0
"""The same for the extent of the scan."""

MAX_RATIO_TO_PLAN = 4.0
"""For models without a record of their training scans: to the spacing of the network's grid."""

HU_MARGIN = 100.0
"""Least tolerance of percentiles of CT values, in Hounsfield units; half of the range that training scans have is added."""

ALWAYS = 0.95
"""A label that this share of the training cases has is expected in every scan."""

MIN_CASES = 3
"""Of fewer training cases nothing is expected."""


def reasons_to_review(scan: Scan, plan: Plan, seen: SeenRange | None) -> tuple[str, ...]:
    """Return why a mask of a scan needs review, from the scan alone; empty if it is like the training scans.

    Parameters
    ----------
    seen : SeenRange, optional
        What the training scans were like; None for models of earlier versions.
    """
    intensities = [] if seen is None else _other_intensities(scan, plan, seen)
    channels = (*_constant_channels(scan, plan), *_copied_channels(scan, plan))
    return (*channels, *unlike_grid(scan.grid, plan, seen), *intensities)


def unlike_grid(grid: Grid, plan: Plan, seen: SeenRange | None) -> tuple[str, ...]:
    """Return why the spacing and size of a scan are unlike those of the training scans."""
    turned = turn_to_ras(grid.affine).grid(grid)
    if seen is None:
        spacing = plan.spacing_mm
        return tuple(_out_of_range("spacing", turned.spacing_mm, spacing, spacing, MAX_RATIO_TO_PLAN))
    reasons = _out_of_range("spacing", turned.spacing_mm, *seen.spacing_mm, MAX_SPACING_RATIO)
    extent = [n * s for n, s in zip(turned.shape, turned.spacing_mm, strict=True)]
    return (*reasons, *_out_of_range("size", extent, *seen.extent_mm, MAX_EXTENT_RATIO))


def empty_labels(mask: NDArray[np.generic], plan: Plan, seen: SeenRange | None) -> tuple[str, ...]:
    """Return a reason for each label that (nearly) all training cases have and a mask (X, Y, Z) of inside values lacks."""
    if seen is None or seen.n_cases < MIN_CASES:
        return ()
    expected = {
        value: name for value, name in enumerate(plan.labels, start=1) if seen.label_share.get(name, 0) >= ALWAYS
    }
    present = set(np.flatnonzero(np.bincount(mask.ravel().astype(np.int64), minlength=plan.n_labels + 1)))
    return tuple(
        f"{name} is empty, and {seen.label_share[name]:.0%} of the training cases have it"
        for value, name in expected.items()
        if value not in present
    )


def _constant_channels(scan: Scan, plan: Plan) -> list[str]:
    """Return a reason for each channel that holds one value only; optional ones may be blank."""
    return [
        f"channel {rule.channel} is constant ({values.flat[0]} everywhere)"
        if values.min() == values.max()
        else f"channel {rule.channel} is nearly constant: one value in more than {NEARLY_ALL:.1%} of the voxels"
        for rule, values in zip(plan.normalisation, scan.array, strict=False)
        if not rule.optional and is_nearly_constant(values)
    ]


def _copied_channels(scan: Scan, plan: Plan) -> list[str]:
    """Return a reason for each two channels that are one image; optional ones are treated as missing then."""
    rules = plan.normalisation
    return [
        f"channels {rules[a].channel} and {rules[b].channel} are the same image"
        for a, b in copied_channels(scan.array[: len(rules)])
        if not (rules[a].optional or rules[b].optional)
    ]


def _out_of_range(
    quantity: str, found: tuple[float, ...] | list[float], low: tuple[float, ...], high: tuple[float, ...], ratio: float
) -> list[str]:
    """Return a reason if a length (3,) in mm is beyond the range of the training scans by more than a ratio."""
    if all(a / ratio <= f <= b * ratio for f, a, b in zip(found, low, high, strict=True)):
        return []
    shown = " x ".join(f"{f:.3g}" for f in found)
    ranges = " x ".join(f"{a:.3g}" if a == b else f"{a:.3g} to {b:.3g}" for a, b in zip(low, high, strict=True))
    return [f"{quantity} {shown} mm is unlike the training scans' ({ranges})"]


def _other_intensities(scan: Scan, plan: Plan, seen: SeenRange) -> list[str]:
    """Return a reason for each channel of comparable values (CT) whose percentiles are unlike the training scans'."""
    reasons = []
    for rule, values in zip(plan.normalisation, scan.array, strict=False):
        if rule.rule != "clip_and_scale" or rule.channel not in seen.percentiles:
            continue
        for name, found, (low, high) in zip(
            PERCENTILES, percentiles_of(values), seen.percentiles[rule.channel], strict=True
        ):
            margin = HU_MARGIN + (high - low) / 2
            if not low - margin <= found <= high + margin:
                seen_range = f"{low:.4g} to {high:.4g}"
                reasons.append(
                    f"percentile {name:g} of {rule.channel} is {found:.4g}, unlike the training scans' ({seen_range})"
                )
                break
    return reasons
