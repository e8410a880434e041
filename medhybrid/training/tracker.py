"""Protocol of experiment trackers, to which the training loop logs; `medhybrid.tracking` implements it.

Every call has plain values or paths only, so that it can be stored on disk and sent later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Experiment tracker of a run. Its methods do not raise: a failed record must not stop a training."""

    @property
    def run_id(self) -> str | None:
        """Return the id of the run in the tracking store, for resuming it."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of a step."""

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Log a figure of a step; figures with the same key form a series."""

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file or folder as artifact under `folder`."""

    def log_table(self, path: Path, name: str) -> None:
        """Log a CSV table."""

    def describe(self, text: str) -> None:
        """Set the description of the run and its results, in Markdown; it replaces an earlier one."""

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Log a model folder, and register it under a name with an alias if given."""

    def finish(self, status: str) -> None:
        """Close the run as `FINISHED`, `KILLED` or `FAILED`."""


class NoTracker:
    """Tracker that records nothing."""

    run_id: str | None = None

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Ignore metrics."""

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Ignore a figure."""

    def log_file(self, path: Path, folder: str) -> None:
        """Ignore a file."""

    def log_table(self, path: Path, name: str) -> None:
        """Ignore a table."""

    def describe(self, text: str) -> None:
        """Ignore a description."""

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Ignore a model."""

    def finish(self, status: str) -> None:
        """Do nothing."""
