"""What a person sees in the terminal: one progress line on stderr, tables and messages on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

PLAIN_INTERVAL_S = 30.0
"""Where stderr is no terminal, a line at most this often."""


class TerminalReporter:
    """A `Reporter` for people; quiet where asked to be."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: Any = None
        self._title, self._total, self._shown_at = "", 1.0, 0.0

    def begin(self, title: str, total: float) -> None:
        """Show a bar, or a line where there is no terminal."""
        self._title, self._total, self._shown_at = title, max(total, 1e-9), time.monotonic()
        if self.quiet or total == 0:
            return
        if self.err.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"),
            )
            self._progress = Progress(*columns, console=self.err, transient=True)
            self._task = self._progress.add_task(title, total=self._total, text="")
            self._progress.start()
        else:
            print(title, file=sys.stderr, flush=True)

    def advance(self, done: float, text: str = "") -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, text=text)
        elif not self.quiet and time.monotonic() - self._shown_at > PLAIN_INTERVAL_S:
            self._shown_at = time.monotonic()
            print(f"{self._title}: {100 * done / self._total:.0f}%  {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def message(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            self.out.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; as wide as it needs where stdout is no terminal."""
        if self.quiet:
            return
        table = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(str(cell).replace("[", r"\[") for cell in row))
        width = None if self.out.is_terminal else 160
        Console(width=width, highlight=False).print(table) if width else self.out.print(table)
