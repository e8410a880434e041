"""A tracker that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class NullTracker:
    """Does nothing; see `medhybrid.training.tracker.Tracker`."""

    run_id: str | None = None

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Nothing."""

    def log_file(self, path: Path, folder: str) -> None:
        """Nothing."""

    def log_table(self, path: Path, name: str) -> None:
        """Nothing."""

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """Nothing."""

    def finish(self, status: str) -> None:
        """Nothing."""
