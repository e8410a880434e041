"""Numbers as text for messages: as many digits as their differences need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

MAX_DECIMALS = 17
"""More digits than a float64 holds are never needed."""


def format_apart(values: Iterable[float], *, decimals: int = 3) -> list[str]:
    """Format numbers so that those that differ look different.

    Parameters
    ----------
    values : iterable of float
        The numbers that one message compares.
    decimals : int
        Least number of digits after the point.

    Returns
    -------
    list of str
        One text a number, all with the same number of digits after the point where that is enough, else in full.

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
    """Format vectors of one length so that those that differ look different.

    Parameters
    ----------
    vectors : iterable of sequence of float
        For example positions or spacings.
    decimals : int
        Least number of digits after the point.
    joint : str
        Text between two components.

    Returns
    -------
    list of str
        One text a vector. Each component has the digits that tell it from the same component of the others.
    """
    columns = [format_apart(column, decimals=decimals) for column in zip(*vectors, strict=True)]
    return [joint.join(row) for row in zip(*columns, strict=True)]
