"""Fingerprint of a dataset: the statistics that the plan's rules use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from medhybrid.data.even_sample import sample_step

SAMPLES_PER_CASE = 2_000
"""Approximate number of foreground intensities that are kept for each case and channel."""


PERCENTILES = (1.0, 50.0, 99.0)
"""Percentiles over a whole scan that are kept."""

SAMPLED_VOXELS = 100_000

UNKNOWN = 255
"""Value of voxels whose label is unknown."""

MIN_KNOWN = 0.5
"""Share of the voxels with known label without which a mask counts as scribbles: its labels are parts of structures."""


LARGE = 95.0
"""Percentile of the extent of single structures that a patch should cover with a margin: half of the cases have larger ones
than the median. Higher ones would follow a single mask with an error."""

MAX_COMPONENT_VOXELS = 2_000_000
"""Voxels on which connected structures are measured; larger label maps are sampled evenly."""


class Intensities(BaseModel):
    """Statistics of a channel's intensities inside the reference masks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    deviation: float
    low: float
    high: float


class CaseFingerprint(BaseModel):
    """Size and intensities of one case, in RAS order.

    Attributes
    ----------
    foreground_ml : dict
        Volume of each label or region that the reference has.
    labels_mm : (3,) tuple, optional
        Extent of all labels together; None without labels, or if the reference does not have all.
    thickness_mm : dict
        For each label or region of the case, its mean thickness along each axis: volume divided by the mean area of its two
        sides.
    structure_mm : (3,) tuple, optional
        Extent along each axis of the largest connected part of a label or region; None without labels, and for scribbles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    foreground_ml: dict[str, float]
    samples: dict[str, list[float]]
    percentiles: dict[str, tuple[float, float, float]] = {}
    labels_mm: tuple[float, float, float] | None = None
    thickness_mm: dict[str, tuple[float, float, float]] = {}
    structure_mm: tuple[float, float, float] | None = None


class SeenRange(BaseModel):
    """Range of the scans that a model was trained on.

    Attributes
    ----------
    spacing_mm, extent_mm : pair of (3,) tuple
        Lowest and highest values along each axis, in RAS order.
    percentiles : dict
        For each channel, the lowest and highest value of each of `PERCENTILES` over the scans.
    label_share : dict
        For each label, the share of training cases in which it is present.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    n_cases: int
    spacing_mm: tuple[tuple[float, float, float], tuple[float, float, float]]
    extent_mm: tuple[tuple[float, float, float], tuple[float, float, float]]
    percentiles: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {}
    label_share: dict[str, float] = {}


def join_seen(ranges: Sequence[SeenRange | None]) -> SeenRange | None:
    """Return the joint range of the scans of several models; None if the range of all models is unknown."""
    known = [r for r in ranges if r is not None]
    if len(known) < 2:
        return known[0] if known else None

    def span(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[float], list[float]]:
        return np.min([p[0] for p in pairs], axis=0).tolist(), np.max([p[1] for p in pairs], axis=0).tolist()

    channels = set.intersection(*(set(r.percentiles) for r in known))
    labels = set.intersection(*(set(r.label_share) for r in known))
    return SeenRange.model_validate(
        {
            "n_cases": max(r.n_cases for r in known),
            "spacing_mm": span([r.spacing_mm for r in known]),
            "extent_mm": span([r.extent_mm for r in known]),
            "percentiles": {
                c: [span([r.percentiles[c][i] for r in known]) for i in range(len(PERCENTILES))]
                for c in sorted(channels)
            },
            "label_share": {n: min(r.label_share[n] for r in known) for n in sorted(labels)},
        }
    )


