"""The volumes of a series: told apart by their headers, or refused with the list of what differs.

Frames of several sizes, orientations or frames of reference are several stacks. Several frames at one position are time
points, echoes, frame types or diffusion weightings: the first attribute, or the first two or three together, that put exactly
one frame of each volume at every position tell them apart; a run of instance numbers does so too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.geometry import orientation_code
from medhybrid.number_text import format_vectors_apart
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.interleaved import find_interleaved
from medhybrid.scans.dicom.stack import (
    ORIENTATION_TOLERANCE,
    PLACE_TOLERANCE_VOXEL,
    Stack,
    make_stack,
    positions_along,
    same_position_mm,
)

TRAIT_ORDER = ("stack", "type", "echo", "inversion", "b", "time", "acquisition", "trigger", "clock")
"""Which attribute is tried first to tell volumes apart; the others follow."""

MAX_VOLUMES = 10_000
"""A series is not split into more volumes."""

PLANES = {"L": "sagittal", "R": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of a series.

    Attributes
    ----------
    name : str
        What tells it from the others of its series (``echo_2``, ``sagittal``); empty where it is the only one.
    """

    name: str
    stack: Stack


def split_volumes(frames: Sequence[Frame], *, series: str) -> list[Volume]:
    """The volumes of one series, in the order of their names.

    Raises
    ------
    SeriesError
        If the headers do not tell volumes apart, or leave slices over.
    """
    if not frames:
        raise SeriesError(f"{series}: no DICOM image", code="no_dicom", series=series, remedy="check the folder")
    groups = _grids(frames)
    _refuse_leftovers(groups, series)
    volumes = []
    for group in groups:
        name = _grid_name(group, groups)
        volumes += [
            Volume("__".join(filter(None, (name, v.name))), v.stack) for v in _split_repeats(group, series=series)
        ]
    names = [v.name for v in volumes]
    return [
        Volume(f"{v.name}_{names[:i].count(v.name) + 1}" if names.count(v.name) > 1 else v.name, v.stack)
        for i, v in enumerate(volumes)
    ]


