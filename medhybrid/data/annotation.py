"""Partly labelled cases: which labels or regions the reference of a case has.

What a case does not have is unknown in it. Its background may be any of the missing labels, so that it is neither trained nor
scored as background of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import DataConfig

T = TypeVar("T")


def scored(structures: Mapping[str, T], annotated: Collection[str] | None) -> dict[str, T]:
    """Return the labels or regions that a reference has; all if `annotated` is None."""
    return {n: v for n, v in structures.items() if annotated is None or n in annotated}


def keep_annotated(
    mask: NDArray[np.uint8], data: DataConfig, annotated: Collection[str] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Set labels that a case does not have to 0, and return their names if the mask has voxels of them.

    Values of regions stay: they show which regions the case has.

    Parameters
    ----------
    mask : (X, Y, Z) uint8 ndarray
        Classes 1..n in the order of `data.labels`, or `UNKNOWN`.
    """
    if annotated is None:
        return mask, ()
    n_labels = len(data.labels)
    counts = np.bincount(mask.ravel(), minlength=n_labels + 1)[: n_labels + 1]
    table = np.arange(256, dtype=np.uint8)
    others = []
    for value, (name, in_files) in enumerate(data.labels.items(), start=1):
        inside = [n for n, values in data.regions.items() if in_files in values] if data.regions else [name]
        if not set(inside) & set(annotated):
            table[value] = 0
            if counts[value]:
                others.append(name)
    return table[mask], tuple(others)


def missing_structures(data: DataConfig, annotated: Collection[str] | None) -> tuple[str, ...]:
    """Return the labels or regions that the reference of a case does not have."""
    return () if annotated is None else tuple(n for n in data.regions or data.labels if n not in annotated)
