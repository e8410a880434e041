"""What steps tell a person while they run; the command line shows it, a script may leave it silent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Receives what a step has to say."""

    def begin(self, title: str, total: float) -> None:
        """A stretch of work with a known length begins."""

    def advance(self, done: float, text: str = "") -> None:
        """`done` of the length is done."""

    def end(self) -> None:
        """The stretch is over."""

    def message(self, text: str) -> None:
        """One line."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table."""

    def picture(self, path: Path) -> None:
        """A PNG, shown where that can be."""


class Silent:
    """Says nothing."""

    def begin(self, title: str, total: float) -> None:
        """Nothing."""

    def advance(self, done: float, text: str = "") -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Nothing."""

    def picture(self, path: Path) -> None:
        """Nothing."""
