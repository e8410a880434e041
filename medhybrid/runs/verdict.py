"""Verdict on a finished training: whether it failed or was too short, why, and the next command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medhybrid.config import StudyConfig
from medhybrid.errors import MedHybridError
from medhybrid.planning.choice import steps_loss
from medhybrid.tracking.jsonl import read_log

FAILED_DICE = 0.1
"""Mean Dice below which a training has failed."""

GOOD_DICE = 0.8
"""Mean Dice from which a training is not called short, whatever its number of steps."""

SHORT_LOSS = 0.15
"""Expected loss of Dice by the number of steps, above which a training is too short."""

STILL_FALLING = 0.95
"""The loss is still falling if the mean of the last quarter is below this share of the mean of the quarter before."""

MIN_LOSSES = 8
"""Number of logged losses that are needed to judge their course."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on a training that is not good enough.

    Attributes
    ----------
    outcome : str
        `failed`, `short`, or `unscored` if no case validated.
    reasons : tuple of str
        The observation.
    command : str
        Next command; empty if a longer training does not help.
    """

    outcome: Literal["failed", "short", "unscored"]
    headline: str
    reasons: tuple[str, ...]
    command: str

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the verdict as lines of text."""
        following = (f"next: {self.command}",) if self.command else ()
        return (self.headline, *(f"  - {reason}" for reason in self.reasons), *following)


def enough_steps() -> int:
    """Return the number of steps from which a training is not too short, by the planning rule for the number of steps."""
    n = 100
    while steps_loss(n) > SHORT_LOSS:
        n += 100
    return n


def judge_training(
    folder: Path, config: StudyConfig, *, n_steps: int, elapsed_s: float, dice: float | None
) -> Verdict | None:
    """Return the verdict on a finished training; None if nothing speaks against it.

    Parameters
    ----------
    elapsed_s : float
        Length of the training in seconds.
    dice : float, optional
        Mean Dice of all validation cases; None without validation.
    """
    enough = enough_steps()
    is_short = n_steps < enough
    change = loss_change(losses_of(folder))
    reasons = []
    if is_short:
        reasons.append(f"too few steps for this plan: {n_steps} of about {enough}")
    if change is not None and change[1] < STILL_FALLING * change[0]:
        reasons.append(f"the loss is still falling: {change[0]:.2f} to {change[1]:.2f} in the last half of the run")
    command = _longer(folder, config, n_steps, enough, elapsed_s) if is_short else ""
    if dice is None and not config.training.has_validation:  # as the config asks for
        return Verdict("short", "The training was too short.", tuple(reasons), command) if is_short else None
    if dice is None:
        reasons.append("the confidence is not calibrated")
        return Verdict(
            "unscored", "The model is not scored: no case validates. Check its masks.", tuple(reasons), command
        )
    if dice < FAILED_DICE or math.isnan(dice):
        reasons.append("the confidence is not calibrated: every mask of this model needs review")
        if not is_short:
            place = folder / "pictures"
            reasons.append(f"masks may not lie on their images, or labels may be thinner than a voxel: see {place}")
        return Verdict("failed", f"The training failed: mean Dice {dice:.2f}.", tuple(reasons), command)
    if is_short and dice < GOOD_DICE:
        return Verdict("short", f"The training was too short: mean Dice {dice:.2f}.", tuple(reasons), command)
    return None


def losses_of(folder: Path) -> list[float]:
    """Return the logged losses of a run, in the order of its steps; empty without a log."""
    try:
        events = read_log(folder / "log.jsonl")
    except (OSError, UnicodeDecodeError, MedHybridError):
        return []
    values = [e["values"].get("train/loss") for e in events if isinstance(e.get("values"), dict)]
    return [v for v in values if isinstance(v, int | float)]


def loss_change(losses: Sequence[float]) -> tuple[float, float] | None:
    """Return the mean loss in the third and in the last quarter of a run; None with too few values."""
    n = len(losses) // 4
    if len(losses) < MIN_LOSSES:
        return None
    return sum(losses[-2 * n : -n]) / n, sum(losses[-n:]) / n


def _longer(folder: Path, config: StudyConfig, n_steps: int, enough: int, elapsed_s: float) -> str:
    """Return the command that extends a run to enough steps."""
    more = enough - n_steps
    if config.training.max_minutes is None:
        length = f"training.iterations=+{more}"
    else:
        length = f"training.max_minutes=+{max(1, math.ceil(elapsed_s / 60 * more / max(n_steps, 1)))}"
    return f"medhybrid train --resume --run {shlex.quote(str(folder))} {length}"
