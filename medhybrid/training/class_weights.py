"""Weights of the classes in the voxel term of the loss (`training.class_weights`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medhybrid.config import StudyConfig
from medhybrid.config.models import BACKGROUND
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.data.store import PreparedCase

MAX_WEIGHT = 10.0
"""Highest balanced weight; the lowest is its inverse. A rarer class would make single voxels decide a step."""


def class_weights(config: StudyConfig, cases: Sequence[PreparedCase]) -> tuple[dict[str, float], str] | None:
    """Return the weight of each class, with the reason; None without `training.class_weights`.

    Parameters
    ----------
    cases : sequence of PreparedCase
        Training cases, whose volumes balance the classes.
    """
    asked, names = config.training.class_weights, config.weighted_classes
    if asked is None:
        return None
    if asked == "balanced":
        weights = balanced_weights(class_volumes(config, cases))
        reason = "balanced: the median volume of the classes in the training cases, divided by that of each class"
    else:
        given = asked if isinstance(asked, dict) else dict(zip(names, asked, strict=True))
        weights = {name: float(given.get(name, 1.0)) for name in names}
        reason = "config: training.class_weights"
    return weights, f"{reason}; {', '.join(f'{name} {weight:g}' for name, weight in weights.items())}"


def balanced_weights(volumes: dict[str, float]) -> dict[str, float]:
    """Return the median of the volumes divided by each one, within `MAX_WEIGHT` and its inverse.

    A class without any voxel has no influence on the others.

    References
    ----------
    Median frequency balancing: Eigen and Fergus (2015), doi:10.1109/ICCV.2015.304.
    """
    present = [v for v in volumes.values() if v > 0]
    median = float(np.median(present)) if present else 1.0
    highest = {name: median / volume if volume > 0 else MAX_WEIGHT for name, volume in volumes.items()}
    return {name: round(float(np.clip(w, 1 / MAX_WEIGHT, MAX_WEIGHT)), 4) for name, w in highest.items()}


def class_volumes(config: StudyConfig, cases: Sequence[PreparedCase]) -> dict[str, float]:
    """Return the volume of each class in ml over all cases with masks; voxels of unknown label are not counted.

    If some cases are partly labelled, the volume of a class is that of the cases that have it, for as many cases as there are.
    """
    volumes = dict.fromkeys(config.weighted_classes, 0.0)
    counts = dict.fromkeys(config.weighted_classes, 0)
    labelled = [case for case in cases if case.record.is_labelled]
    for case in labelled:
        has = case.record.annotated
        found = {name: case.record.reference_ml.get(name, 0.0) for name in volumes}
        if not config.data.regions:
            found[BACKGROUND] = _known_ml(config, case) - sum(found.values()) if has is None else 0.0
        volumes = {name: volume + found[name] for name, volume in volumes.items()}
        counts = {name: n + (has is None or name in has) for name, n in counts.items()}
    return {name: volume * len(labelled) / counts[name] if counts[name] else 0.0 for name, volume in volumes.items()}


def _known_ml(config: StudyConfig, case: PreparedCase) -> float:
    """Return the volume of the voxels with known label; only a dataset with `data.ignore_value` has others."""
    if config.data.ignore_value is None:
        return float(np.prod(case.record.source_shape)) * case.source_grid.voxel_ml
    return float((case.source_mask_with_unknown() != UNKNOWN).sum()) * case.source_grid.voxel_ml
