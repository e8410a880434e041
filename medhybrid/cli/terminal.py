"""Reporters for the terminal (progress on stderr, results on stdout) and for programs (JSON lines on stdout).

File names and header texts may have control characters. These are escaped, since they could overwrite the terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from medhybrid.addresses import hide_password
from medhybrid.cli.progress_line import Clock, log_interval_s, log_line, progress_line
from medhybrid.errors import printable

JSON_INTERVAL_S = 1.0
PICTURE_COLUMNS = 120


def shown(text: str) -> str:
    """Return text as it may be shown: control characters escaped, passwords of addresses hidden."""
    return printable(hide_password(text))


class _Line(ProgressColumn):
    """Whole line of a progress bar, as wide as the terminal."""

    def __init__(self, console: Console, clock: Clock) -> None:
        super().__init__()
        self._console, self._clock = console, clock

    def render(self, task: Task) -> Text:
        """Return the line of a task."""
        fraction = task.completed / (task.total or 1.0)
        line = progress_line(
            task.description,
            fraction,
            str(task.fields["text"]),
            left_s=self._clock.left_s(fraction),
            elapsed_s=self._clock.elapsed_s(),
            width=self._console.width - 1,
            plain=self._console.options.ascii_only,
        )
        return Text(line, no_wrap=True, overflow="crop")


class TerminalReporter:
    """Reporter for the terminal; with `quiet` it shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: Any = None
        self._title, self._total, self._shown_at = "", 1.0, 0.0
        self._clock = Clock(time.monotonic)

    def begin(self, title: str, total: float) -> None:
        """Show a progress bar, or a line if stderr is not a terminal."""
        title = shown(title)
        # a total of 0 must not be divided by
        self._title, self._total, self._clock = title, max(total, 1e-9), Clock(time.monotonic)
        self._shown_at = self._clock.started
        if self.quiet or total == 0:
            return
        if self.err.is_terminal:
            self._progress = Progress(_Line(self.err, self._clock), console=self.err, transient=True)
            self._task = self._progress.add_task(title, total=self._total, text="")
            self._progress.start()
        else:
            print(title, file=sys.stderr, flush=True)

    def advance(self, done: float, text: str = "") -> None:
        """Update the progress bar; in a log file, print a line after each interval."""
        self._clock.note(done / self._total)
        if self._progress is not None:
            self._progress.update(self._task, completed=done, text=shown(text))
            return
        if self.quiet:
            return
        fraction, elapsed_s = done / self._total, self._clock.elapsed_s()
        left_s = self._clock.left_s(fraction)
        if time.monotonic() - self._shown_at > log_interval_s(elapsed_s):
            self._shown_at = time.monotonic()
            line = log_line(self._title, fraction, shown(text), left_s=left_s, elapsed_s=elapsed_s)
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Remove the progress bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def message(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            self.out.print(shown(text), markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, at most 160 characters wide if stdout is not a terminal."""
        if self.quiet:
            return
        table = Table(title=shown(title) or None, title_justify="left", show_edge=False, pad_edge=False)
        for column in columns:
            table.add_column(shown(column), overflow="fold")
        # brackets would be markup of rich
        for row in rows:
            table.add_row(*(shown(str(cell)).replace("[", r"\[") for cell in row))
        width = None if self.out.is_terminal else 160
        Console(width=width, highlight=False).print(table) if width else self.out.print(table)

    def picture(self, path: Path) -> None:
        """Print a PNG with two pixels for each character, if stdout is a terminal with true colour."""
        if self.quiet or not self.out.is_terminal or self.out.color_system != "truecolor":
            return
        from PIL import Image
        from rich_pixels import Pixels

        with Image.open(path) as image:
            width = min(self.out.width, PICTURE_COLUMNS)
            small = image.convert("RGB").resize((width, max(2, round(image.height * width / image.width))))
        self.out.print(Pixels.from_image(small))


class JsonReporter:
    """Reporter for programs: each event is a line of JSON on stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._title, self._total, self._shown_at = "", 1.0, 0.0

    def begin(self, title: str, total: float) -> None:
        """Print a `begin` event with title and total."""
        self._title, self._total, self._shown_at = title, max(total, 1e-9), time.monotonic()
        self._tell("begin", title=title, total=total)

    def advance(self, done: float, text: str = "") -> None:
        """Print a `progress` event, at most once a second."""
        if time.monotonic() - self._shown_at >= JSON_INTERVAL_S:
            self._shown_at = time.monotonic()
            self._tell("progress", title=self._title, share=round(done / self._total, 4), text=text)

    def end(self) -> None:
        """Print an `end` event."""
        self._tell("end", title=self._title)

    def message(self, text: str) -> None:
        """Print a `message` event."""
        self._tell("message", text=text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a `table` event with an object for each row."""
        self._tell("table", title=title, rows=[dict(zip(columns, map(str, row), strict=True)) for row in rows])

    def picture(self, path: Path) -> None:
        """Print a `picture` event with the path of the PNG."""
        self._tell("picture", path=str(path))

    def _tell(self, event: str, **values: object) -> None:
        if not self.quiet:
            print(json.dumps({"event": event, **values}), flush=True)