class Fingerprint(BaseModel):
    """Size and intensities of a dataset.

    Attributes
    ----------
    median_labels_mm : (3,) tuple, optional
        Median extent of all labels together.
    large_labels_mm : (3,) tuple, optional
        Percentile `LARGE` of the extent of the largest structure of a case, for the field of view of a patch.
    thickness_mm : dict
        For each label, the median of its thickness in the cases that have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_cases: int
    median_spacing_mm: tuple[float, float, float]
    median_extent_mm: tuple[float, float, float]
    median_foreground_ml: dict[str, float]
    intensities: dict[str, Intensities]
    seen: SeenRange | None = None
    median_labels_mm: tuple[float, float, float] | None = None
    large_labels_mm: tuple[float, float, float] | None = None
    thickness_mm: dict[str, tuple[float, float, float]] = {}


def fingerprint_case(
    image: NDArray[np.generic],
    labels: NDArray[np.generic],
    spacing_mm: tuple[float, float, float],
    voxel_ml: float,
    channels: Sequence[str],
    names: Sequence[str],
    *,
    regions: Mapping[str, Sequence[int]] | None = None,
    missing: Collection[str] = (),
) -> CaseFingerprint:
    """Measure one case.

    Parameters
    ----------
    image : (C, X, Y, Z) ndarray
    labels : (X, Y, Z) ndarray
        Label map with values 1..n, in the order of `names`, and `UNKNOWN`.
    spacing_mm : tuple of float
    voxel_ml : float
    channels, names : sequence of str
        Names of the channels and of the labels.
    regions : mapping, optional
        Regions with the values of all their voxels. With regions, these are measured in place of the labels.
    missing : collection of str
        Labels or regions that the reference of a partly labelled case does not have. They are not measured, nor is the extent
        of all.
    """
    is_known = labels != UNKNOWN
    labels = labels * is_known
    foreground = np.flatnonzero(labels.ravel())
    step = max(1, len(foreground) // SAMPLES_PER_CASE)
    chosen = foreground[::step]
    x, y, z = labels.shape
    counts = np.bincount(labels.ravel(), minlength=len(names) + 1)
    structures: Mapping[str, Sequence[int]] = regions or {n: (i,) for i, n in enumerate(names, start=1)}
    thickness: list[tuple[float, float, float] | None] = [None] * len(structures)
    structure = None
    if is_known.mean() >= MIN_KNOWN:  # scribbles are smaller than what they stand for
        structure = largest_structure(labels, list(structures.values()), spacing_mm)
        if regions:
            insides = (np.isin(labels, values).astype(np.uint8) for values in regions.values())
            thickness = [thickness_of(inside, 1, spacing_mm)[0] for inside in insides]
        else:
            thickness = thickness_of(labels, len(names), spacing_mm)
    return CaseFingerprint(
        shape=(x, y, z),
        spacing_mm=spacing_mm,
        foreground_ml={
            n: float(counts[list(values)].sum()) * voxel_ml for n, values in structures.items() if n not in missing
        },
        samples={c: image[i].reshape(-1)[chosen].astype(float).tolist() for i, c in enumerate(channels)},
        percentiles={c: percentiles_of(image[i]) for i, c in enumerate(channels)},
        labels_mm=None if missing else extent_of(labels, spacing_mm),
        thickness_mm={n: t for n, t in zip(structures, thickness, strict=True) if t is not None and n not in missing},
        structure_mm=structure,
    )


def extent_of(labels: NDArray[np.generic], spacing_mm: tuple[float, float, float]) -> tuple[float, float, float] | None:
    """Return the extent in mm of all labels of a label map (X, Y, Z) together; None without labels."""
    inside = np.asarray(labels, bool)
    lengths = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        if not found.size:
            return None
        lengths.append(float(found[-1] - found[0] + 1) * spacing_mm[axis])
    return lengths[0], lengths[1], lengths[2]


def largest_structure(
    labels: NDArray[np.generic], structures: Sequence[Sequence[int]], spacing_mm: tuple[float, float, float]
) -> tuple[float, float, float] | None:
    """Return the largest extent in mm, along each axis, of the largest connected part of each label or region.

    Parameters
    ----------
    labels : (X, Y, Z) ndarray
        Label map.
    structures : sequence
        Values of each label or region. Those without voxels are skipped.
    """
    step = max(1, round((labels.size / MAX_COMPONENT_VOXELS) ** (1 / 3)))
    steps = [step if n > 4 * step else 1 for n in labels.shape]
    sampled = labels[:: steps[0], :: steps[1], :: steps[2]]
    boxes = ndimage.find_objects(sampled.astype(np.int32, copy=False))
    largest = np.zeros(3)
    for values in structures:
        of_values = [b for v in values if v <= len(boxes) and (b := boxes[v - 1]) is not None]
        if not of_values:
            continue
        around = tuple(slice(min(b[a].start for b in of_values), max(b[a].stop for b in of_values)) for a in range(3))
        if all(s.stop - s.start <= n for s, n in zip(around, largest, strict=True)):
            continue
        parts, n_parts = ndimage.label(np.isin(sampled[around], list(values)), np.ones((3, 3, 3), bool))
        part = int(np.bincount(parts.ravel(), minlength=n_parts + 1)[1:].argmax()) + 1
        box = ndimage.find_objects(parts, part)[part - 1]
        largest = np.maximum(largest, [s.stop - s.start for s in box])
    if not largest.any():
        return None
    x, y, z = (largest * steps * np.array(spacing_mm)).tolist()
    return x, y, z


def thickness_of(
    labels: NDArray[np.generic], n_labels: int, spacing_mm: tuple[float, float, float]
) -> list[tuple[float, float, float] | None]:
    """Return the mean length in mm of the runs of each label 1..n of a label map (X, Y, Z) along each axis; None if absent."""
    counts = np.bincount(labels.ravel(), minlength=n_labels + 1)[1 : n_labels + 1]
    lengths = np.zeros((n_labels, 3))
    for axis in range(3):
        lines = np.moveaxis(labels, axis, 0)
        begins = [lines[:1].ravel(), lines[1:][lines[1:] != lines[:-1]]]  # the first voxel of each run
        runs = sum(np.bincount(b, minlength=n_labels + 1)[1 : n_labels + 1] for b in begins)
        lengths[:, axis] = counts * spacing_mm[axis] / np.maximum(runs, 1)
    return [(float(a), float(b), float(c)) if n else None for n, (a, b, c) in zip(counts, lengths, strict=True)]


def percentiles_of(values: NDArray[np.generic]) -> tuple[float, float, float]:
    """Compute `PERCENTILES` of an image (X, Y, Z), from an even sample of its voxels."""
    sample = values.reshape(-1)[:: sample_step(values.shape, SAMPLED_VOXELS)]
    a, b, c = (float(v) for v in np.percentile(sample.astype(np.float32), PERCENTILES))
    return a, b, c


def tissue(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return an approximate tissue mask (X, Y, Z) for scans without reference: 1 where any channel is above its mean."""
    above = np.stack([np.asarray(channel > channel.mean()) for channel in image])
    return np.asarray(above.any(axis=0), np.uint8)


