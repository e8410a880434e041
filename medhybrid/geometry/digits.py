"""Numbers for messages, with as many digits as it takes to see that they differ."""

from __future__ import annotations

from collections.abc import Iterable

MIN_DIGITS = 4

MAX_DIGITS = 17
"""Significant digits that tell any two float64 values apart."""


def format_apart(a: Iterable[float], b: Iterable[float]) -> tuple[str, str]:
    """Return two sequences of numbers as text, with the fewest digits at which every differing pair differs.

    >>> format_apart([0.7, 0.7], [0.7000012, 0.7])
    ('0.7 x 0.7', '0.7000012 x 0.7')
    """
    first = [float(x) for x in a]
    second = [float(x) for x in b]
    for digits in range(MIN_DIGITS, MAX_DIGITS + 1):
        texts = [[f"{x:.{digits}g}" for x in numbers] for numbers in (first, second)]
        pairs = zip(first, second, *texts, strict=False)
        if all(x == y or text_x != text_y for x, y, text_x, text_y in pairs):
            break
    return " x ".join(texts[0]), " x ".join(texts[1])
