"""Loss of label volume on the network's grid, for labels thinner than its voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medhybrid.data.checks import Finding
from medhybrid.data.fingerprint import MIN_KNOWN, UNKNOWN
from medhybrid.data.plan import Plan
from medhybrid.data.prepare import PreparedImage
from medhybrid.data.store import CaseRecord

MIN_KEPT = 0.5
"""Smallest share of its volume that a label must keep on the grid; a smaller one is reported."""


def measure_on_grid(
    mask: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    prepared: PreparedImage,
    plan: Plan,
    structures: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Measure the label volumes on the network's grid: the fields `grid_ml` and `thinnest_mm` of a case record.

    Scribbles have no measures: their thickness is not that of the structures.

    Parameters
    ----------
    mask : (X, Y, Z) ndarray
        Reference mask on the scan's grid, with values 1..n.
    labels : (X', Y', Z') ndarray
        The same mask on the network's grid.
    structures : mapping
        Labels or regions that the reference has, with their classes.
    """
    if np.count_nonzero(mask == UNKNOWN) > mask.size * (1 - MIN_KNOWN):
        return {}
    grid_ml, thinnest = {}, {}
    turned = prepared.turn.apply(mask)
    spacing = np.array(prepared.turned.spacing_mm)
    before, after = (np.bincount(values.ravel(), minlength=plan.n_labels + 1) for values in (mask, labels))
    for name, classes in structures.items():
        n_before, n_after = (int(counts[list(classes)].sum()) for counts in (before, after))
        grid_ml[name] = n_after * prepared.grid.voxel_ml
        if n_before * prepared.turned.voxel_ml * MIN_KEPT > grid_ml[name]:
            extents = _smallest_extents(np.isin(turned, classes)) * spacing
            thinnest[name] = tuple(round(float(e), 4) for e in extents)
    return {"grid_ml": grid_ml, "thinnest_mm": thinnest}


def _smallest_extents(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the smallest extent (3,) of all components along each axis, in voxels."""
    components, n = ndimage.label(inside)
    boxes = ndimage.find_objects(components, n)
    extents: NDArray[np.int64] = np.array([[s.stop - s.start for s in box] for box in boxes], np.int64)
    return np.asarray(extents.min(axis=0))


def grid_findings(record: CaseRecord, plan: Plan) -> list[Finding]:
    """Return a warning for each label of a case that loses most of its volume on the network's grid."""
    findings = []
    for name, before in record.reference_ml.items():
        after = record.grid_ml.get(name)
        if after is None or not before or after >= MIN_KEPT * before:
            continue
        # half of the extent: for any position of the grid, a voxel is then completely inside
        thinnest = record.thinnest_mm.get(name, plan.spacing_mm)
        keeps = [min(a, b / 2) for a, b in zip(plan.spacing_mm, thinnest, strict=True)]
        if after:  # round structures lose more than their extent shows
            keeps = [min(k, s / 2) for k, s in zip(keeps, plan.spacing_mm, strict=True)]
        verb, effect = ("shrinks", "keeps more of it") if after else ("vanishes", "keeps it")
        findings.append(
            Finding(
                code=f"label_{verb}",
                severity="warning",
                where=record.case,
                message=f"{name} {verb} on the network's grid",
                expected=f"{before:.4g} ml, as in the mask",
                found=f"{after:.4g} ml at {' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm",
                remedy=f"prepare.spacing_mm=[{','.join(f'{k:g}' for k in keeps)}] {effect}",
            )
        )
    return findings