def combine(cases: Sequence[CaseFingerprint]) -> Fingerprint:
    """Combine the fingerprints of cases: medians over cases, and intensities over all foreground samples."""
    spacing = np.median([c.spacing_mm for c in cases], axis=0)
    extent = np.median([np.array(c.shape) * np.array(c.spacing_mm) for c in cases], axis=0)
    names = list(dict.fromkeys(n for c in cases for n in c.foreground_ml))
    intensities = {}
    for channel in cases[0].samples:
        values = np.concatenate([np.asarray(c.samples[channel], float) for c in cases])
        if len(values) == 0:
            values = np.zeros(1)
        low, high = np.percentile(values, [0.5, 99.5])
        clipped = np.clip(values, low, high)
        intensities[channel] = Intensities(
            mean=float(clipped.mean()), deviation=float(clipped.std()), low=float(low), high=float(high)
        )
    extents = [c.labels_mm for c in cases if c.labels_mm is not None]
    return Fingerprint(
        n_cases=len(cases),
        median_spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        median_extent_mm=(float(extent[0]), float(extent[1]), float(extent[2])),
        median_foreground_ml={
            n: float(np.median([c.foreground_ml[n] for c in cases if n in c.foreground_ml])) for n in names
        },
        intensities=intensities,
        seen=range_of(cases),
        median_labels_mm=_percentile(extents, 50.0),
        large_labels_mm=_percentile([c.structure_mm for c in cases if c.structure_mm is not None], LARGE),
        thickness_mm={
            n: t for n in names if (t := _percentile([c.thickness_mm[n] for c in cases if n in c.thickness_mm], 50.0))
        },
    )


def _percentile(values: Sequence[tuple[float, float, float]], percent: float) -> tuple[float, float, float] | None:
    """Return a percentile along each axis; None without values."""
    if not values:
        return None
    x, y, z = np.percentile(values, percent, axis=0)
    return float(x), float(y), float(z)


def range_of(cases: Sequence[CaseFingerprint]) -> SeenRange:
    """Return the range of the scans of several fingerprints, without the shares of labels."""
    spacing = np.array([c.spacing_mm for c in cases])
    extent = np.array([np.array(c.shape) * np.array(c.spacing_mm) for c in cases])
    channels = set.intersection(*(set(c.percentiles) for c in cases))
    values = {name: np.array([c.percentiles[name] for c in cases]) for name in sorted(channels)}
    return SeenRange.model_validate(
        {
            "n_cases": len(cases),
            "spacing_mm": (spacing.min(axis=0).tolist(), spacing.max(axis=0).tolist()),
            "extent_mm": (extent.min(axis=0).tolist(), extent.max(axis=0).tolist()),
            "percentiles": {n: [(float(v.min()), float(v.max())) for v in array.T] for n, array in values.items()},
        }
    )
