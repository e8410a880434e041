"""The recorded terminal session of the docs: synthetic brains, from a folder to a report.

    python docs/make_terminal.py

Runs the commands in a temporary folder, and writes docs/images/terminal.svg: 80 columns, the lines in the order and with the
pauses in which they were printed, none longer than `LONGEST_PAUSE_S`. It takes some minutes.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGES = Path(__file__).parent / "images"

COLUMNS, ROWS = 80, 30
LONGEST_PAUSE_S = 2.0
TYPING_S = 1.2
"""Time for which a command is shown before its first line."""

BLANK = "\N{NO-BREAK SPACE}"
"""Blanks of a table, which browsers would join."""

WIDTH, HEIGHT, MARGIN = 8.4, 18, 14
"""Size of a character and margin, in pixels."""

COMMANDS = (
    "ls brains",
    "medhybrid train brains --minutes 2",
    "medhybrid predict brains/new_scans --model runs/brains/* --out results",
    "medhybrid report results",
)


@dataclass(frozen=True, slots=True)
class Line:
    """Line of a session, with the time in seconds at which it appears."""

    seconds: float
    text: str
    is_command: bool = False


def record(commands: Sequence[str], folder: Path) -> list[Line]:
    """Run commands in a folder and return what they print, with shortened pauses; raise if one fails."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    lines: list[Line] = []
    now = 0.0
    for command in commands:
        lines.append(Line(now, f"$ {command}", is_command=True))
        now += TYPING_S
        last = time.monotonic()
        ours, theirs = pty.openpty()  # programs fit their tables to a terminal, not to a pipe
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        with subprocess.Popen(
            command, shell=True, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            for printed in _lines(ours):
                now += min(time.monotonic() - last, LONGEST_PAUSE_S)
                last = time.monotonic()
                if printed:  # progress is drawn on a line of its own, and removed
                    lines.append(Line(now, printed))
        os.close(ours)
        if process.returncode:
            raise SystemExit("\n".join(line.text for line in lines))
        now += LONGEST_PAUSE_S
    return lines


def _lines(terminal: int) -> Iterator[str]:
    """Yield the lines that are printed to a terminal; of a line that is drawn several times, the last state."""
    rest = b""
    while True:
        try:
            block = os.read(terminal, 65_536)
        except OSError:  # the program has ended
            if rest:
                yield rest.decode(errors="replace").rstrip("\r ")
            return
        *complete, rest = (rest + block).split(b"\n")
        for line in complete:
            yield line.decode(errors="replace").rstrip("\r ").rpartition("\r")[2].rstrip()


def wrapped(lines: Sequence[Line]) -> list[Line]:
    """Return the lines as a terminal of `COLUMNS` shows them: longer ones go on in the next row."""
    return [
        Line(line.seconds, line.text[start : start + COLUMNS], line.is_command)
        for line in lines
        for start in range(0, max(len(line.text), 1), COLUMNS)
    ]


def svg_of(lines: Sequence[Line]) -> str:
    """Return an animated SVG that plays once and ends with the last rows."""
    rows = wrapped(lines)
    width, height = COLUMNS * WIDTH + 2 * MARGIN, ROWS * HEIGHT + 2 * MARGIN
    texts, scrolls = [], []
    for number, row in enumerate(rows):
        y = MARGIN + (number + 0.75) * HEIGHT
        colour = "#8fd18f" if row.is_command else "#e6e6e6"
        appears = f'<set attributeName="visibility" to="visible" begin="{row.seconds:.2f}s" fill="freeze"/>'
        text = html.escape(row.text).replace(" ", BLANK)
        texts.append(f'<text x="{MARGIN}" y="{y:g}" fill="{colour}" visibility="hidden">{text}{appears}</text>')
        if number >= ROWS:
            up = (number + 1 - ROWS) * HEIGHT
            scrolls.append(
                f'<animateTransform attributeName="transform" type="translate" to="0 {-up}" begin="{row.seconds:.2f}s" '
                'dur="0.01s" fill="freeze"/>'
            )
    newline = "\n"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>Terminal session: train on a folder, predict new scans, write a report</title>
<rect width="100%" height="100%" rx="6" fill="#1e1e1e"/>
<clipPath id="screen"><rect x="0" y="{MARGIN}" width="{width:g}" height="{ROWS * HEIGHT}"/></clipPath>
<g clip-path="url(#screen)"><g font-family="monospace" font-size="14">
{newline.join(scrolls)}
{newline.join(texts)}
</g></g>
</svg>
"""


def main() -> None:
    """Write the data, run the commands and write the picture."""
    from medhybrid.steps.demo_data import write_demo_data

    with tempfile.TemporaryDirectory() as folder:
        write_demo_data(Path(folder) / "brains")
        lines = record(COMMANDS, Path(folder))
    (IMAGES / "terminal.svg").write_text(svg_of(lines))


if __name__ == "__main__":
    main()
