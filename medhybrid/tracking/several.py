"""Tracker that forwards to several trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medhybrid.training.tracker import Tracker


class SeveralTrackers:
    """Tracker that forwards each call to all of its trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    @property
    def run_id(self) -> str | None:
        """Return the run id of the first tracker that has one."""
        return next((t.run_id for t in self.trackers if t.run_id is not None), None)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics in all trackers."""
        for t in self.trackers:
            t.log_metrics(values, step)

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Log a figure in all trackers."""
        for t in self.trackers:
            t.log_image(path, key, step)

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file in all trackers."""
        for t in self.trackers:
            t.log_file(path, folder)

    def log_table(self, path: Path, name: str) -> None:
        """Log a table in all trackers."""
        for t in self.trackers:
            t.log_table(path, name)

    def describe(self, text: str) -> None:
        """Set the description in all trackers."""
        for t in self.trackers:
            t.describe(text)

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Log a model in all trackers."""
        for t in self.trackers:
            t.log_model(folder, register_as=register_as, alias=alias)

    def finish(self, status: str) -> None:
        """Close the run in all trackers."""
        for t in self.trackers:
            t.finish(status)
