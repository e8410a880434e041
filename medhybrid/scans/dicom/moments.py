"""Dates and times of DICOM (PS3.5 6.2, VR DA, TM and DT) as seconds, so that they sort across midnight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

DAY_S = 86400.0

SHORT_S = 6 * 3600.0
"""Longest acquisition that may cross midnight without dates."""

TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d*)?)?")
DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
ZONE = re.compile(r"([+-])(\d{2})(\d{2})$")


def seconds_of(date: str, time: str) -> str:
    """Return a date and a time as decimal seconds since year 1; without a date, since midnight.

    A text that is not a time is returned as it is.
    """
    clock = TIME.fullmatch(time.strip())
    if clock is None:
        return time
    hours, minutes, seconds = (float(part or 0) for part in clock.groups())
    return f"{_day(date) * DAY_S + hours * 3600 + minutes * 60 + seconds:.6f}"


def seconds_of_both(moment: str) -> str:
    """Return a DICOM date and time (DT), such as `20260131235950.5+0100`, as decimal seconds in UTC since year 1.

    A text that is not a date with a time is returned as it is.
    """
    text = moment.strip()
    zone = ZONE.search(text)
    local = text[: zone.start()] if zone else text
    if not _day(local[:8]) or not TIME.fullmatch(local[8:]):
        return moment
    ahead = int(f"{zone[1]}1") * (int(zone[2]) * 3600 + int(zone[3]) * 60) if zone else 0
    return f"{float(seconds_of(local[:8], local[8:])) - ahead:.6f}"


def _day(date: str) -> int:
    """Return the number of a day; 0 without a date."""
    found = DATE.fullmatch(date.strip())
    try:
        return datetime(*map(int, found.groups())).toordinal() if found else 0  # type: ignore[arg-type]
    except ValueError:
        return 0


def unwrapped(seconds: Sequence[float]) -> list[float]:
    """Return times since midnight in order: those after midnight are a day later, if the acquisition crosses it.

    It does if the times span most of a day, but only a few hours from one of them on. Times with dates are unchanged.
    """
    if max(seconds) - min(seconds) < DAY_S - SHORT_S or max(seconds) >= DAY_S:
        return list(seconds)
    late = [s for s in seconds if s >= DAY_S / 2]
    moved = [s if s >= DAY_S / 2 else s + DAY_S for s in seconds]
    return moved if late and max(moved) - min(moved) <= SHORT_S else list(seconds)
