"""Stages of a training: which weights are trained when, and at which learning rate.

A run without stages is one stage that trains all weights. Each stage has its own warm-up and cosine schedule. Frozen weights
have no gradient. Their optimiser state is kept for the stage that trains them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from medhybrid.config import StageConfig, TrainingConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.parts import check_patterns, depths, is_meant

WARMUP_SHARE = 0.1
"""Share of a stage after which the warm-up ends, if it has too few steps for `training.warmup_steps`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage of a run; `begin` and `end` are shares of the run, from 0 to 1."""

    number: int
    name: str
    config: StageConfig
    begin: float
    end: float

    def progress(self, of_run: float) -> float:
        """Return the share of the stage that is done, from the share of the run."""
        return (of_run - self.begin) / (self.end - self.begin)


def plan_stages(config: TrainingConfig) -> tuple[Stage, ...]:
    """Return the stages of a run, at least one; together they cover the run."""
    chosen = config.stages or (StageConfig(share=1.0),)
    total, begin = math.fsum(s.share for s in chosen), 0.0
    stages = []
    for number, stage in enumerate(chosen, start=1):
        end = 1.0 if number == len(chosen) else begin + stage.share / total
        stages.append(Stage(number, stage.name or "+".join(stage.train), stage, begin, end))
        begin = end
    return tuple(stages)


def stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    """Return the stage at a progress of the run; the last stage at its end."""
    return next((s for s in stages if progress < s.end), stages[-1])


def rate_factors(names: Iterable[str], stage: StageConfig) -> dict[str, float]:
    """Return the learning rate factor of each weight; 0 for a frozen weight.

    Raises
    ------
    ConfigError
        If a pattern of the stage selects no weight of the network.
    """
    names = list(names)
    check_patterns(names, stage.train, key="training.stages: train")
    check_patterns(names, stage.rates, key="training.stages: rates")
    depth = depths(names)
    deepest = max(depth.values(), default=0)
    factors = {}
    for name in names:
        factor = stage.layer_decay ** (deepest - depth[name])
        if fitting := [rate for pattern, rate in stage.rates.items() if is_meant(name, pattern)]:
            factor *= fitting[-1]
        factors[name] = factor if any(is_meant(name, pattern) for pattern in stage.train) else 0.0
    return factors


def check_stage(names: Iterable[str], stage: Stage) -> None:
    """Raise `ConfigError` if a pattern of a stage selects no weight, or the stage trains no weight."""
    if not any(rate_factors(names, stage.config).values()):
        raise ConfigError(
            f"training.stages: all weights are frozen in stage {stage.number} ({stage.name})",
            remedy="set a rate above 0 in its rates",
        )


def learning_rate(config: TrainingConfig, stage: Stage, step: int, progress: float) -> float:
    """Return the learning rate of a step: linear warm-up times a cosine from the peak rate to `final_rate_share` of it.

    The warm-up ends after `warmup_steps`, or after `WARMUP_SHARE` of a shorter stage.

    Parameters
    ----------
    step : int
        Step since the start of the stage, for the warm-up.
    progress : float
        Share of the stage that is done (0 to 1), for the cosine.
    """
    warm = min(1.0, max((step + 1) / max(config.warmup_steps, 1), progress / WARMUP_SHARE))
    cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    peak = stage.config.peak_rate or config.peak_rate
    return peak * warm * (config.final_rate_share + (1 - config.final_rate_share) * cosine)
