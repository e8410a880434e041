"""Plan (`plan.json`): the settings that preprocessing derives from the dataset and the budget, for training and prediction.

Each value is recorded with its reason. `medhybrid.planning` chooses them; values of the config are kept, with the reason
"config: KEY".

normalisation : all channels are shifted to a minimum of 0 and divided by a standard deviation. MR uses that of each scan's
    tissue. CT is first clipped to the percentiles 0.5 and 99.5 of the foreground of all cases, and uses its standard deviation.
    Other modalities use that of all voxels of each scan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medhybrid.data.fingerprint import Fingerprint
from medhybrid.data.sides import exchange_of
from medhybrid.errors import DataError, reason_of

PLAN_VERSION = 1


class Normalisation(BaseModel):
    """Intensity normalisation of a channel; `nnunet` is that of an imported model, which its record has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel: str
    rule: Literal["zscore_foreground", "zscore", "clip_and_scale", "nnunet"]
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0
    optional: bool = False


class Prediction(BaseModel):
    """Predicted length, time and memory of the training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    seconds_per_step: float
    minutes: float
    memory_bytes: int


class PlanBudget(BaseModel):
    """Budget that a plan was made for, with the measured rates; see `planning.rates`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float | None
    steps: int | None
    memory_bytes: int
    rates: dict[str, float | str]


class Alternative(BaseModel):
    """Rejected candidate, with its predicted number of steps and the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    preset: str
    steps: int
    memory_bytes: int
    reason: str


class Plan(BaseModel):
    """Settings derived from the dataset that `train` and `predict` use.

    Attributes
    ----------
    kernels : tuple
        Size of the convolutions at each level; empty for 3 x 3 x 3 at all levels.
    mirror_pairs : tuple of (str, str)
        Labels of the left and the right side that mirroring along axis 0 exchanges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = PLAN_VERSION
    study: str
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    batch_size: int
    normalisation: tuple[Normalisation, ...]
    labels: dict[str, int]
    regions: dict[str, tuple[int, ...]] = {}
    mirror_axes: tuple[int, ...]
    mirror_pairs: tuple[tuple[str, str], ...] = ()
    keep_largest: tuple[str, ...]
    min_component_ml: float
    blank_copied_channels: bool
    context: tuple[str, ...] = ()
    orientation: Literal["RAS"] = "RAS"
    reasons: dict[str, str] = Field(default_factory=dict)
    preset: Literal["S", "M", "L", "XL"] = "S"
    kernels: tuple[tuple[int, int, int], ...] = ()
    prediction: Prediction | None = None
    budget: PlanBudget | None = None
    alternatives: tuple[Alternative, ...] = ()

    @property
    def settings(self) -> Plan:
        """Return the plan without reasons, budget and alternatives, which affect no result."""
        return self.model_copy(update={"reasons": {}, "prediction": None, "budget": None, "alternatives": ()})

    @property
    def values(self) -> dict[str, Any]:
        """Return the settings as plain values, without those that version 0.1 did not have and that have its value."""
        return self.model_dump(exclude={"reasons", *self._unknown_to_first})

    @property
    def _unknown_to_first(self) -> set[str]:
        unused = [*(["preset"] if self.preset == "S" else []), *([] if self.regions else ["regions"])]
        unused += [] if self.kernels else ["kernels"]
        unused += [] if self.mirror_pairs else ["mirror_pairs"]
        return {"prediction", "budget", "alternatives", *unused}

    def text_for_hash(self) -> str:
        """Return JSON that is the same as in version 0.1 for the same settings and reasons."""
        return self.model_dump_json(exclude=self._unknown_to_first)

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the channel names, in order."""
        return tuple(n.channel for n in self.normalisation)

    @property
    def n_labels(self) -> int:
        """Return the number of labels without background. Inside the network, they are 1..n in the order of `labels`."""
        return len(self.labels)

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """Return the scored structures: regions with their classes 1..n, otherwise each label with its class."""
        return self.regions or {name: (value,) for value, name in enumerate(self.labels, start=1)}

    @property
    def exchange(self) -> tuple[int, ...]:
        """Return the class of each class 0..n after mirroring left-right; empty if mirroring exchanges none."""
        return exchange_of(list(self.labels), self.mirror_pairs)

    def values_of(self, classes: Sequence[int]) -> tuple[int, ...]:
        """Return the values in mask files of some classes 1..n."""
        values = list(self.labels.values())
        return tuple(values[i - 1] for i in classes)

    @property
    def measured(self) -> dict[str, tuple[int, ...]]:
        """Return the measured structures with their values in files, and the labels between regions."""
        found = {name: self.values_of(classes) for name, classes in self.structures.items()}
        return found | {name: (value,) for name, value in self.labels.items() if name not in found}

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
        if self.kernels and 1 in self.patch_size:
            text += f" slices {[n == 1 for n in self.patch_size]}"  # `network_grid` depends on it
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
                f"{path} is not a valid plan", found=reason_of(error), remedy="run medhybrid preprocess"
            ) from error


def choose_normalisation(name: str, modality: str, optional: bool, fingerprint: Fingerprint) -> Normalisation:
    """Return the normalisation of a channel by its modality; that of CT uses the intensities in the fingerprint."""
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
