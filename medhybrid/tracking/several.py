"""One tracker that tells several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medhybrid.training.tracker import Tracker


class SeveralTrackers:
    """Passes each call on; the first one with a run id gives it."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    @property
    def run_id(self) -> str | None:
        """Identifier in the first store that has one."""
        return next((t.run_id for t in self.trackers if t.run_id is not None), None)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """To all."""
        for t in self.trackers:
            t.log_metrics(values, step)

    def log_image(self, path: Path, key: str, step: int) -> None:
        """To all."""
        for t in self.trackers:
            t.log_image(path, key, step)

    def log_file(self, path: Path, folder: str) -> None:
        """To all."""
        for t in self.trackers:
            t.log_file(path, folder)

    def log_table(self, path: Path, name: str) -> None:
        """To all."""
        for t in self.trackers:
            t.log_table(path, name)

    def describe(self, text: str) -> None:
        """To all."""
        for t in self.trackers:
            t.describe(text)

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """To all."""
        for t in self.trackers:
            t.log_model(folder, register_as=register_as, alias=alias)

    def finish(self, status: str) -> None:
        """To all."""
        for t in self.trackers:
            t.finish(status)
