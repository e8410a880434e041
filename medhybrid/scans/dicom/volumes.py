"""Splitting of a DICOM series into volumes by its headers, or refusal with a list of the differences.

Frames of different sizes, orientations or frames of reference belong to different stacks. Several frames at one position are
time points, echoes, frame types or diffusion weightings. They are split by the first attribute, or the first combination of
two or three, that gives each volume exactly one frame per position. Runs of instance numbers are used too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.geometry import orientation_code
from medhybrid.number_text import format_vectors_apart
from medhybrid.scans.dicom.damaged_uids import with_one_frame_of_reference
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.interleaved import find_interleaved, refuse_several_kinds
from medhybrid.scans.dicom.repeats import part_names, sort_key, tell_apart
from medhybrid.scans.dicom.shifted import split_shifted
from medhybrid.scans.dicom.single_slice import single_slice_stack
from medhybrid.scans.dicom.stack import (
    MAX_ROUNDING,
    ORIENTATION_TOLERANCE,
    PLACE_TOLERANCE_VOXEL,
    Stack,
    is_rounded_stack,
    make_stack,
    positions_along,
    projection_stack,
    same_position_mm,
)

MAX_VOLUMES = 10_000
"""Largest number of volumes of a series."""

MAX_JITTER = 1.1e-2
"""Largest difference of direction cosines (0.6 degrees) between slices of one stack with imprecise headers."""

MAX_LOCALIZER = 3
"""Largest number of orientations of a localizer that has a single slice in each."""

PLANES = {"L": "sagittal", "R": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}


@dataclass(frozen=True, slots=True)
class Volume:
    """Volume of a series.

    Attributes
    ----------
    name : str
        Name within the series (``echo_2``, ``sagittal``); empty for the only volume of a series.
    stack : Stack
        Its frames, in slice order.
    """

    name: str
    stack: Stack


def split_volumes(frames: Sequence[Frame], *, series: str) -> list[Volume]:
    """Split the frames of one series into volumes.

    Raises
    ------
    SeriesError
        If the headers do not separate the volumes, or some slices belong to no volume.
    """
    if not frames:
        raise SeriesError(f"{series}: no DICOM image", code="no_dicom", series=series, remedy="check the folder")
    if all(f.is_projection for f in frames):
        return _projections(frames)
    _refuse_unplaced(frames, series)
    frames = with_one_frame_of_reference(frames)
    if len(frames) == 1:
        return [Volume("", single_slice_stack(frames[0]))]
    groups = _join_rounded(_grids(frames))
    _refuse_mingled(groups, series)
    _refuse_leftovers(groups, series)
    volumes = []
    by_kind: dict[str, list[Sequence[Frame]]] = {}
    for group in groups:
        name = _grid_name(group, groups)
        for v in _split_repeats(group, series=series):
            by_kind.setdefault(v.name, []).append(v.stack.frames)
            volumes.append(Volume("__".join(filter(None, (name, v.name))), v.stack))
    for of_kind in by_kind.values():
        _refuse_mingled(of_kind, series)
    names = [v.name for v in volumes]
    return [
        Volume(f"{v.name}_{names[:i].count(v.name) + 1}" if names.count(v.name) > 1 else v.name, v.stack)
        for i, v in enumerate(volumes)
    ]


def _projections(frames: Sequence[Frame]) -> list[Volume]:
    """Return each projection as a volume of one slice, in the order of instance numbers."""
    ordered = sorted(frames, key=lambda f: (f.number or 0, f.uid))
    names = [f"image_{n}" for n in range(1, len(ordered) + 1)] if len(ordered) > 1 else [""]
    return [Volume(name, projection_stack(f)) for name, f in zip(names, ordered, strict=True)]


def _refuse_unplaced(frames: Sequence[Frame], series: str) -> None:
    """Refuse a frame without a place among others that have one: a slice of a cone-beam CT is not a radiograph."""
    if odd := next((f for f in frames if f.is_projection), None):
        raise SeriesError(
            f"{series}: {odd.name} has no position or orientation, but other slices have one",
            code="no_geometry",
            series=series,
            path=odd.path,
            expected="ImagePositionPatient and ImageOrientationPatient in every slice, or radiographs alone",
            remedy="export the series again, radiographs as a separate series",
        )


def _grids(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group frames of equal size, spacing, frame of reference and orientation (within tolerance)."""
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


