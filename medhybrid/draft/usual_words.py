"""Words that all, or any, of several names have, without those of odd files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

ODD, MIN_FILES = 0.1, 5
"""Share of odd files, at least one, that do not decide which words are usual; and the least number of files for this."""


def common_words(words: Sequence[Sequence[str]], odd: float = 0.0) -> set[str]:
    """Return the words of all names, but for a share of odd ones."""
    counts = Counter(w for found in words for w in set(found))
    return {w for w, n in counts.items() if n >= len(words) - _number_of_odd(len(words), odd)}


def any_words(words: Sequence[Sequence[str]], odd: float = 0.0) -> set[str]:
    """Return the words of any name, without those of a share of odd ones."""
    counts = Counter(w for found in words for w in set(found))
    return {w for w, n in counts.items() if n > _number_of_odd(len(words), odd)}


def _number_of_odd(n: int, share: float) -> int:
    return max(1, int(share * n)) if share and n >= MIN_FILES else 0
