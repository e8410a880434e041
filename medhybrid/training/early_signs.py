"""Early signs that a training learns nothing: Dice that stays 0, or a loss that does not fall."""

from __future__ import annotations

from collections.abc import Sequence

from medhybrid.data.plan import Plan

SHARE = 0.1
"""Share of the run after which the signs are looked for."""

NO_DICE = 0.005
NO_FALL = 0.97
"""A loss above this share of the first ones has not fallen."""

MIN_LOSSES = 6
"""Number of logged losses that are needed for a judgement."""


class EarlySigns:
    """Observer of a run's losses and validations; each sign is told once.

    Parameters
    ----------
    thin : sequence of str
        Labels that are thinner than two voxels of the network's grid, as a likely cause.
    """

    def __init__(self, plan: Plan, thin: Sequence[str] = ()) -> None:
        self.plan, self.thin = plan, tuple(thin)
        self._losses: list[float] = []
        self._is_told: set[str] = set()

    def see_loss(self, progress: float, loss: float) -> str:
        """Return a message if the loss has not fallen after `SHARE` of the run; otherwise an empty text."""
        self._losses.append(loss)
        n = len(self._losses)
        if progress < SHARE or n < MIN_LOSSES or "loss" in self._is_told:
            return ""
        third = n // 3
        first, last = (sum(part) / third for part in (self._losses[:third], self._losses[-third:]))
        self._is_told.add("loss")
        if last < NO_FALL * first:
            return ""
        return f"the loss has not fallen after {progress:.0%} of the run ({first:.2f} to {last:.2f}); {self._causes()}"

    def see_dice(self, progress: float, dice: float) -> str:
        """Return a message if the mean Dice is still 0 after `SHARE` of the run; otherwise an empty text."""
        if progress < SHARE or dice > NO_DICE or "dice" in self._is_told:
            return ""
        self._is_told.add("dice")
        return f"Dice is still 0 after {progress:.0%} of the run; {self._causes()}"

    def _causes(self) -> str:
        """Return the likely causes, those that the plan shows first."""
        causes = []
        if self.thin:
            causes.append(
                f"labels thinner than two voxels ({', '.join(self.thin[:4])}): set a finer prepare.spacing_mm"
            )
        if self.plan.prediction is not None and self.plan.prediction.steps < 500:
            causes.append(f"few steps ({self.plan.prediction.steps} planned): give it more time")
        if len(self.plan.channels) > 1:
            causes.append("channels in another order than in data.channels")
        causes += ["masks that do not lie on their images (see the figures of the run)", "a high training.peak_rate"]
        return f"likely causes: {'; '.join(causes)}. The run continues"
