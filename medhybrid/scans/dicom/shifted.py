"""Separation of repeated volumes with slightly different positions, for example after a small movement of the table.

Together, their slices are not evenly spaced. Resampling them as one volume would blend the repeats.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.number_text import format_apart
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.repeats import part_names, sort_key, trait_names
from medhybrid.scans.dicom.stack import Stack, make_stack, positions_along

MIN_SLICES = 3
"""Smallest number of slices of a volume. Fewer have no distances to compare."""

MAX_SHIFT = 0.2
"""Largest shift between repeats, as a part of the slice distance. With larger shifts, they may be passes of one volume."""

UNEVEN = ("nonuniform", "missing_slice")


def split_shifted(frames: Sequence[Frame], *, series: str) -> dict[str, list[Frame]] | None:
    """Split unevenly spaced slices into overlapping, evenly spaced volumes, by their headers.

    Returns
    -------
    dict of str to list of Frame, or None
        Name to frames of each volume; None if the slices are evenly spaced or cannot be split.

    Raises
    ------
    SeriesError
        If the volumes may also be passes of one volume (large shift).
    """
    if len(frames) < 2 * MIN_SLICES or not _is_uneven(frames, series):
        return None
    for parts in _partitions(frames):
        stacks = [_even_stack(part, series) for part in parts.values()]
        if all(stacks) and (shift := _shift([s for s in stacks if s])) is not None:
            if shift[0] <= MAX_SHIFT * shift[1]:
                return parts
            wanted, found = format_apart([shift[1], shift[0]])
            raise SeriesError(
                f"{series}: its slices form {len(parts)} stacks that are shifted against each other",
                code="multi_volume",
                series=series,
                expected="one evenly spaced stack, or volumes at nearly the same positions",
                found=f"{', '.join(parts)}: slice distance {wanted} mm, shift {found} mm",
                remedy="export each stack as a separate series",
            )
    return None


def _is_uneven(frames: Sequence[Frame], series: str) -> bool:
    try:
        fault = make_stack(frames, series=series).fault
    except SeriesError as error:
        return error.code == "duplicate_slice"
    return fault is not None and fault.code in UNEVEN


def _partitions(frames: Sequence[Frame]) -> Iterator[dict[str, list[Frame]]]:
    """Yield splits of the frames into parts of equal size: by each trait, and by halves of the instance numbers."""
    for trait in trait_names(frames):
        parts: dict[Hashable, list[Frame]] = {}
        for f in frames:
            parts.setdefault((f.traits.get(trait, ""),), []).append(f)
        sizes = {len(p) for p in parts.values()}
        if len(parts) > 1 and len(sizes) == 1 and min(sizes) >= MIN_SLICES and ("",) not in parts:
            keys = sorted(parts, key=sort_key)
            names = part_names((trait,), keys)
            yield {names[key]: parts[key] for key in keys}
    numbers = [f.number for f in frames]
    if None not in numbers and len(set(numbers)) == len(numbers) and len(frames) % 2 == 0:
        ordered = sorted(frames, key=lambda f: f.number or 0)
        half = len(ordered) // 2
        yield {"time_1": ordered[:half], "time_2": ordered[half:]}


def _even_stack(frames: Sequence[Frame], series: str) -> Stack | None:
    with suppress(SeriesError):
        stack = make_stack(frames, series=series)
        return stack if stack.fault is None else None
    return None


def _shift(stacks: Sequence[Stack]) -> tuple[float, float] | None:
    """Return the largest shift between evenly spaced stacks and their slice distance, in mm.

    Returns None if the stacks do not overlap, or have different slice distances.
    """
    places = [np.sort(positions_along([stacks[0].frames[0], *s.frames])[1:]) for s in stacks]
    if max(p[0] for p in places) >= min(p[-1] for p in places):
        return None
    step = float(np.diff(places[0]).mean())
    shifts = [float(np.abs(p - places[0]).max()) for p in places[1:]]
    return (max(shifts), step) if all(abs(np.diff(p).mean() - step) < MAX_SHIFT * step for p in places) else None