def _join_rounded(groups: Sequence[list[Frame]]) -> list[list[Frame]]:
    """Join groups whose directions differ only by rounding, if their slices form one stack.

    All matching groups are tried together first: with three directions, slices of only two may not be evenly spaced.
    """
    clusters: list[list[list[Frame]]] = []
    for group in groups:
        cluster = next((c for c in clusters if all(_may_be_one(group[0], other[0]) for other in c)), None)
        if cluster is None:
            clusters.append([group])
        else:
            cluster.append(group)
    joined: list[list[Frame]] = []
    for cluster in clusters:
        if len(cluster) > 2 and _is_one_stack(cluster):
            joined.append([f for group in cluster for f in group])
            continue
        for group in cluster:
            i = next((i for i, other in enumerate(joined) if _is_one_stack((other, group))), None)
            if i is None:
                joined.append(group)
            else:
                joined[i] = joined[i] + group
    return joined


def _may_be_one(f: Frame, g: Frame) -> bool:
    """Return True if two frames have the same grid, except for the rounding of their directions."""
    return (
        (f.rows, f.columns, f.frame_of_reference) == (g.rows, g.columns, g.frame_of_reference)
        and np.allclose(f.spacing_mm, g.spacing_mm, rtol=_spacing_tolerance(f), atol=1e-7)
        and float(np.abs(np.subtract(f.orientation, g.orientation)).max()) <= MAX_ROUNDING
    )


def _is_one_stack(groups: Sequence[Sequence[Frame]]) -> bool:
    """Return True if groups at different positions form one stack with directions that differ in the last decimal."""
    if not all(_may_be_one(groups[0][0], g[0]) for g in groups[1:]):
        return False
    every = [f for group in groups for f in group]
    slots = _slots(every)
    parts = np.split(slots, np.cumsum([len(g) for g in groups])[:-1])
    if any(len(np.unique(part)) > slots.max() for part in parts):
        return False  # one group has all positions, so it is a volume by itself
    ordered = [every[i] for i in sorted(np.unique(slots, return_index=True)[1], key=lambda i: slots[i])]
    return is_rounded_stack(ordered)


def _refuse_mingled(groups: Sequence[Sequence[Frame]], series: str) -> None:
    """Refuse groups of nearly equal direction with interleaved slices: probably one stack with imprecise headers."""
    for a, b in combinations(groups, 2):
        turn = np.abs(np.subtract(a[0].orientation, b[0].orientation)).max()
        is_one_grid = (a[0].rows, a[0].columns, a[0].frame_of_reference) == (
            b[0].rows,
            b[0].columns,
            b[0].frame_of_reference,
        )
        if turn > MAX_JITTER or not is_one_grid:
            continue
        slots = _slots([*a, *b])
        in_a, in_b = set(slots[: len(a)].tolist()), set(slots[len(a) :].tolist())
        owners = [k in in_a for k in sorted(in_a ^ in_b)]
        if sum(x != y for x, y in pairwise(owners)) > 1:
            turns = format_vectors_apart([a[0].orientation, b[0].orientation])
            raise SeriesError(
                f"{series}: slices of nearly equal orientation are interleaved, but do not form an evenly spaced stack",
                code="mixed_orientation",
                series=series,
                expected="one orientation, or stacks at separate positions",
                found=f"({turns[0]}) in {a[0].name} and ({turns[1]}) in {b[0].name}",
                remedy="export the series again, each stack as a separate series",
            )


def _spacing_tolerance(frame: Frame) -> float:
    """Return the relative tolerance of a pixel spacing.

    Within it, the last pixel of a frame moves by less than the tolerance of a position.
    """
    return max(1e-5, PLACE_TOLERANCE_VOXEL / max(frame.rows, frame.columns))


def series_of(frames: Sequence[Frame]) -> str:
    """Return a name of the series for messages: the folder of its first file."""
    return frames[0].path.parent.name


