"""Progress as one line of text: time left, bar, share done, time spent, and a text, within the width of the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable

GAP = "  "
MIN_BAR, MAX_BAR = 8, 40
"""Width of the bar in characters."""

LEFT_WIDTH = len("59 min left")


AT_START_S = 0.05
"""Seconds after the start in which no work can have been done."""


class Clock:
    """Time of a piece of work, from which the time left is estimated.

    Parameters
    ----------
    now : callable
        Returns the time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.started = now()
        self._first: float | None = None

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return self._now() - self.started

    def note(self, fraction: float) -> None:
        """Note the share that is done; what is done at the very start was done earlier, by an interrupted run."""
        if self._first is None:
            self._first = fraction if self.elapsed_s() < AT_START_S else 0.0

    def left_s(self, fraction: float) -> float | None:
        """Estimate the seconds left; None until a part of the work is done."""
        done = fraction - (self._first or 0.0)
        return self.elapsed_s() * (1 - fraction) / done if done > 1e-9 else None


def duration(seconds: float) -> str:
    """Return a duration in words: `45 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock_time(seconds: float) -> str:
    """Return a duration as `0:45`, `12:03` or `2:05:10`."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def progress_line(
    title: str,
    fraction: float,
    text: str,
    *,
    left_s: float | None,
    elapsed_s: float,
    width: int,
    plain: bool = False,
) -> str:
    """Return the line of a progress bar, at most `width` characters long.

    Parameters
    ----------
    fraction : float
        Share of the work that is done, in [0, 1].
    text : str
        State of the work. The title precedes it if there is room for both.
    left_s : float, optional
        Estimated seconds left.
    plain : bool
        Draw the bar with ASCII characters.
    """
    fraction = min(1.0, max(0.0, fraction))
    left = "estimating" if left_s is None else f"{duration(left_s)} left"
    head, done = f"{left:<{LEFT_WIDTH}}", f"{math.floor(100 * fraction):3d} %"
    fixed = len(head) + len(done) + len(clock_time(elapsed_s)) + 4 * len(GAP)
    room = width - fixed
    titled = f"{title}: {text}" if title and text else title or text
    shown = titled if len(titled) + MIN_BAR <= room else text or title
    shown = shown if len(shown) + MIN_BAR <= room else f"{shown[: max(0, room - MIN_BAR - 1)]}…"
    size = max(MIN_BAR, min(MAX_BAR, room - len(shown)))
    full = round(size * fraction)
    bar = ("#" if plain else "━") * full + ("-" if plain else "╌") * (size - full)
    return GAP.join([head, bar, done, clock_time(elapsed_s), shown]).rstrip()[:width]


def log_line(title: str, fraction: float, text: str, *, left_s: float | None, elapsed_s: float) -> str:
    """Return the line of progress in a log file, where nothing can be overwritten."""
    left = "" if left_s is None else f"{duration(left_s)} left, "
    return f"{title}: {100 * fraction:.0f} %, {left}{clock_time(elapsed_s)} elapsed  {text}".rstrip()


def log_interval_s(elapsed_s: float) -> float:
    """Return the seconds between two lines in a log file: 30, and a twentieth of the time spent for long work."""
    return max(PLAIN_INTERVAL_S, elapsed_s / 20)


PLAIN_INTERVAL_S = 30.0
"""Shortest time between two lines of progress in a log file, in seconds."""
