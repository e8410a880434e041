"""Slices of several kinds at alternating positions: not one volume, though there is one slice at each position.

A trait such as the echo time partitions such a stack into regular sub-stacks that interleave. Variation that real volumes
have is left alone: a value that differs slice by slice, grows along the stack, or changes between concatenated blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.frames import Frame

KIND_TRAITS = (
    "stack",
    "echo",
    "inversion",
    "b",
    "direction",
    "type",
    "flip",
    "sequence",
    "contrast",
    "kvp",
    "kernel",
    "filter",
    "units",
    "rescale",
    "photometric",
    "repetition",
)
"""Traits that say of which kind a slice is. Two kinds never belong in one volume."""

TIME_TRAITS = ("time",)
"""Traits that say which time point a slice belongs to. Slices that were excited together share them, at regular distances."""

PASS_TRAITS = ("acquisition", "trigger", "cardiac", "respiratory")
"""Traits that alternate in one volume that was acquired in several passes, as interleaved slices are."""

CLOCK = "clock"
"""Interleaved acquisition gives neighbouring slices other times in every volume."""

CONTRAST_TRAITS = {"echo": 0.02, "b": 0.02}
"""Numbers that no volume has several of, in whatever order, and how much of themselves they vary between slices."""


def find_interleaved(frames: Sequence[Frame], slots: np.ndarray, *, series: str) -> tuple[str, list[str]] | None:
    """Find the trait by which slices of several kinds alternate.

    Parameters
    ----------
    frames : sequence of Frame
        One a position.
    slots : (N,) int ndarray
        The number of each frame's position along the normal.

    Returns
    -------
    tuple of str and list of str, or None
        The trait and its values in order, each of a regular sub-stack; None where the frames are of one kind.

    Raises
    ------
    SeriesError
        If slices of several kinds form no regular sub-stacks.
    """
    ordered = [frames[i] for i in np.argsort(slots)]
    dimensions = [t for t in ordered[0].traits if t not in (*KIND_TRAITS, *TIME_TRAITS, *PASS_TRAITS, CLOCK)]
    for trait in (*KIND_TRAITS, *TIME_TRAITS, *dimensions):
        values = [f.traits.get(trait, "") for f in ordered]
        if _alternate(values, is_time=trait not in KIND_TRAITS):
            return trait, sorted(set(values), key=values.index)
    for trait, tolerance in CONTRAST_TRAITS.items():
        values = [f.traits.get(trait, "") for f in ordered]
        first, other = _different_numbers(values, tolerance)
        if other is not None:
            raise SeriesError(
                f"{series}: slices of several kinds at different positions",
                code="multi_volume",
                series=series,
                expected=f"one {trait} in all slices",
                found=f"{trait} {values[first]} in {ordered[first].name} and {values[other]} in {ordered[other].name}",
                remedy="export each kind as a series of its own",
            )
    return None


def _alternate(values: Sequence[str], *, is_time: bool) -> bool:
    """Return whether each value is at regular distances of more than one position, at least twice.

    Times that repeat in few groups of many slices are kinds; in many groups of few slices, those were excited together.
    """
    places: dict[str, list[int]] = {}
    for k, value in enumerate(_without_notation(values)):
        places.setdefault(value, []).append(k)
    if len(places) < 2 or (is_time and len(places) > min(map(len, places.values()))):
        return False
    for at in places.values():
        steps = set(np.diff(at).tolist())
        if len(steps) != 1 or steps == {1}:
            return False
    return True


def _without_notation(values: Sequence[str]) -> list[str]:
    """Return values in which equal numbers and texts are written alike; numbers within a thousandth count as equal."""
    kept: list[tuple[str, float | None]] = []
    result = []
    for value in values:
        text = value.strip().rstrip("\\")
        try:
            number = float(text)
        except ValueError:
            number = None
        same = next(
            (t for t, n in kept if t == text or (n is not None and number is not None and _is_near(n, number))), None
        )
        if same is None:
            kept.append((text, number))
        result.append(text if same is None else same)
    return result


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-3 * max(abs(a), abs(b))


def _different_numbers(values: Sequence[str], tolerance: float) -> tuple[int, int | None]:
    """Return the places of two values that differ by more than a part of the larger one; None where there are none."""
    numbers = []
    for k, value in enumerate(values):
        try:
            numbers.append((float(value), k))
        except ValueError:
            continue  # absent, or several values
    if not numbers:
        return 0, None
    (least, first), (most, last) = min(numbers), max(numbers)
    if most - least <= tolerance * max(abs(most), abs(least)):
        return first, None
    return first, last
