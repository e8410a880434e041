"""Choice among candidate plans: the lowest expected loss of Dice.

The expected loss of a candidate is the sum of

resolution  `RESOLUTION` times, for each axis, the coarsening in mm divided by the mean thickness of the labels along it
steps       `STEPS` / sqrt(number of steps) + `FIRST_STEPS` / number of steps: a training that is too short
context     the negative logarithm of the share that a patch covers: of the largest structure times `STRUCTURE`, of the extent
            of all labels times `LABELS`, and of the scan times `SCAN`
network     `NETWORK`, the gain of a larger network

The trials that the constants were chosen on are in docs/explanation/planning-rules.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medhybrid.config import NetworkConfig, NetworkSettings, PrepareConfig
from medhybrid.networks.presets import MAX_LEVELS, SIZES, Preset, levels_by_hand, network_of
from medhybrid.planning.budget import Budget
from medhybrid.planning.cost import cost_of, memory_of
from medhybrid.planning.geometry import (
    COARSENING,
    MARGIN,
    MAX_TOKENS,
    Spacing,
    Triple,
    choose_kernels,
    choose_patch,
    choose_strides,
    coarsened,
    coverage_of,
)
from medhybrid.planning.rates import Rates

RESOLUTION = 0.25
STEPS, FIRST_STEPS = 1.0, 90.0
STRUCTURE, LABELS, SCAN = 0.04, 0.04, 0.004
NETWORK: dict[Preset, float] = {"S": 0.0, "M": -0.006, "L": -0.010, "XL": -0.013}

UNKNOWN_THICKNESS = 0.1
"""Thickness of labels relative to their joint extent where it cannot be measured, as from scribbles."""

MIN_VOXELS, MAX_VOXELS = 16_384, 2**24
"""Range of the patch sizes that are considered."""

STEPS_VOXELS = 262_144
"""Largest patch if the budget is a number of steps: its time is not known."""

MIN_STEPS = 20_000
"""Steps of a preset without which no larger one is considered: wider layers gained nothing in trials of 1,100 steps."""

BATCH_VOXELS, MAX_BATCH = 16_384, 8
"""A batch has two patches; of smaller ones, enough for this number of voxels. Many small steps beat few large ones."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a dataset that the choice depends on.

    Attributes
    ----------
    spacing_mm, extent_mm : (3,) tuple
        Median spacing and extent of the scans.
    labels_mm : (3,) tuple
        Median extent of all labels together.
    large_mm : (3,) tuple, optional
        Extent of a single structure in scans where it is large.
    thickness_mm : dict
        For each label, its mean thickness along each axis; empty if unknown.
    """

    spacing_mm: Spacing
    extent_mm: Spacing
    labels_mm: Spacing
    thickness_mm: dict[str, Spacing]
    n_channels: int
    n_labels: int
    large_mm: Spacing | None = None

    @property
    def target_mm(self) -> Spacing:
        """Return the field of view of a patch: the labels, and single structures that are large, with a margin.

        A patch that a structure fills shows no tissue to compare it with.
        """
        x, y, z = (np.maximum(self.labels_mm, self._structure_mm) * MARGIN).tolist()
        return x, y, z

    @property
    def _structure_mm(self) -> Spacing:
        return self.large_mm or (0.0, 0.0, 0.0)

    def context_loss(self, extent_mm: np.ndarray) -> float:
        """Return the expected loss of Dice by a patch (extent (3,) in mm) that does not cover structures, labels and scan."""
        weights = (
            (STRUCTURE, self._structure_mm, MARGIN),
            (LABELS, self.labels_mm, MARGIN),
            (SCAN, self.extent_mm, 1.0),
        )
        return sum(-w * math.log(coverage_of(extent_mm, self._inside(mm, margin))) for w, mm, margin in weights)

    def _inside(self, wanted_mm: Spacing, margin: float) -> np.ndarray:
        """Return an extent (3,) in mm with a margin, from one voxel to the whole scan."""
        return np.clip(np.array(wanted_mm) * margin, self.spacing_mm, np.maximum(self.extent_mm, self.spacing_mm))


@dataclass(frozen=True, slots=True)
class Candidate:
    """Candidate plan with its predicted cost and expected loss of Dice by reason."""

    spacing_mm: Spacing
    patch_size: Triple
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    batch_size: int
    preset: Preset
    network: NetworkConfig
    seconds: float
    steps: float
    memory: int
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        """Return the expected loss of Dice."""
        return sum(self.losses.values())


def candidates(
    sizes: Sizes, settings: NetworkSettings, prepare: PrepareConfig, budget: Budget, rates: Rates
) -> list[Candidate]:
    """Return the candidates that fit the memory, best first; if none fits, only the smallest one.

    Values that the config sets are kept.
    """
    found = []
    for spacing in _spacings(sizes, prepare):
        for voxels in _patch_voxels(prepare, budget):
            for preset in _presets(settings, budget):
                made = _candidate(sizes, settings, prepare, budget, rates, spacing, voxels, preset)
                found.append(made)
                if made.steps < MIN_STEPS:  # a larger network makes still fewer
                    break
            if prepare.patch_size is not None or made.memory > budget.memory or _covers(made, sizes):
                break
    unique = {(c.spacing_mm, c.patch_size, c.preset, c.strides): c for c in found}
    fitting = [c for c in unique.values() if c.memory <= budget.memory]
    if not fitting:
        return [min(unique.values(), key=lambda c: c.memory)]
    return sorted(fitting, key=lambda c: c.loss)


def _covers(candidate: Candidate, sizes: Sizes) -> bool:
    """Return whether the patch covers the median scan, so that a larger one is of no use."""
    extent = np.array(candidate.patch_size) * np.array(candidate.spacing_mm)
    return bool((extent >= np.array(sizes.extent_mm) * 0.99).all())


def _spacings(sizes: Sizes, prepare: PrepareConfig) -> Iterator[Spacing]:
    if (
        prepare.spacing_mm is not None or prepare.patch_size is not None
    ):  # a patch in voxels is meant for the scans' spacing
        yield prepare.spacing_mm or coarsened(sizes.spacing_mm, 1.0, sizes.extent_mm)
        return
    tried = set()
    for factor in COARSENING:
        spacing = coarsened(sizes.spacing_mm, factor, sizes.extent_mm)
        extent = np.array(sizes.extent_mm) / np.array(spacing)
        if factor == 1.0 or (spacing not in tried and extent.max() >= 16):
            tried.add(spacing)
            yield spacing


def _patch_voxels(prepare: PrepareConfig, budget: Budget) -> Iterator[int]:
    most = prepare.max_patch_voxels or (STEPS_VOXELS if budget.steps is not None else MAX_VOXELS)
    voxels = MIN_VOXELS
    while voxels < most:
        yield voxels
        voxels *= 2
    yield most


def _presets(settings: NetworkSettings, budget: Budget) -> Sequence[Preset]:
    if settings.preset != "auto":
        return (settings.preset,)
    return ("S",) if budget.steps is not None else tuple(SIZES)


def _candidate(
    sizes: Sizes,
    settings: NetworkSettings,
    prepare: PrepareConfig,
    budget: Budget,
    rates: Rates,
    spacing: Spacing,
    voxels: int,
    preset: Preset,
) -> Candidate:
    whole = np.maximum(np.array(sizes.extent_mm) / np.array(spacing), 1.0)
    target = np.clip(np.array(sizes.target_mm) / np.array(spacing), 1.0, whole)
    patch, strides = _patch(spacing, target, whole, voxels, prepare, levels_by_hand(settings))
    network = network_of(settings, preset, len(strides))
    kernels = choose_kernels(spacing, patch, strides) if network.kind != "transunet" else ()
    cost = cost_of(network, sizes.n_channels, sizes.n_labels, patch, strides, kernels)
    n_voxels = int(np.prod(patch))
    batch = prepare.batch_size or int(np.clip(math.ceil(BATCH_VOXELS / n_voxels), 2, MAX_BATCH))
    seconds = rates.seconds(batch, n_voxels, sizes.n_channels, cost.flops)
    steps = budget.n_steps(seconds)
    losses = {
        "resolution": _resolution_loss(sizes, spacing),
        "steps": steps_loss(steps),
        "context": sizes.context_loss(np.array(patch) * np.array(spacing)),
        "network": NETWORK[preset],
    }
    return Candidate(
        spacing, patch, strides, kernels, batch, preset, network, seconds, steps, memory_of(cost, batch), losses
    )


def steps_loss(n_steps: float) -> float:
    """Return the expected loss of Dice by a training of some steps, compared with a long one."""
    n = max(n_steps, 1.0)
    return STEPS / math.sqrt(n) + FIRST_STEPS / n


def _patch(
    spacing: Spacing,
    target: np.ndarray,
    whole: np.ndarray,
    voxels: int,
    prepare: PrepareConfig,
    n_levels: int | None,
) -> tuple[Triple, tuple[Triple, ...]]:
    """Return patch and strides; another level is added while the patch has more than `MAX_TOKENS` tokens."""
    levels = (n_levels,) if n_levels is not None else range(3, MAX_LEVELS + 1)
    for n in levels:
        if prepare.patch_size is not None:
            patch = prepare.patch_size
            strides = choose_strides(spacing, patch, n)
        else:
            rough = choose_patch(target, whole, ((1, 1, 1),), voxels)
            strides = choose_strides(spacing, rough, n)
            patch = choose_patch(target, whole, strides, voxels)
        if np.prod(np.array(patch) // np.prod(np.array(strides), axis=0)) <= MAX_TOKENS:
            break
    return patch, strides


def _resolution_loss(sizes: Sizes, spacing: Spacing) -> float:
    """Return the mean over the labels of the coarsening relative to their thickness."""
    coarser = np.maximum(np.array(spacing) - np.array(sizes.spacing_mm), 0.0)
    x, y, z = (UNKNOWN_THICKNESS * extent for extent in sizes.labels_mm)
    thickness = list(sizes.thickness_mm.values()) or [(x, y, z)]
    relative = [float(np.minimum(coarser / np.maximum(np.array(t), 1e-3), 1.0).sum()) for t in thickness]
    return RESOLUTION * float(np.mean(relative))
