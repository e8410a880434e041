"""Plan (`plan.json`): the settings that preprocessing derives from the dataset, for training and prediction.

Each value is recorded with its reason. Spacing, patch size and batch size can be set in the config; the reason is then
"config: KEY".

Rules
-----
spacing : median spacing of the cases along each axis. An axis with thick slices keeps its spacing, so that slices are neither
    interpolated nor lost.
patch : proportional to the median shape, up to `prepare.max_patch_voxels`. Each axis is a multiple of its total stride, and
    has at least `MIN_TOKENS_PER_AXIS` tokens if it is halved at all.
strides : each axis is halved at each level. Exceptions: its spacing is still more than `ANISOTROPY_AT_STRIDE` times the finest
    one at this level, or fewer than `MIN_TOKENS_PER_AXIS` tokens would be left.
batch : the number of patches, between 2 and 8, that fit into half of the free memory, with `BYTES_PER_PATCH_VOXEL`.
normalisation : all channels are shifted to a minimum of 0 and divided by a standard deviation. MR uses that of each scan's
    tissue. CT is first clipped to the percentiles 0.5 and 99.5 of the foreground of all cases, and uses its standard deviation.
    Other modalities use that of all voxels of each scan.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medhybrid.config import StudyConfig
from medhybrid.data.fingerprint import Fingerprint
from medhybrid.errors import DataError

PLAN_VERSION = 1
ANISOTROPY = 3.0
ANISOTROPY_AT_STRIDE = 2.0
MIN_TOKENS_PER_AXIS = 4
"""Attention along an axis needs several tokens. Moreover, with a single one along Z, torch 2.13 computes strided convolutions
in bf16 wrongly on CPUs."""
BYTES_PER_PATCH_VOXEL = 2_500
"""Peak memory of a training step per voxel of a patch: measured on the hybrid with 32-64-128 channels, rounded up."""


class Normalisation(BaseModel):
    """Intensity normalisation of a channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: str
    rule: Literal["zscore_foreground", "zscore", "clip_and_scale"]
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0
    optional: bool = False


