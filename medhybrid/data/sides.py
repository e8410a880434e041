"""Labels that name a side of the body: pairs of left and right, and whether mirroring exchanges them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEFT_RIGHT = 0
"""Axis from the patient's left to right in prepared cases, whose axes are in RAS order."""

LEFT = (
    *(
        "left",
        "lt",
        "lh",
        "l",
        "sinister",
        "sinistra",
        "sinistrum",
        "sin",
        "links",
        "linke",
        "linker",
        "linkes",
        "gauche",
    ),
    *("izquierdo", "izquierda", "esquerdo", "esquerda", "sinistro"),
)
RIGHT = (
    *(
        "right",
        "rt",
        "rh",
        "r",
        "dexter",
        "dextra",
        "dextrum",
        "dex",
        "rechts",
        "rechte",
        "rechter",
        "rechtes",
        "droite",
    ),
    *("derecho", "derecha", "direito", "direita", "destro"),
)
"""Words for the sides, at the same position for the same language; `l` and `r` only as whole words."""

OTHER_SIDE = dict(zip((*LEFT, *RIGHT), (*RIGHT, *LEFT), strict=True)) | {"droit": "gauche", "destra": "sinistra"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")

JOINED = re.compile(
    r"^(left|right|links|rechts|linke|rechte|gauche|droite?)(?=[a-z]{3})|(?<=[a-z]{3})(left|right|links|rechts)$"
)
"""A side without a separator from its structure: `leftkidney`."""

LETTERS = 3
"""Least number of letters beside a letter for the side: `lkidney`, `LMCA`. With fewer, as in `LCA`, the side is doubtful."""

DOUBTFUL = re.compile(r"l(?:[a-z]{2}|[va][\W_]?[a-z]+|[si]pv)")
"""Names with a letter for a side that may be parts of the heart or its vessels (`LVOT`, `LSPV`), or have another meaning."""

MIN_LETTERS = 4
"""Length of a word that names a side also where no label of the other side exists; shorter ones have other meanings."""

SHORT_SIDE = re.compile(
    r"[^\W\d_]{3}[^\W_]*[ _.-](?:[lr]|[lr]t|[lr]h)$|^(?:[lr]t|[lr]h|[lr])[ _.-](?=[^\W\d_]{3})", re.IGNORECASE
)
"""A letter or abbreviation of a side at either end of a name, as in treatment planning: `Parotid_L`, `Lt parotid`."""

OF_HEART = re.compile(
    r"heart|cardia|coronar|myocard|epicard|endocard|[lr]?atri(um|a|al)|[lr]?vent(ric\w*)?$"
    r"|[lr]?v(bp|myo|endo|epi|wall|cav|cavity|blood|pool|bloodpool)$"
)
"""Words of structures that are named by a side, but are no mirror images of each other."""

OF_BRAIN = re.compile(r"lat(eral)?|inf(erior)?|horn|brain|cerebr\w*|choroid|plexus|occipital|temporal|frontal")
"""Words of the brain's ventricles, which are mirror images."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Sides in the labels of a study.

    Attributes
    ----------
    pairs : tuple of (str, str)
        Labels that mirroring exchanges: left and right.
    obstacle : str
        Why mirroring along the left-right axis would give wrong labels; empty if it gives correct ones.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    obstacle: str = ""


def side_pairs(labels: Iterable[str]) -> dict[str, str]:
    """Return the pairs of labels that differ only in their side, as left name to right name."""
    words = {name: _words(name) for name in labels}
    by_words = {w: n for n, w in words.items()}
    pairs: dict[str, str] = {}
    for name, found in words.items():
        others = (
            (*found[:i], other, *found[i + 1 :]) for i, word in enumerate(found) for other in _of_other_side(word)
        )
        if (right := next((by_words[o] for o in others if o in by_words), None)) is not None:
            pairs[name] = right
    return pairs


def _of_other_side(left: str) -> list[str]:
    """Return the words for the right side of what a word names on the left; none for another word."""
    if left in LEFT:
        return [OTHER_SIDE[left], *(["droit"] if left == "gauche" else []), *(["destra"] if left == "sinistra" else [])]
    if DOUBTFUL.fullmatch(left):
        return []
    found = [f"r{left[1:]}"] if left[0] == "l" and len(left) > LETTERS else []
    return [*found, *([f"{left[:-1]}r"] if left[-1] == "l" and len(left) > LETTERS + 1 else [])]


def find_sides(
    labels: Sequence[str], regions: Mapping[str, Sequence[int]] | None = None, codes: Mapping[str, str] | None = None
) -> Sides:
    """Return the pairs of sides among labels, and whether they are complete.

    Parameters
    ----------
    labels : sequence of str
        Names of the classes 1..n.
    regions : mapping, optional
        Classes of each region. An exchange of classes must exchange whole regions, or leave them as they are.
    codes : mapping, optional
        Text of the codes of labels, which counts for labels whose names have no side.
    """
    pairs = side_pairs(labels)
    paired = {*pairs, *pairs.values()}
    texts = {n: n if n in paired or _names_side(n) else f"{n} {(codes or {}).get(n, '')}" for n in labels}
    coded = {n: (codes or {}).get(n, "") for n in labels if n not in paired and not _names_side(n)}
    named = {text: n for n, text in coded.items() if text and list(coded.values()).count(text) == 1}
    pairs |= {named[left]: named[right] for left, right in side_pairs(named).items()}
    paired = {*pairs, *pairs.values()}
    if unlike := next(((a, b) for a, b in pairs.items() if _is_of_heart(texts[a])), None):
        return Sides(obstacle=f"{unlike[0]} and {unlike[1]} are no mirror images of each other")
    if not _keeps_regions(labels, regions or {}, pairs):
        return Sides(obstacle="the regions of one side are not those of the other")
    known = {n.casefold() for n in labels}
    if doubtful := [n for n in labels if DOUBTFUL.fullmatch(n.casefold()) and f"r{n[1:].casefold()}" in known]:
        return Sides(obstacle=f"{doubtful[0]} and the label with R in place of L may be sides")
    alone = [n for n in labels if n not in paired and _names_side(texts[n]) and not _is_of_heart(texts[n])]
    obstacle = f"{alone[0]} names a side, and no label is its other side" if alone else ""
    return Sides(tuple(pairs.items()), obstacle)


def exchange_of(labels: Sequence[str], pairs: Iterable[tuple[str, str]]) -> tuple[int, ...]:
    """Return the class of each class 0..n after mirroring left-right; empty without pairs."""
    order = list(range(len(labels) + 1))
    for left, right in pairs:
        a, b = labels.index(left) + 1, labels.index(right) + 1
        order[a], order[b] = b, a
    return tuple(order) if order != sorted(order) else ()


def _words(name: str) -> tuple[str, ...]:
    words = (w.casefold() for w in WORD.findall(name))
    return tuple(part for w in words for part in JOINED.split(w) if part)


def _names_side(name: str) -> bool:
    return any(w in OTHER_SIDE and len(w) >= MIN_LETTERS for w in _words(name)) or SHORT_SIDE.search(name) is not None


def _is_of_heart(name: str) -> bool:
    words = _words(name)
    return any(OF_HEART.match(w) for w in words) and not any(OF_BRAIN.fullmatch(w) for w in words)


def _keeps_regions(labels: Sequence[str], regions: Mapping[str, Sequence[int]], pairs: Mapping[str, str]) -> bool:
    """Return whether an exchange of classes maps each region to that of the other side, or to itself."""
    order = exchange_of(labels, pairs.items()) or tuple(range(len(labels) + 1))
    of_regions = side_pairs(regions)
    other = {**of_regions, **{right: left for left, right in of_regions.items()}}
    return all({order[c] for c in classes} == set(regions[other.get(n, n)]) for n, classes in regions.items())
