"""Stages of a training: what moves when, and how fast.

A run without stages is one stage that trains everything. Each stage has its own warm-up and cosine; weights that stand still
have no gradient, and what the optimiser knows of a weight is kept for the stage in which it moves again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from medhybrid.config import StageConfig, TrainingConfig
from medhybrid.errors import ConfigError
from medhybrid.networks.parts import check_patterns, depths, is_meant


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage and its place in the run; `begin` and `end` are shares of the run, 0 to 1."""

    number: int
    name: str
    config: StageConfig
    begin: float
    end: float

    def progress(self, of_run: float) -> float:
        """Share of the stage that is done, from the share of the run."""
        return (of_run - self.begin) / (self.end - self.begin)


def plan_stages(config: TrainingConfig) -> tuple[Stage, ...]:
    """The stages of a run, which share it out among them; at least one."""
    chosen = config.stages or (StageConfig(share=1.0),)
    total, begin = math.fsum(s.share for s in chosen), 0.0
    stages = []
    for number, stage in enumerate(chosen, start=1):
        end = 1.0 if number == len(chosen) else begin + stage.share / total
        stages.append(Stage(number, stage.name or "+".join(stage.train), stage, begin, end))
        begin = end
    return tuple(stages)


def stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    """The stage of a moment of the run; the last one at its end."""
    return next((s for s in stages if progress < s.end), stages[-1])


def rate_factors(names: Iterable[str], stage: StageConfig) -> dict[str, float]:
    """Factor of the learning rate of each weight; 0 for one that stands still.

    Raises
    ------
    ConfigError
        If the stage names something that the network does not have.
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
    """Raise `ConfigError` if a stage names what the network does not have, or nothing moves in it."""
    if not any(rate_factors(names, stage.config).values()):
        raise ConfigError(
            f"training.stages: nothing moves in stage {stage.number} ({stage.name})", remedy="give a rate above 0"
        )


def learning_rate(config: TrainingConfig, stage: Stage, step: int, progress: float) -> float:
    """Linear warm-up by step of the stage, then a cosine over its progress (0 to 1) down to `final_rate_share` of the peak."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    peak = stage.config.peak_rate or config.peak_rate
    return peak * warm * (config.final_rate_share + (1 - config.final_rate_share) * cosine)