def _grids(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of one size, spacing, frame of reference and orientation (within tolerance)."""
    groups: list[list[Frame]] = []
    for f in frames:
        for group in groups:
            g = group[0]
            if (
                (f.rows, f.columns, f.frame_of_reference) == (g.rows, g.columns, g.frame_of_reference)
                and np.allclose(f.spacing_mm, g.spacing_mm, rtol=_spacing_tolerance(f), atol=1e-7)
                and np.abs(np.subtract(f.orientation, g.orientation)).max() <= ORIENTATION_TOLERANCE
            ):
                group.append(f)
                break
        else:
            groups.append([f])
            if len(groups) > MAX_VOLUMES:
                raise SeriesError(f"{series_of(frames)}: every frame differs", code="mixed_orientation")
    return groups


def _spacing_tolerance(frame: Frame) -> float:
    """Return how much of itself a pixel spacing may differ: its last pixel moves by less than the tolerance of a place."""
    return max(1e-5, PLACE_TOLERANCE_VOXEL / max(frame.rows, frame.columns))


def series_of(frames: Sequence[Frame]) -> str:
    """Return a name for messages."""
    return frames[0].path.parent.name


def _refuse_leftovers(groups: Sequence[Sequence[Frame]], series: str) -> None:
    """Several stacks are taken only if each is a stack, and differs by more than its size."""
    if len(groups) == 1:
        return
    turns = _distinct([g[0].orientation for g in groups])
    if turns > 1 and max(map(len, groups)) == 1:
        raise SeriesError(
            f"{series}: a localizer: {len(groups)} single slices in {turns} orientations",
            code="localizer",
            series=series,
        )
    smallest = min(groups, key=len)
    if len(smallest) > 1 and turns == len(groups):
        return
    differs = "orientation" if turns > 1 else _what_differs(groups)
    shown = _describe([g[0] for g in groups], differs)
    raise SeriesError(
        f"{series}: slices differ in {differs}, and the headers do not say that they are volumes of their own",
        code="mixed_orientation" if turns > 1 else "mixed_shape",
        series=series,
        expected="one grid, or whole stacks in orientations of their own",
        found="; ".join(f"{len(g)} of {text}" for g, text in list(zip(groups, shown, strict=True))[:4])
        + f"; first odd one {smallest[0].name}",
        remedy="export each stack as a series of its own",
    )


def _distinct(orientations: Sequence[Sequence[float]]) -> int:
    kept: list[Sequence[float]] = []
    for o in orientations:
        if all(np.abs(np.subtract(o, k)).max() > ORIENTATION_TOLERANCE for k in kept):
            kept.append(o)
    return len(kept)


def _what_differs(groups: Sequence[Sequence[Frame]]) -> str:
    if len({(g[0].rows, g[0].columns) for g in groups}) > 1:
        return "size"
    return "frame of reference" if len({g[0].frame_of_reference for g in groups}) > 1 else "pixel spacing"


def _describe(frames: Sequence[Frame], differs: str) -> list[str]:
    """Return one text a frame; those of frames that differ are different."""
    spacings = format_vectors_apart([f.spacing_mm for f in frames], joint=" x ")
    texts = [
        f"{f.rows} x {f.columns} pixels of {spacing} mm, {plane_of(f)}"
        for f, spacing in zip(frames, spacings, strict=True)
    ]
    if differs == "orientation":
        turns = format_vectors_apart([f.orientation for f in frames])
        return [f"{text} ({turn})" for text, turn in zip(texts, turns, strict=True)]
    if differs == "frame of reference":
        return [f"{text}, frame of reference {n}" for n, text in enumerate(texts, start=1)]
    return texts


def plane_of(frame: Frame) -> str:
    """The plane nearest to the slice: axial, sagittal or coronal."""
    affine = np.eye(4)
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row, column, np.cross(row, column)
    return PLANES[orientation_code(affine)[2]]


def _grid_name(group: Sequence[Frame], groups: Sequence[Sequence[Frame]]) -> str:
    return plane_of(group[0]) if len(groups) > 1 else ""


def _split_repeats(frames: Sequence[Frame], *, series: str) -> list[Volume]:
    slots = _slots(frames)
    repeats = int(np.bincount(slots).max())
    if repeats == 1:
        kinds = find_interleaved(frames, slots, series=series)
        if kinds is None:
            return [Volume("", _stack_of_one_kind(frames, series))]
        return _split_kinds(frames, *kinds, series=series)
    parts = _by_traits(frames, slots) or _by_runs(frames, slots, repeats)
    if parts is None or any(len(p) < 2 for p in parts.values()):
        n_positions = int(slots.max()) + 1
        whole = len(frames) == repeats * n_positions
        raise SeriesError(
            f"{series}: {len(frames)} images at {n_positions} slice positions, and the headers do not tell them apart",
            code="multi_volume" if whole else "duplicate_slice",
            series=series,
            expected="one image a position",
            found=_differences(frames),
            remedy="split time points, echoes or repeats into series of their own",
        )
    return [Volume(name, _stack_of_one_kind(part, series)) for name, part in parts.items()]


def _split_kinds(frames: Sequence[Frame], trait: str, values: Sequence[str], *, series: str) -> list[Volume]:
    """Return the volumes of slices that alternate in a trait."""
    keys = sorted(((v,) for v in values), key=_sort_key)
    names = _part_names((trait,), keys)
    parts = {names[key]: [f for f in frames if f.traits.get(trait, "") == key[0]] for key in keys}
    return [Volume(name, _stack_of_one_kind(part, series)) for name, part in parts.items()]


def _stack_of_one_kind(frames: Sequence[Frame], series: str) -> Stack:
    if len({f.is_rescaled for f in frames}) > 1:
        odd = next(f for f in frames if not f.is_rescaled)
        raise SeriesError(
            f"{series}: {odd.name} has no rescaling and the other slices do",
            code="not_image",
            series=series,
            path=odd.path,
            expected="RescaleSlope and RescaleIntercept in every slice, or in none",
            remedy="export the series again",
        )
    return make_stack(frames, series=series)


def _slots(frames: Sequence[Frame]) -> np.ndarray:
    """The number of each frame's position along the normal."""
    along = positions_along(frames)
    order = np.argsort(along, kind="stable")
    steps = np.concatenate([[0], np.cumsum(np.diff(along[order]) >= same_position_mm(frames))])
    slots = np.empty(len(frames), int)
    slots[order] = steps
    return slots


def _by_traits(frames: Sequence[Frame], slots: np.ndarray) -> dict[str, list[Frame]] | None:
    """Tell volumes apart by the usual traits, else by any."""
    names = [t for t in _trait_names(frames) if len({f.traits.get(t, "") for f in frames}) > 1]
    usual = [t for t in names if t in TRAIT_ORDER]
    return _by_some_of(usual, frames, slots) or _by_some_of(names, frames, slots)


def _trait_names(frames: Sequence[Frame]) -> list[str]:
    """Return the names of all traits, the usual ones first."""
    return list(dict.fromkeys([*TRAIT_ORDER, *(t for f in frames for t in f.traits)]))


def _by_some_of(varying: Sequence[str], frames: Sequence[Frame], slots: np.ndarray) -> dict[str, list[Frame]] | None:
    """Return the volumes that the first one, two or three of these traits tell apart."""
    for n in (1, 2, 3):
        for chosen in combinations(varying, n):
            parts: dict[Hashable, list[int]] = {}
            for i, f in enumerate(frames):
                parts.setdefault(tuple(f.traits.get(t, "") for t in chosen), []).append(i)
            if len(parts) < 2 or any(any(not v for v in key) for key in parts):  # type: ignore[attr-defined]
                continue
            if all(len(p) == slots.max() + 1 == len(set(slots[p])) for p in parts.values()):
                names = _part_names(chosen, sorted(parts, key=_sort_key))
                return {names[key]: [frames[i] for i in parts[key]] for key in sorted(parts, key=_sort_key)}
    return None


def _sort_key(key: Hashable) -> tuple[tuple[int, float, str], ...]:
    """Numbers by value, texts by letters."""

    def one(v: str) -> tuple[int, float, str]:
        try:
            return (0, float(v), "")
        except ValueError:
            return (1, 0.0, v)

    return tuple(one(v) for v in key)  # type: ignore[attr-defined]


def _part_names(chosen: Sequence[str], keys: Sequence[Hashable]) -> dict[Hashable, str]:
    """Numbered names; only numbers of the scanner's physics are shown, never free text."""
    columns = list(zip(*keys, strict=True))
    numbered = [sorted(set(c), key=lambda v: _sort_key((v,))) for c in columns]
    names = {}
    for key in keys:
        words = []
        for trait, value, known in zip(chosen, key, numbered, strict=True):  # type: ignore[call-overload]
            shown = _show_value(trait, value, known)
            words.append(f"{'time' if trait == 'clock' else trait}_{shown}")
        names[key] = "_".join(words)
    return names


def _show_value(trait: str, value: str, known: Sequence[str]) -> str:
    """Return the b-value, where it names a volume alone; else the number of a value among those that are known."""
    try:
        weightings = [f"{float(v):g}" for v in known] if trait == "b" else []
    except ValueError:
        weightings = []
    is_clear = len(set(weightings)) == len(known)
    return weightings[known.index(value)] if is_clear else str(known.index(value) + 1)


def _by_runs(frames: Sequence[Frame], slots: np.ndarray, repeats: int) -> dict[str, list[Frame]] | None:
    """Volumes acquired one after another: each run of instance numbers passes every position once, in one order."""
    numbers = [f.number for f in frames]
    n = int(slots.max()) + 1
    if None in numbers or len(set(numbers)) != len(frames) or len(frames) != repeats * n:
        return None
    order = sorted(range(len(frames)), key=lambda i: numbers[i] or 0)
    runs = [order[i : i + n] for i in range(0, len(order), n)]
    first = slots[runs[0]].tolist()
    if any(slots[run].tolist() != first for run in runs) or sorted(first) != list(range(n)):
        return None
    return {f"time_{i}": [frames[j] for j in run] for i, run in enumerate(runs, start=1)}


def _differences(frames: Sequence[Frame]) -> str:
    differs = []
    for trait in _trait_names(frames):
        values = {f.traits.get(trait, "") for f in frames}
        if len(values) > 1:
            differs.append(f"{trait} ({len(values)} values)")
    return "differing " + ", ".join(differs) if differs else "no attribute that differs"
