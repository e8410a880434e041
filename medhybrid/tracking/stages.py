"""A run of several stages: each is a nested run of its own, which has the numbers of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

from medhybrid.training.stages import Stage
from medhybrid.training.tracker import Tracker


class StageTracker:
    """Tells the run's tracker everything, and the nested run of the stage at hand its numbers.

    Parameters
    ----------
    open_stage : callable
        A tracker for a stage.
    """

    def __init__(self, run: Tracker, open_stage: Callable[[Stage], Tracker]) -> None:
        self.run, self._open_stage = run, open_stage
        self._stage: Tracker | None = None
        self._ending: list[Thread] = []

    def begin(self, stage: Stage) -> None:
        """A stage begins, or goes on; the one before is finished beside the training, for a server may be slow to take it."""
        if self._stage is not None:
            self._ending.append(Thread(target=self._stage.finish, args=("FINISHED",)))
            self._ending[-1].start()
        self._stage = self._open_stage(stage)

    @property
    def run_id(self) -> str | None:
        """Of the whole run."""
        return self.run.run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """To the run and its stage."""
        self.run.log_metrics(values, step)
        if self._stage is not None:
            self._stage.log_metrics(values, step)

    def log_image(self, path: Path, key: str, step: int) -> None:
        """To the run."""
        self.run.log_image(path, key, step)

    def log_file(self, path: Path, folder: str) -> None:
        """To the run."""
        self.run.log_file(path, folder)

    def log_table(self, path: Path, name: str) -> None:
        """To the run."""
        self.run.log_table(path, name)

    def describe(self, text: str) -> None:
        """To the run."""
        self.run.describe(text)

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """To the run."""
        self.run.log_model(folder, register_as=register_as, alias=alias)

    def finish(self, status: str) -> None:
        """The stage, then the run."""
        if self._stage is not None:
            self._stage.finish(status)
        for thread in self._ending:
            thread.join()
        self.run.finish(status)
