"""Tracking of a run with stages: each stage is a nested run with the metrics of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

from medhybrid.training.stages import Stage
from medhybrid.training.tracker import Tracker


class StageTracker:
    """Tracker that forwards all calls to the tracker of the run, and metrics also to the nested run of the current stage.

    Parameters
    ----------
    open_stage : callable
        Returns a tracker for a stage.
    """

    def __init__(self, run: Tracker, open_stage: Callable[[Stage], Tracker]) -> None:
        self.run, self._open_stage = run, open_stage
        self._stage: Tracker | None = None
        self._ending: list[Thread] = []

    def begin(self, stage: Stage) -> None:
        """Start or resume a stage; the previous one is finished in a thread, because the server may be slow."""
        if self._stage is not None:
            self._ending.append(Thread(target=self._stage.finish, args=("FINISHED",)))
            self._ending[-1].start()
        self._stage = self._open_stage(stage)

    @property
    def run_id(self) -> str | None:
        """Return the id of the whole run."""
        return self.run.run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics to the run and to its stage."""
        self.run.log_metrics(values, step)
        if self._stage is not None:
            self._stage.log_metrics(values, step)

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Log a figure in the tracker of the run."""
        self.run.log_image(path, key, step)

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file in the tracker of the run."""
        self.run.log_file(path, folder)

    def log_table(self, path: Path, name: str) -> None:
        """Log a table in the tracker of the run."""
        self.run.log_table(path, name)

    def describe(self, text: str) -> None:
        """Set the description in the tracker of the run."""
        self.run.describe(text)

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Log a model in the tracker of the run."""
        self.run.log_model(folder, register_as=register_as, alias=alias)

    def finish(self, status: str) -> None:
        """Close the stage, then the run."""
        if self._stage is not None:
            self._stage.finish(status)
        for thread in self._ending:
            thread.join()
        self.run.finish(status)
