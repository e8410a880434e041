"""Budget of a training: its length, the device and the memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """Budget that a plan must fit.

    Attributes
    ----------
    minutes : float, optional
        Length of the training in minutes; None if it is given in steps.
    steps : int, optional
        Length in optimiser steps.
    memory : int
        Bytes that the training may use on its device.
    """

    minutes: float | None
    steps: int | None
    memory: int

    def __str__(self) -> str:
        return f"{self.minutes:g} minutes" if self.minutes is not None else f"{self.steps} steps"

    def n_steps(self, seconds_per_step: float) -> float:
        """Return the number of steps within the budget."""
        if self.steps is not None:
            return float(self.steps)
        assert self.minutes is not None
        return self.minutes * 60 * TRAINING_SHARE / seconds_per_step


TRAINING_SHARE = 0.93
"""Share of the time that is left for steps; validations during the run take the rest."""
