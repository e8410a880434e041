"""Early signs that a training learns nothing: Dice that stays 0, or a loss that does not fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medhybrid.config import StudyConfig
from medhybrid.data.plan import Plan
from medhybrid.data.sides import side_pairs

SHARE = 0.1
"""Share of the run after which the signs are looked for."""

NO_DICE = 0.005
MIN_FALL = 0.03
"""A loss that fell by less than this share of the first ones has not fallen."""

LABEL_SHARE = 0.5
"""Share of the run after which single labels with Dice 0 are named."""

FEW_STEPS = 500

SHOWN = 4

MIN_LOSSES = 6
"""Number of logged losses that are needed for a judgement."""


class EarlySigns:
    """Observer of a run's losses and validations; each sign is reported once.

    Parameters
    ----------
    thin : sequence of str
        Labels that are thinner than two voxels of the network's grid, as a likely cause.
    losses : sequence of float
        Losses that were logged before the run was resumed.
    progress : float
        Share of the run that was done when it was resumed. A loss that was judged before is not judged again.
    """

    def __init__(
        self,
        config: StudyConfig,
        plan: Plan,
        thin: Sequence[str] = (),
        *,
        losses: Sequence[float] = (),
        progress: float = 0.0,
    ) -> None:
        self.config, self.plan, self.thin = config, plan, tuple(thin)
        self._losses = list(losses)
        self._is_told = {"loss"} if progress >= SHARE else set()

    def see_loss(self, progress: float, loss: float) -> str:
        """Return a message if the loss has not fallen after `SHARE` of the run; otherwise an empty text."""
        self._losses.append(loss)
        n = len(self._losses)
        if progress < SHARE or n < MIN_LOSSES or "loss" in self._is_told:
            return ""
        third = n // 3
        first, last = (sum(part) / third for part in (self._losses[:third], self._losses[-third:]))
        self._is_told.add("loss")
        if last < first - MIN_FALL * abs(first):  # a loss of the user may be negative
            return ""
        return f"the loss has not fallen after {progress:.0%} of the run ({first:.2f} to {last:.2f}); {self._causes()}"

    def see_dice(self, progress: float, dice: Mapping[str, float]) -> str:
        """Return a message if Dice is still 0 after `SHARE` of the run; otherwise an empty text.

        After `LABEL_SHARE` of the run, single labels with Dice 0 are named.

        Parameters
        ----------
        dice : mapping
            Mean Dice of each label over the cases whose reference has it: an empty mask of an empty reference says nothing.
        """
        lost = [name for name, value in dice.items() if value <= NO_DICE and name not in self._is_told]
        if progress < SHARE or not lost or "dice" in self._is_told:
            return ""
        if len(lost) == len(dice):
            self._is_told.add("dice")
            return f"Dice is still 0 after {progress:.0%} of the run; {self._causes()}"
        if progress < LABEL_SHARE:
            return ""
        self._is_told |= set(lost)
        return f"Dice of {_listed(lost)} is still 0 after {progress:.0%} of the run; {self._causes(lost)}"

    def _causes(self, labels: Sequence[str] = ()) -> str:
        """Return the likely causes, those that the plan shows first; some `labels` are lost, or all."""
        causes = []
        if thin := [name for name in self.thin if not labels or name in labels]:
            causes.append(f"labels thinner than two voxels ({_listed(thin)}): set a finer prepare.spacing_mm")
        if self.plan.prediction is not None and self.plan.prediction.steps < FEW_STEPS:
            causes.append(f"few steps ({self.plan.prediction.steps} planned): give it more time")
        if len(self.plan.channels) > 1:
            causes.append(f"channels in another order than in data.channels ({', '.join(self.plan.channels)})")
        if sides := side_pairs(self.plan.labels):
            left, right = next(iter(sides.items()))
            mirrored = ", or mirroring along axis 0 (prepare.mirror_axes)" if 0 in self.plan.mirror_axes else ""
            causes.append(f"sides ({left}, {right}) that are exchanged in some masks or images{mirrored}")
        causes.append("masks that do not lie on their images (see the figures of the run)")
        causes.append(f"a learning rate that is too high (training.peak_rate={self.config.training.peak_rate:g})")
        return f"likely causes: {'; '.join(causes)}. The run continues"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