def _refuse_leftovers(groups: Sequence[Sequence[Frame]], series: str) -> None:
    """Refuse several stacks, unless each has several slices and an orientation different from all others."""
    if len(groups) == 1:
        return
    turns = _distinct([g[0].orientation for g in groups])
    if 1 < turns <= MAX_LOCALIZER and max(map(len, groups)) == 1:
        raise SeriesError(
            f"{series}: a localizer with {len(groups)} single slices in {turns} orientations",
            code="localizer",
            series=series,
        )
    smallest = min(groups, key=len)
    if len(smallest) > 1 and turns == len(groups):
        return
    differs = "orientation" if turns > 1 else _what_differs(groups)
    shown = _describe([g[0] for g in groups], differs)
    raise SeriesError(
        f"{series}: slices differ in {differs}, and the headers do not assign them to separate volumes",
        code="mixed_orientation" if turns > 1 else "mixed_shape",
        series=series,
        expected="one grid, or complete stacks, each in a different orientation",
        found="; ".join(f"{len(g)} of {text}" for g, text in list(zip(groups, shown, strict=True))[:4])
        + f"; first different file {smallest[0].name}",
        remedy="export each stack as a separate series",
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
    """Return one description per frame, with enough decimals to show the differences."""
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
    """Return the anatomical plane closest to the slice: axial, sagittal or coronal."""
    affine = np.eye(4)
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row, column, np.cross(row, column)
    return PLANES[orientation_code(affine)[2]]


def _grid_name(group: Sequence[Frame], groups: Sequence[Sequence[Frame]]) -> str:
    return plane_of(group[0]) if len(groups) > 1 else ""


def _split_repeats(frames: Sequence[Frame], *, series: str) -> list[Volume]:
    slots = _slots(frames)
    if np.bincount(slots).max() == 1:
        kinds = find_interleaved(frames, slots)
        if kinds is None and (shifted := split_shifted(frames, series=series)):
            return [Volume(name, _stack_of_one_kind(part, series)) for name, part in shifted.items()]
        if kinds is None:
            return _one_or_stacks(frames, series)
        return _split_kinds(frames, *kinds, series=series)
    is_whole = len(set(np.bincount(slots).tolist())) == 1
    parts = (None if is_whole else split_shifted(frames, series=series)) or tell_apart(frames, slots, series=series)
    return [Volume(name, _stack_of_one_kind(part, series)) for name, part in parts.items()]


def _one_or_stacks(frames: Sequence[Frame], series: str) -> list[Volume]:
    """Return one volume, or one for each StackID if only the stacks alone have equal distances, as of both breasts."""
    whole = _stack_of_one_kind(frames, series)
    stacks: dict[str, list[Frame]] = {}
    for f in frames:
        stacks.setdefault(f.traits.get("stack", ""), []).append(f)
    if whole.fault is None or len(stacks) < 2 or "" in stacks or min(map(len, stacks.values())) < 2:
        return [Volume("", whole)]
    keys = sorted(((v,) for v in stacks), key=sort_key)
    names = part_names(("stack",), keys)
    parts = [Volume(names[key], _stack_of_one_kind(stacks[key[0]], series)) for key in keys]
    return parts if all(p.stack.fault is None for p in parts) else [Volume("", whole)]


def _split_kinds(frames: Sequence[Frame], trait: str, values: Sequence[str], *, series: str) -> list[Volume]:
    """Split slices that alternate in a trait into one volume per value; `values` has that of each slice."""
    keys = sorted({(v,) for v in values}, key=sort_key)
    names = part_names((trait,), keys)
    parts = {names[key]: [f for f, v in zip(frames, values, strict=True) if v == key[0]] for key in keys}
    return [Volume(name, _stack_of_one_kind(part, series)) for name, part in parts.items()]


def _stack_of_one_kind(frames: Sequence[Frame], series: str) -> Stack:
    refuse_several_kinds(frames, series=series)
    if len({f.is_rescaled for f in frames}) > 1:
        odd = next(f for f in frames if not f.is_rescaled)
        raise SeriesError(
            f"{series}: {odd.name} has no rescaling, but other slices have one",
            code="not_image",
            series=series,
            path=odd.path,
            expected="RescaleSlope and RescaleIntercept in every slice, or in none",
            remedy="export the series again",
        )
    first = frames[0]
    if odd_ones := [f for f in frames if f.inverted_from != first.inverted_from]:
        ways = [
            "not inverted" if f.inverted_from is None else f"inverted from {f.inverted_from}"
            for f in (first, odd_ones[0])
        ]
        raise SeriesError(
            f"{series}: MONOCHROME1 inverts the slices in different ways",
            code="not_image",
            series=series,
            path=odd_ones[0].path,
            expected="the same units (Units, RescaleType, real-world value mapping), BitsStored and sign in all slices",
            found=f"values {ways[0]} in {first.name} and {ways[1]} in {odd_ones[0].name}",
            remedy="export the series again",
        )
    return make_stack(frames, series=series)


def _slots(frames: Sequence[Frame]) -> np.ndarray:
    """Return the index of each frame's position along the normal."""
    along = positions_along(frames)
    order = np.argsort(along, kind="stable")
    steps = np.concatenate([[0], np.cumsum(np.diff(along[order]) >= same_position_mm(frames))])
    slots = np.empty(len(frames), int)
    slots[order] = steps
    return slots
