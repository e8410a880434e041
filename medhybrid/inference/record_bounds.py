"""Bounds on the numbers in a model's record. The record may come from elsewhere, so it is checked before a network is built."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from medhybrid.errors import ModelError

if TYPE_CHECKING:
    from medhybrid.inference.model_record import ModelRecord

MAX_PATCH_VOXELS = 1 << 28
"""Voxels of a window; 645 along each axis."""

BOUNDS: dict[str, tuple[float, float]] = {
    "plan.spacing_mm": (1e-6, 1e3),
    "plan.patch_size": (1, 4096),
    "plan.strides": (1, 32),
    "plan.kernels": (1, 3),
    "plan.batch_size": (1, 65_536),
    "plan.mirror_axes": (0, 2),
    "plan.min_component_ml": (0, 1e9),
    "plan.labels": (1, 2**31 - 1),
    "network.widths": (1, 16_384),
    "network.blocks": (0, 64),
    "network.token_width": (1, 16_384),
    "network.depth": (0, 128),
    "network.interleave_depth": (1, 32),
    "network.heads": (1, 256),
    "network.head_width": (1, 4096),
    "inference.overlap": (0, 0.95),
    "inference.window_batch": (1, 4096),
    "calibration.temperature": (1e-3, 1e3),
    "calibration.threshold": (0, 1),
}
"""Lowest and highest allowed value of a number, or of each number in a list or table."""

LENGTHS = {
    "plan.strides": 10,
    "plan.kernels": 10,
    "network.widths": 12,
    "plan.normalisation": 64,
    "plan.labels": 255,
    "plan.mirror_axes": 3,
}
"""Largest allowed number of entries of lists and tables."""


def refuse_absurd(record: ModelRecord, source: str) -> None:
    """Raise `ModelError` for a record with a number out of range.

    Such a number would make the process hang, exhaust the memory, or give empty masks.
    """
    values = record.model_dump(mode="python", exclude={"training", "metrics"})
    for key, value in _numbers("", values):
        if not isfinite(value):
            raise _refused(source, key, "a finite number", value)
    for key, (low, high) in BOUNDS.items():
        section, name = key.split(".")
        for _, value in _numbers(key, values[section].get(name)):
            if not low <= value <= high:
                raise _refused(source, key, f"{low:g} to {high:g}", value)
    for key, longest in LENGTHS.items():
        section, name = key.split(".")
        if len(values[section].get(name, ())) > longest:
            raise _refused(source, key, f"at most {longest} entries", len(values[section][name]))
    n_labels = len(record.plan.labels)
    for classes in record.plan.regions.values():
        if wrong := [c for c in classes if not 1 <= c <= n_labels]:
            raise _refused(source, "plan.regions", f"classes from 1 to {n_labels}", wrong[0])
        if not classes:
            raise _refused(source, "plan.regions", "at least one class in each region", 0)
    imported = record.nnunet
    if imported is not None:
        if wrong := [c for c in imported.regions if not 1 <= c <= n_labels]:
            raise _refused(source, "nnunet.regions", f"classes from 1 to {n_labels}", wrong[0])
        if len(imported.channels) != len(record.plan.normalisation):
            raise _refused(source, "nnunet.channels", "one for each channel", len(imported.channels))
    named = [name for pair in record.plan.mirror_pairs for name in pair]
    if len(set(named)) != len(named) or not set(named) <= set(record.plan.labels):
        raise _refused(source, "plan.mirror_pairs", "pairs of labels, each label once", len(named))
    if prod(record.plan.patch_size) > MAX_PATCH_VOXELS:
        raise _refused(source, "plan.patch_size", f"at most {MAX_PATCH_VOXELS} voxels", prod(record.plan.patch_size))


def _refused(source: str, key: str, expected: str, found: float) -> ModelError:
    return ModelError(
        f"{source} is not a valid record of a model: {key} is out of range",
        expected=expected,
        found=f"{found:g}",
        remedy="copy the model from its source again",
    )


def _numbers(key: str, values: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested values with their dotted keys."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _numbers(f"{key}.{name}".strip("."), value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _numbers(key, value)
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield key, float(values)
