"""Conversion of metadata texts to numbers. The texts may have units, decimal commas and words in several languages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from medhybrid.scans.contrast import has_contrast_agent

NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\W\d_]*)\.?")
"""A number with an optional unit."""

DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)(?=\s*[^\W\d_]*\.?$)")

BLANK = ("", "na", "n/a", "n.a.", "nan", "none", "null", "unknown", "unbekannt", "not known", "-", "--", "?", ".")
"""Texts for an unknown value, in lower case."""

OTHER_SEX = ("o", "other", "d", "divers", "diverse", "u", "x", "nb", "intersex")
"""Known values of sex other than F and M. They are treated as absent without a warning."""

SEXES = {
    **dict.fromkeys(("f", "female", "w", "weiblich", "woman", "girl", "frau", "femme"), 0.0),
    **dict.fromkeys(("m", "male", "männlich", "maennlich", "man", "boy", "mann", "homme"), 1.0),
}

AGES = {
    **dict.fromkeys(("", "y", "yr", "yrs", "yo", "year", "years", "j", "jahr", "jahre", "a"), 1.0),
    **dict.fromkeys(("m", "mo", "mon", "month", "months", "monat", "monate"), 1 / 12),
    **dict.fromkeys(("w", "wk", "week", "weeks", "woche", "wochen"), 1 / 52.18),
    **dict.fromkeys(("d", "day", "days", "tag", "tage"), 1 / 365.25),
}
LENGTHS = {"": 1.0, "mm": 1.0, "cm": 10.0}
TIMES = {**dict.fromkeys(("", "ms", "msec"), 1.0), **dict.fromkeys(("s", "sec"), 1000.0)}
FIELDS = {**dict.fromkeys(("", "t", "tesla"), 1.0), "mt": 0.001}
"""Units in lower case, with their factors to years, mm, ms and tesla."""


def with_decimal_point(text: str, separator: str) -> str:
    """Replace the decimal comma of a table cell by a point, if the table's separator shows that it is decimal.

    Three digits after a comma may be thousands, unless the table's separator is a semicolon.
    """
    met = DECIMAL_COMMA.match(text)
    if met is None or separator == "," or (separator != ";" and len(met[2]) == 3):
        return text
    return f"{met[1]}.{text[met.end(1) + 1 :]}"


def is_blank(text: object) -> bool:
    """Return True if a text stands for an unknown value."""
    return text is None or str(text).strip().lower() in BLANK


def _measure(units: dict[str, float]) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        met = NUMBER.fullmatch(str(value).strip())
        if met is None or met[2].lower() not in units:
            return None
        number = float(met[1])
        if met[2]:
            number = number * units[met[2].lower()]
        return number if np.isfinite(number) else None

    return read


def _sex(value: Any) -> float | None:
    """Return 0 for F, 1 for M and None for other values."""
    return SEXES.get(str(value).strip().lower())


def _age(value: Any) -> float | None:
    """Return an age in years, also from a DICOM age string: 045Y, 018M, 012W, 005D."""
    if met := re.fullmatch(r"(\d{1,3})([YMWD])", str(value).strip().upper()):
        return int(met[1]) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[met[2]]
    return _measure(AGES)(value)


def _contrast(value: Any) -> float | None:
    """Return 1 with a contrast agent, 0 without, None if unknown; see `has_contrast_agent`."""
    has_agent = has_contrast_agent(value)
    return None if has_agent is None else float(has_agent)


READERS: dict[str, Callable[[Any], float | None]] = {
    "pixel_mm": _measure(LENGTHS),
    "slice_mm": _measure(LENGTHS),
    "field_strength_t": _measure(FIELDS),
    "echo_time_ms": _measure(TIMES),
    "repetition_time_ms": _measure(TIMES),
    "inversion_time_ms": _measure(TIMES),
    "contrast_agent": _contrast,
    "age_years": _age,
    "sex": _sex,
}
"""The function that converts a text to a number, for each metadata field."""


def cannot_be_read(field: str, value: Any) -> bool:
    """Return True if a field has a value that cannot be converted, so that the user must be warned."""
    if is_blank(value) or (field == "sex" and str(value).strip().lower() in OTHER_SEX):
        return False
    return READERS[field](value) is None
