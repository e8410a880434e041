"""What the training loop tells of itself, as a protocol; `medhybrid.tracking` has the trackers.

Every call carries plain values or paths only, so that it can be kept on disk and sent later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """A record of a run. No method raises: a record that fails must not stop a training."""

    @property
    def run_id(self) -> str | None:
        """Identifier in the tracking store, to go on in the same run."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step."""

    def log_image(self, path: Path, key: str, step: int) -> None:
        """A picture of a step; pictures of one key form a series."""

    def log_file(self, path: Path, folder: str) -> None:
        """A file or folder, put under `folder`."""

    def log_table(self, path: Path, name: str) -> None:
        """A CSV table."""

    def describe(self, text: str) -> None:
        """What the run is and what came of it, in Markdown; in place of what was said before."""

    def log_model(self, folder: Path, *, register_as: str | None, alias: str) -> None:
        """A model folder."""

    def finish(self, status: str) -> None:
        """Close the run as `FINISHED`, `KILLED` or `FAILED`."""
