"""Labels that name a side of the body: pairs of left and right."""

from __future__ import annotations

import re
from collections.abc import Iterable

LEFT = ("left", "lt", "lh", "l", "sinister", "sin", "links", "gauche", "izquierdo", "izquierda")
RIGHT = ("right", "rt", "rh", "r", "dexter", "dex", "rechts", "droit", "derecho", "derecha")
"""Words for the sides, at the same position for the same language; `l` and `r` only as whole words."""

OTHER_SIDE = dict(zip((*LEFT, *RIGHT), (*RIGHT, *LEFT), strict=True))
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")


def side_pairs(labels: Iterable[str]) -> dict[str, str]:
    """Return the pairs of labels that differ only in their side, as left name to right name."""
    words = {name: tuple(w.casefold() for w in WORD.findall(name)) for name in labels}
    by_words = {w: n for n, w in words.items()}
    pairs: dict[str, str] = {}
    for name, found in words.items():
        for i, word in enumerate(found):
            other = by_words.get((*found[:i], OTHER_SIDE.get(word, ""), *found[i + 1 :]))
            if word in LEFT and other is not None:
                pairs[name] = other
                break
    return pairs
