"""Comparison of a scan with the training scans of a model. A mask of an unlike scan needs review, regardless of its score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.checks import copied_channels
from medhybrid.data.fingerprint import PERCENTILES, SeenRange, percentiles_of
from medhybrid.data.outliers import NEARLY_ALL, is_nearly_constant
from medhybrid.data.plan import Plan
from medhybrid.errors import SeriesError
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.scans import Scan
from medhybrid.scans.dicom.single_slice import NOTE as SINGLE_SLICE

MAX_SPACING_RATIO = 2.0
"""A spacing that is finer or coarser than that of every training scan by more than this factor is out of range."""

MAX_EXTENT_RATIO = 2.0
"""The same factor for the size of the scan in mm."""

MAX_RATIO_TO_PLAN = 4.0
"""Factor between a scan's spacing and the network's, for models without a record of their training scans."""

HU_MARGIN = 100.0
"""Tolerance of percentiles of CT values in Hounsfield units, besides half of the range of the training scans."""

ALWAYS = 0.95
"""A label is expected in every scan if at least this share of the training cases has it."""

MIN_CASES = 3
"""With fewer training cases, no label is expected."""


def reasons_to_review(scan: Scan, plan: Plan, seen: SeenRange | None, *, grid: Grid | None = None) -> tuple[str, ...]:
    """Return the reasons for which any mask of a scan needs review; empty if the scan is like the training scans.

    Parameters
    ----------
    seen : SeenRange, optional
        Spacing, size and intensities of the training scans; None for models of earlier versions.
    grid : Grid, optional
        Grid with the voxel size that the model takes the scan to have; by default, that of the scan.
    """
    intensities = [] if seen is None else _other_intensities(scan, plan, seen)
    channels = (*_constant_channels(scan, plan), *_copied_channels(scan, plan))
    return (*channels, *unlike_grid(grid or scan.grid, plan, seen), *intensities)


def refuse_single_slice(scan: Scan, plan: Plan) -> None:
    """Raise `SeriesError` for a DICOM series of one slice, which a model of volumes takes for an incomplete copy."""
    if scan.source.kind == "dicom" and SINGLE_SLICE in scan.notes and 1 not in plan.patch_size:
        raise SeriesError(
            f"{scan.case}: a single slice",
            code="single_slice",
            series=scan.case,
            expected="a volume, on which the model was trained",
            found="a DICOM series of one slice",
            remedy="use the complete series, or convert the slice to NIfTI to predict it anyway",
        )


def unlike_grid(grid: Grid, plan: Plan, seen: SeenRange | None) -> tuple[str, ...]:
    """Return a reason for the spacing and for the size of a scan if they are unlike those of the training scans."""
    turned = turn_to_ras(grid.affine).grid(grid)
    if seen is None:
        spacing = plan.spacing_mm
        return tuple(_out_of_range("spacing", turned.spacing_mm, spacing, spacing, MAX_RATIO_TO_PLAN))
    reasons = _out_of_range("spacing", turned.spacing_mm, *seen.spacing_mm, MAX_SPACING_RATIO)
    extent = [n * s for n, s in zip(turned.shape, turned.spacing_mm, strict=True)]
    return (*reasons, *_out_of_range("size", extent, *seen.extent_mm, MAX_EXTENT_RATIO))


def empty_labels(mask: NDArray[np.generic], plan: Plan, seen: SeenRange | None) -> tuple[str, ...]:
    """Return a reason for each label that (nearly) all training cases have and a mask (X, Y, Z) of class indices lacks."""
    if seen is None or seen.n_cases < MIN_CASES:
        return ()
    expected = {c: name for name, c in plan.structures.items() if seen.label_share.get(name, 0) >= ALWAYS}
    present = set(np.flatnonzero(np.bincount(mask.ravel().astype(np.int64), minlength=plan.n_labels + 1)))
    return tuple(
        f"{name} is empty, and {seen.label_share[name]:.0%} of the training cases have it"
        for classes, name in expected.items()
        if not present & set(classes)
    )


def _constant_channels(scan: Scan, plan: Plan) -> list[str]:
    """Return a reason for each required channel with (nearly) one value only; optional channels may be blank."""
    return [
        f"channel {rule.channel} is constant ({values.flat[0]} everywhere)"
        if values.min() == values.max()
        else f"channel {rule.channel} is nearly constant: one value in more than {NEARLY_ALL:.1%} of the voxels"
        for rule, values in zip(plan.normalisation, scan.array, strict=False)
        if not rule.optional and is_nearly_constant(values)
    ]


def _copied_channels(scan: Scan, plan: Plan) -> list[str]:
    """Return a reason for each pair of required channels with the same values; an optional copy is treated as missing."""
    rules = plan.normalisation
    return [
        f"channels {rules[a].channel} and {rules[b].channel} are the same image"
        for a, b in copied_channels(scan.array[: len(rules)])
        if not (rules[a].optional or rules[b].optional)
    ]


def _out_of_range(
    quantity: str, found: tuple[float, ...] | list[float], low: tuple[float, ...], high: tuple[float, ...], ratio: float
) -> list[str]:
    """Return a reason if a length (3,) in mm is outside the range of the training scans by more than a factor."""
    if all(a / ratio <= f <= b * ratio for f, a, b in zip(found, low, high, strict=True)):
        return []
    shown = " x ".join(f"{f:.3g}" for f in found)
    ranges = " x ".join(f"{a:.3g}" if a == b else f"{a:.3g} to {b:.3g}" for a, b in zip(low, high, strict=True))
    return [f"{quantity} {shown} mm is unlike the training scans' ({ranges})"]


def _other_intensities(scan: Scan, plan: Plan, seen: SeenRange) -> list[str]:
    """Return a reason for each CT channel whose percentiles are unlike those of the training scans.

    MR values have no unit and are not compared.
    """
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
