"""Regions among the labels of a config: `whole_tumour: [1, 2, 3]`, trained and scored as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def classes_of(regions: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return a class for each value of some regions.

    A value that is in one region alone, or in the innermost of several, has the name of this region. The part of a region
    outside the inner ones is `NAME_rest`. If two values are in the same regions, their names have numbers.
    """
    values = sorted({v for found in regions.values() for v in found})
    sizes = {n: len(set(found)) for n, found in regions.items()}
    names: dict[int, str] = {}
    for value in values:
        inside = [n for n, found in regions.items() if value in found]
        inner = min(inside, key=lambda n: (sizes[n], -list(regions).index(n)))
        is_whole = not any(set(found) < set(regions[inner]) for found in regions.values())
        names[value] = inner if is_whole else f"{inner}_rest"
    found = list(names.values())
    return {n if found.count(n) == 1 else f"{n}_{found[: i + 1].count(n)}": v for i, (v, n) in enumerate(names.items())}


def class_indices(regions: Mapping[str, Sequence[int]], labels: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the classes 1..n of each region, in the order of the labels (name to value in files)."""
    return {
        name: tuple(i for i, v in enumerate(labels.values(), start=1) if v in found) for name, found in regions.items()
    }
