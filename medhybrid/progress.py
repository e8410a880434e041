"""Interface for the progress and messages of steps; the command line shows them, scripts may not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Receiver of the progress, messages and tables of a step."""

    def begin(self, title: str, total: float) -> None:
        """Start the progress of work with a total length."""

    def advance(self, done: float, text: str = "") -> None:
        """Set the progress to `done` of the total."""

    def end(self) -> None:
        """End the progress."""

    def message(self, text: str) -> None:
        """Show one line."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table."""

    def picture(self, path: Path) -> None:
        """Show a PNG, if possible."""


class Silent:
    """Reporter that shows nothing."""

    def begin(self, title: str, total: float) -> None:
        """Do nothing."""

    def advance(self, done: float, text: str = "") -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Do nothing."""

    def picture(self, path: Path) -> None:
        """Do nothing."""
