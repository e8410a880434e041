"""Formatting of numbers for messages, with enough digits to show their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

MAX_DECIMALS = 17
"""Most digits after the point; a float64 has no more."""


def format_apart(values: Iterable[float], *, decimals: int = 3) -> list[str]:
    """Format numbers so that different numbers have different texts.

    Parameters
    ----------
    values : iterable of float
        The numbers to compare in one message.
    decimals : int
        Least number of digits after the point.

    Returns
    -------
    list of str
        One text for each number. All have the same number of digits after the point if this suffices, else all digits.

    Examples
    --------
    >>> format_apart([0.9765625, 0.976563])
    ['0.976562', '0.976563']
    >>> format_apart([3, 3])
    ['3.000', '3.000']
    """
    numbers = [float(v) for v in values]
    n_distinct = len(set(numbers))
    for digits in range(decimals, MAX_DECIMALS + 1):
        texts = [f"{v:.{digits}f}" for v in numbers]
        if len(set(texts)) >= n_distinct and not _hides_a_number(texts, numbers):
            return texts
    return [repr(v) for v in numbers]


def _hides_a_number(texts: Sequence[str], numbers: Sequence[float]) -> bool:
    """Return whether a number other than 0 is shown as 0."""
    return any(float(t) == 0 and v != 0 and math.isfinite(v) for t, v in zip(texts, numbers, strict=True))


def format_vectors_apart(vectors: Iterable[Sequence[float]], *, decimals: int = 3, joint: str = ", ") -> list[str]:
    """Format vectors of one length so that different vectors have different texts.

    Parameters
    ----------
    vectors : iterable of sequence of float
        The vectors to compare, such as positions or spacings.
    decimals : int
        Least number of digits after the point.
    joint : str
        Separator of the components.

    Returns
    -------
    list of str
        One text for each vector. Each component has enough digits to differ from the same component of the others.
    """
    columns = [format_apart(column, decimals=decimals) for column in zip(*vectors, strict=True)]
    return [joint.join(row) for row in zip(*columns, strict=True)]


def rounded(value: float, decimals: int) -> float:
    """Round to some decimals, but keep at least three significant digits of small values."""
    if value == 0 or abs(value) >= 10.0 ** (2 - decimals):
        return round(value, decimals)
    return float(f"{value:.3g}")
