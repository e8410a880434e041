"""Text table of two columns for the difference between two sides, such as a dataset and a config."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 79
"""Width in characters, so that a line fits into a terminal of 80 columns."""

GAP = "  "


def two_columns(rows: Sequence[tuple[str, str, str]], left: str, right: str) -> str:
    """Return lines with a name, the value on the left side and the value on the right side.

    Parameters
    ----------
    rows : sequence of (str, str, str)
        Name and both values. Long values are wrapped.
    left, right : str
        Headings of the columns.
    """
    names = max(len(name) for name, _, _ in rows)
    room = (WIDTH - names - 3 * len(GAP)) // 2
    widest = max(len(text) for _, text, _ in [("", left, ""), *rows])
    width = min(room, widest)
    lines = []
    for name, first, second in (("", left, right), *rows):
        sides = [textwrap.wrap(text, size) or [""] for text, size in ((first, width), (second, 2 * room - width))]
        for i in range(max(map(len, sides))):
            a, b = (side[i] if i < len(side) else "" for side in sides)
            lines.append(f"{GAP}{name if i == 0 else '':<{names}}{GAP}{a:<{width}}{GAP}{b}".rstrip())
    return "\n".join(lines)
