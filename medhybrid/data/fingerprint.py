"""What a dataset looks like: the numbers that the plan's rules need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

SAMPLES_PER_CASE = 2_000
"""Foreground intensities kept of each case and channel."""


class Intensities(BaseModel):
    """Statistics of a channel's values inside the reference masks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    deviation: float
    low: float
    high: float


class CaseFingerprint(BaseModel):
    """Size and intensities of one case, in RAS order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    foreground_ml: dict[str, float]
    samples: dict[str, list[float]]


class Fingerprint(BaseModel):
    """Size and intensities of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_cases: int
    median_spacing_mm: tuple[float, float, float]
    median_extent_mm: tuple[float, float, float]
    median_foreground_ml: dict[str, float]
    intensities: dict[str, Intensities]


def fingerprint_case(
    image: NDArray[np.generic],
    labels: NDArray[np.generic],
    spacing_mm: tuple[float, float, float],
    voxel_ml: float,
    channels: Sequence[str],
    names: Sequence[str],
) -> CaseFingerprint:
    """Measure one case: image (C, X, Y, Z), label map (X, Y, Z) with inside values 1..n."""
    foreground = np.flatnonzero(labels.ravel())
    step = max(1, len(foreground) // SAMPLES_PER_CASE)
    chosen = foreground[::step]
    x, y, z = labels.shape
    return CaseFingerprint(
        shape=(x, y, z),
        spacing_mm=spacing_mm,
        foreground_ml={n: float((labels == i).sum()) * voxel_ml for i, n in enumerate(names, start=1)},
        samples={c: image[i].reshape(-1)[chosen].astype(float).tolist() for i, c in enumerate(channels)},
    )


def tissue(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """What intensities are measured in where there is no mask: 1 (X, Y, Z) where any channel (C, X, Y, Z) is above its mean."""
    above = np.stack([np.asarray(channel > channel.mean()) for channel in image])
    return np.asarray(above.any(axis=0), np.uint8)


def combine(cases: Sequence[CaseFingerprint]) -> Fingerprint:
    """Medians over cases; intensities over all foreground samples."""
    spacing = np.median([c.spacing_mm for c in cases], axis=0)
    extent = np.median([np.array(c.shape) * np.array(c.spacing_mm) for c in cases], axis=0)
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
    return Fingerprint(
        n_cases=len(cases),
        median_spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        median_extent_mm=(float(extent[0]), float(extent[1]), float(extent[2])),
        median_foreground_ml={n: float(np.median([c.foreground_ml[n] for c in cases])) for n in cases[0].foreground_ml},
        intensities=intensities,
    )