class Plan(BaseModel):
    """Settings derived from the dataset that `train` and `predict` use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = PLAN_VERSION
    study: str
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    batch_size: int
    normalisation: tuple[Normalisation, ...]
    labels: dict[str, int]
    mirror_axes: tuple[int, ...]
    keep_largest: tuple[str, ...]
    min_component_ml: float
    blank_copied_channels: bool
    context: tuple[str, ...] = ()
    orientation: Literal["RAS"] = "RAS"
    reasons: dict[str, str] = Field(default_factory=dict)

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the channel names, in order."""
        return tuple(n.channel for n in self.normalisation)

    @property
    def n_labels(self) -> int:
        """Return the number of labels without background. Inside the network, they are 1..n in the order of `labels`."""
        return len(self.labels)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Return the number of tokens along each axis of a patch."""
        total = np.prod(self.strides, axis=0)
        x, y, z = (int(p // s) for p, s in zip(self.patch_size, total, strict=True))
        return x, y, z

    @property
    def is_thin(self) -> bool:
        """Return whether halving leaves one token along Z, which is possible in plans of earlier versions."""
        return self.token_grid[2] == 1 and self.patch_size[2] > 1

    @property
    def token_mm(self) -> tuple[float, float, float]:
        """Return the distance between neighbouring tokens along each axis, in mm."""
        x, y, z = (float(m * s) for m, s in zip(self.spacing_mm, np.prod(self.strides, axis=0), strict=True))
        return x, y, z

    @property
    def preparation_hash(self) -> str:
        """Return a hash of the values that affect prepared cases; other values can change without new preparation."""
        keys = ("version", "spacing_mm", "normalisation", "labels", "blank_copied_channels")
        text = self.model_dump_json(include={*keys, *(["context"] if self.context else [])})
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Load a plan from JSON; raise `DataError` if it is not valid."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, ValueError) as error:
            raise DataError(
                f"{path} is not a valid plan", found=str(error)[:300], remedy="run medhybrid preprocess"
            ) from error


def make_plan(config: StudyConfig, fingerprint: Fingerprint, *, free_memory: int) -> Plan:
    """Make a plan from a dataset's fingerprint by the rules of this module.

    Parameters
    ----------
    free_memory : int
        Free memory in bytes. Training may use half of it.
    """
    reasons: dict[str, str] = {}
    prepare = config.prepare
    if prepare.spacing_mm is not None:
        spacing = prepare.spacing_mm
        reasons["spacing_mm"] = "config: prepare.spacing_mm"
    else:
        spacing, reasons["spacing_mm"] = _choose_spacing(fingerprint)
    n_levels = len(config.network.widths)
    shape = np.array(fingerprint.median_extent_mm) / np.array(spacing)
    if prepare.patch_size is not None:
        patch = prepare.patch_size
        reasons["patch_size"] = "config: prepare.patch_size"
        strides, reasons["strides"] = _choose_strides(spacing, patch, n_levels)
        _check_patch(patch, strides)
    else:
        strides, reasons["strides"] = _choose_strides(spacing, _as_triple(shape), n_levels)
        patch, reasons["patch_size"] = _choose_patch(shape, strides, prepare.max_patch_voxels)
    if prepare.batch_size is not None:
        batch = prepare.batch_size
        reasons["batch_size"] = "config: prepare.batch_size"
    else:
        need = int(np.prod(patch)) * BYTES_PER_PATCH_VOXEL
        batch = int(np.clip(free_memory // 2 // need, 2, 8))
        reasons["batch_size"] = (
            f"fits into half of the {free_memory / 2**30:.0f} GiB of free memory, with {need / 2**30:.2f} GiB per patch"
        )
    normalisation = tuple(
        _choose_normalisation(c.name, c.modality, c.optional, fingerprint) for c in config.data.channels
    )
    for item in normalisation:
        reasons[f"normalisation.{item.channel}"] = {
            "zscore_foreground": "MR: units differ between scans, so each scan is scaled by its own tissue",
            "clip_and_scale": "CT: Hounsfield units are comparable, so all scans are scaled in the same way",
            "zscore": "unknown units: each scan is scaled by its own values",
        }[item.rule]
    return Plan(
        study=config.name,
        spacing_mm=spacing,
        patch_size=patch,
        strides=strides,
        batch_size=batch,
        normalisation=normalisation,
        labels=dict(config.data.labels),
        mirror_axes=prepare.mirror_axes,
        keep_largest=prepare.keep_largest,
        min_component_ml=prepare.min_component_ml,
        blank_copied_channels=prepare.blank_copied_channels,
        context=config.data.context,
        reasons=reasons,
    )


def _as_triple(values: np.ndarray) -> tuple[int, int, int]:
    x, y, z = (max(1, round(float(v))) for v in values)
    return x, y, z


def _choose_spacing(fingerprint: Fingerprint) -> tuple[tuple[float, float, float], str]:
    x, y, z = fingerprint.median_spacing_mm
    ratio = max(x, y, z) / min(x, y, z)
    kind = "anisotropic, the thick axis keeps its median" if ratio >= ANISOTROPY else "not anisotropic"
    return (round(x, 4), round(y, 4), round(z, 4)), f"median of the cases; {kind} (ratio {ratio:.1f})"


def _choose_strides(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], n_levels: int
) -> tuple[tuple[tuple[int, int, int], ...], str]:
    current, size = np.array(spacing, float), np.array(shape, float)
    # an axis of one voxel is never halved: its spacing must not prevent halving of the others
    several = size > 1 if (size > 1).any() else size > 0
    strides = []
    for _ in range(n_levels):
        coarse = current > ANISOTROPY_AT_STRIDE * current[several].min()
        small = size / 2 < MIN_TOKENS_PER_AXIS
        stride = np.where(coarse | small, 1, 2)
        strides.append((int(stride[0]), int(stride[1]), int(stride[2])))
        current, size = current * stride, size / stride
    reason = (
        f"each axis is halved, unless its spacing is above {ANISOTROPY_AT_STRIDE} times the finest one, or fewer than "
        f"{MIN_TOKENS_PER_AXIS} tokens would be left"
    )
    return tuple(strides), reason


def _choose_patch(
    shape: np.ndarray, strides: tuple[tuple[int, int, int], ...], max_voxels: int
) -> tuple[tuple[int, int, int], str]:
    total = np.prod(strides, axis=0)
    least = np.where(total > 1, MIN_TOKENS_PER_AXIS, 1)
    steps, is_free = least.astype(float), np.ones(3, bool)
    # an axis that would be too short gets its minimum length; the others share the remaining voxels
    while is_free.any():
        left = max_voxels / float(np.prod((least * total)[~is_free]))
        scale = min(1.0, (left / float(np.prod(shape[is_free]))) ** (1 / is_free.sum()))
        scaled = np.ceil(shape / total) if scale == 1.0 else np.floor(shape * scale / total)
        if not (is_short := is_free & (scaled < least)).any():
            steps[is_free] = scaled[is_free]
            break
        is_free &= ~is_short
    return _as_triple(steps * total), (
        f"proportional to the median shape {_as_triple(shape)}, with at most {max_voxels} voxels and at least "
        f"{MIN_TOKENS_PER_AXIS} tokens along halved axes; multiples of {tuple(int(t) for t in total)}"
    )


def _check_patch(patch: tuple[int, int, int], strides: tuple[tuple[int, int, int], ...]) -> None:
    total = np.prod(strides, axis=0)
    if any(p % t for p, t in zip(patch, total, strict=True)):
        raise DataError(
            "prepare.patch_size does not fit the strides",
            expected=f"multiples of {tuple(int(t) for t in total)}",
            found=str(patch),
            remedy="set prepare.patch_size to such multiples, or to null",
        )


def _choose_normalisation(name: str, modality: str, optional: bool, fingerprint: Fingerprint) -> Normalisation:
    if modality == "CT":
        stats = fingerprint.intensities[name]
        return Normalisation(
            channel=name,
            rule="clip_and_scale",
            low=stats.low,
            high=stats.high,
            mean=stats.mean,
            deviation=max(stats.deviation, 1e-6),
            optional=optional,
        )
    return Normalisation(channel=name, rule="zscore_foreground" if modality == "MR" else "zscore", optional=optional)
