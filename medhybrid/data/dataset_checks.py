"""Checks that need the whole dataset: CT scans with another intensity scale, labels that are absent or would be removed."""

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
"""A CT scan with its 1st percentile above this value contains almost no air."""

HAS_AIR_HU = -500.0
"""A CT scan with its 1st percentile below this value contains air."""

LEAST_SPAN_HU = 10.0
"""Smallest plausible difference between the 99th and the 1st percentile: even soft tissue alone exceeds it."""

BONE_HU = 900.0
"""Values above are bone or metal in HU; in a scan with values of HU + 1024, soft tissue exceeds it, too."""

FAT_HU = -50.0
"""Fat is below this value, also in a crop around bone; in a scan with values of HU + 1024, no tissue is."""

MEDIAN_HU = 600.0
"""Highest plausible median: only the densest bone exceeds it, and low padding does not raise a median."""

MAX_SPAN_RATIO = 5.0
"""Highest plausible ratio between a scan's range (percentiles 1 to 99) and the median range of the other scans."""

MIN_OTHERS = 2
"""Smallest number of other scans for a comparison."""


def ct_findings(cases: Mapping[str, CaseFingerprint], channels: Sequence[str]) -> list[Finding]:
    """Return a warning for each CT scan with implausible Hounsfield units, or with a range far from that of the others.

    Parameters
    ----------
    cases : mapping
        Case name to fingerprint.
    channels : sequence of str
        Channels of modality CT.
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
                        message=f"channel {channel} may have values other than Hounsfield units",
                        expected=expected,
                        found=f"values from {low:.4g} to {high:.4g} (percentiles 1 and 99), median {median:.4g}",
                        remedy="export it with its rescale slope and intercept, or set the channel's modality to `other`",
                    )
                )
    return findings


def _unlike_hounsfield(low: float, median: float, high: float) -> str:
    """Return the expectation that the values violate as Hounsfield units; empty if they are plausible."""
    if high - low < LEAST_SPAN_HU:
        return f"a range of more than {LEAST_SPAN_HU:g} HU"
    if median > MEDIAN_HU or (low > FAT_HU and high > BONE_HU):
        return (
            f"a median below {MEDIAN_HU:g} HU, air near -1000 HU, or no values above {BONE_HU:g} HU "
            "(these look like HU + 1024)"
        )
    return ""


def _unlike_others(low: float, high: float, others: Sequence[tuple[float, float]]) -> str:
    """Return the range of the other cases if this one is far from it; empty otherwise."""
    if len(others) < MIN_OTHERS:
        return ""
    their_low, their_high = np.median(others, axis=0)
    ratio = (high - low) / (their_high - their_low)
    has_no_air = low > NO_AIR_HU and their_low < HAS_AIR_HU
    if not has_no_air and 1 / MAX_SPAN_RATIO < ratio < MAX_SPAN_RATIO:
        return ""
    return f"values from {their_low:.4g} to {their_high:.4g}, as in the other cases"


def removed_label_findings(folder: Path, fingerprints: Mapping[str, CaseFingerprint], plan: Plan) -> list[Finding]:
    """Return a warning for each label that no reference has, or whose components are all below `prepare.min_component_ml`.

    Parameters
    ----------
    folder : Path
        Folder of the prepared cases.
    fingerprints : mapping
        Case name to fingerprint.
    """
    findings = _absent_labels(fingerprints, plan)
    if plan.min_component_ml <= 0:
        return findings
    for label, classes in plan.structures.items():
        volumes = {n: f.foreground_ml.get(label, 0.0) for n, f in fingerprints.items()}
        largest = 0.0
        for name in sorted((n for n, v in volumes.items() if v > 0), key=lambda n: -volumes[n]):
            if largest >= plan.min_component_ml or volumes[name] <= largest:
                break
            largest = max(largest, _largest_component_ml(PreparedCase(folder / name), classes))
        if 0 < largest < plan.min_component_ml:
            findings.append(
                Finding(
                    code="label_removed",
                    severity="warning",
                    where=label,
                    message=f"every component of {label} would be removed from predicted masks",
                    expected=f"components of at least {plan.min_component_ml:g} ml (prepare.min_component_ml)",
                    found=f"{largest:.4g} ml for the largest one in the reference masks",
                    remedy=f"set prepare.min_component_ml below {largest:.4g}",
                )
            )
    return findings


def _absent_labels(fingerprints: Mapping[str, CaseFingerprint], plan: Plan) -> list[Finding]:
    """Return a warning for each label without voxels, if other labels have some: it would be trained as background."""
    present = {label for f in fingerprints.values() for label, ml in f.foreground_ml.items() if ml > 0}
    return [
        Finding(
            code="label_absent",
            severity="warning",
            where=label,
            message=f"no case has the label {label}: a model cannot learn it",
            expected="a reference mask or segment with each label of data.labels",
            found=f"{', '.join(sorted(present))} in {len(fingerprints)} cases",
            remedy="correct its value in data.labels, give the name of its segments in data.segments, or remove the label",
        )
        for label in plan.structures
        if present and label not in present
    ]


def _largest_component_ml(case: PreparedCase, classes: Sequence[int]) -> float:
    components, n = ndimage.label(np.isin(case.source_mask(), classes), np.ones((3, 3, 3), bool))
    sizes: NDArray[np.int64] = np.bincount(components.ravel(), minlength=n + 1)[1:]
    return float(sizes.max(initial=0)) * case.source_grid.voxel_ml
