"""Checks that need the whole dataset: CT scans of another scale, labels that the component rule would always remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.data.checks import Finding
from medhybrid.data.fingerprint import CaseFingerprint
from medhybrid.data.plan import Plan
from medhybrid.data.store import PreparedCase

NO_AIR_HU = -200.0
"""A scan whose percentile 1 is above holds no air to speak of."""

HAS_AIR_HU = -500.0
"""Scans whose percentile 1 is below hold air."""

LEAST_SPAN_HU = 10.0
"""Tissue alone spans more between percentiles 1 and 99."""

BONE_HU = 900.0
"""Soft tissue reaches it in a scan whose values are HU + 1024, and only bone and metal in one in HU."""

FAT_HU = -50.0
"""Marrow and other fat of a crop of bone is below; in HU + 1024 nothing is."""

MEDIAN_HU = 600.0
"""No part of the body but the densest bone is half above; padding of low values does not hide a median."""

MAX_SPAN_RATIO = 5.0
"""Percentiles 1 and 99 of scans of one scale do not differ so much."""

MIN_OTHERS = 2
"""Scans that another is compared with."""


def ct_findings(cases: Mapping[str, CaseFingerprint], channels: Sequence[str]) -> list[Finding]:
    """Return a warning for each CT channel whose values cannot be Hounsfield units, or are far from those of the other cases.

    Parameters
    ----------
    channels : sequence of str
        Those of modality CT.
    """
    findings = []
    for channel in channels:
        ranges = {n: p for n, c in cases.items() if (p := c.percentiles.get(channel)) and p[0] < p[2]}
        for name, (low, median, high) in ranges.items():
            others = [(r[0], r[2]) for other, r in ranges.items() if other != name and not _unlike_hounsfield(*r)]
            if expected := _unlike_hounsfield(low, median, high) or _unlike_others(low, high, others):
                findings.append(
                    Finding(
                        code="ct_values",
                        severity="warning",
                        where=name,
                        message=f"channel {channel} may not be in Hounsfield units",
                        expected=expected,
                        found=f"values from {low:.4g} to {high:.4g} (percentiles 1 and 99), median {median:.4g}",
                        remedy="export it with its rescale slope and intercept, or give the channel the modality `other`",
                    )
                )
    return findings


def _unlike_hounsfield(low: float, median: float, high: float) -> str:
    """Say what was expected of values that cannot be Hounsfield units; empty if they can."""
    if high - low < LEAST_SPAN_HU:
        return f"values that span more than {LEAST_SPAN_HU:g} HU"
    if median > MEDIAN_HU or (low > FAT_HU and high > BONE_HU):
        return (
            f"a median below {MEDIAN_HU:g} HU, air near -1000 HU, or no values above {BONE_HU:g} HU "
            "(these look like HU + 1024)"
        )
    return ""


def _unlike_others(low: float, high: float, others: Sequence[tuple[float, float]]) -> str:
    """Say what the other cases have where this one is far from them; empty if it is not."""
    if len(others) < MIN_OTHERS:
        return ""
    their_low, their_high = np.median(others, axis=0)
    ratio = (high - low) / (their_high - their_low)
    has_no_air = low > NO_AIR_HU and their_low < HAS_AIR_HU
    if not has_no_air and 1 / MAX_SPAN_RATIO < ratio < MAX_SPAN_RATIO:
        return ""
    return f"values from {their_low:.4g} to {their_high:.4g}, as in the other cases"


def removed_label_findings(folder: Path, fingerprints: Mapping[str, CaseFingerprint], plan: Plan) -> list[Finding]:
    """Return a warning for each label of which no component in a reference mask is kept by `prepare.min_component_ml`.

    Parameters
    ----------
    folder : Path
        That of the prepared cases.
    fingerprints : mapping
        Of these cases, by name.
    """
    if plan.min_component_ml <= 0:
        return []
    findings = []
    for value, label in enumerate(plan.labels, start=1):
        volumes = {n: f.foreground_ml.get(label, 0.0) for n, f in fingerprints.items()}
        largest = 0.0
        for name in sorted((n for n, v in volumes.items() if v > 0), key=lambda n: -volumes[n]):
            if largest >= plan.min_component_ml or volumes[name] <= largest:
                break
            largest = max(largest, _largest_component_ml(PreparedCase(folder / name), value))
        if 0 < largest < plan.min_component_ml:
            findings.append(
                Finding(
                    code="label_removed",
                    severity="warning",
                    where=label,
                    message=f"every component of {label} would be removed from predicted masks",
                    expected=f"components of at least prepare.min_component_ml={plan.min_component_ml:g}",
                    found=f"{largest:.4g} ml, the largest one in the reference masks",
                    remedy=f"set prepare.min_component_ml below {largest:.4g}",
                )
            )
    return findings


def _largest_component_ml(case: PreparedCase, value: int) -> float:
    components, n = ndimage.label(case.source_mask() == value, np.ones((3, 3, 3), bool))
    sizes: NDArray[np.int64] = np.bincount(components.ravel(), minlength=n + 1)[1:]
    return float(sizes.max(initial=0)) * case.source_grid.voxel_ml
