"""RT structure sets as masks: contours in patient space, filled on the slices that they were drawn on.

A voxel belongs to a structure where its centre lies inside a contour or on it; a contour wholly inside another of its slice
cuts a hole, as cavities are drawn, and what lies on it belongs to the structure. A contour that is there twice, from whatever
point and in whatever direction, counts once, and so does one that goes round twice. Nothing is clipped, moved or filled in: a
contour that does not lie in a slice of the image is refused, and so are contours that overlap in part, open ones, and slices
left out within a part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.scans.dicom.attributes import numbers, restore_vrs, text, value_of
from medhybrid.scans.dicom.headers import load_dataset
from medhybrid.scans.dicom.left_out import find_left_out
from medhybrid.scans.dicom.outlines import (
    ON_CONTOUR_VOXEL,
    Points,
    area,
    contains,
    distance,
    enclosed,
    inside,
    interior,
    length,
    on_outline,
    without_rounds,
)

PLANE_TOLERANCE_VOXEL = 0.1
"""How far a contour's points may lie from the middle of their slice."""

EDGE_TOLERANCE_VOXEL = 0.5
"""How far they may lie outside the outermost voxel centres: contours are often drawn along the picture's edge."""

SAME_CONTOUR_VOXEL = 0.5
"""Two contours that lie so near to each other everywhere are one: some systems export a contour twice, with other points."""

LEAST_WALL_VOXEL = 0.75
"""A thinner wall between a contour and the one around it, on average, may be a cavity's or a contour drawn twice."""

TOUCHING_VOXEL = 0.1
"""A contour that lies in another may leave it by so much."""

LEAST_HOLE_VOXEL = 0.25
"""A narrower contour inside another, around no voxel centre, is a line and no hole."""

CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

Locate = Callable[[Points], Points]
"""Points (N, 3) in LPS mm to voxel coordinates (N, 3) of the image's array."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A region of interest.

    Attributes
    ----------
    contours : tuple of (N, 3) ndarray
        Closed, in LPS mm.
    frame_of_reference : str
        Empty where the file does not say.
    is_exclusive : bool
        Whether its contours are to be combined by exclusive or, whatever their places.
    other_types : tuple of str
        Kinds of its contours that enclose nothing, such as points.
    problem : str
        Why a contour cannot be read, else empty.
    """

    name: str
    contours: tuple[Points, ...]
    frame_of_reference: str
    is_exclusive: bool = False
    other_types: tuple[str, ...] = ()
    problem: str = ""


def read_structures(path: Path) -> tuple[Structure, ...]:
    """The structures of an RTSTRUCT file that are named or drawn, in its order; raises `ScanError` if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = load_dataset(path, defers=False)
            restore_vrs(dataset)
            described: dict[str, list[Any]] = {}
            for item in dataset.StructureSetROISequence:
                described.setdefault(str(value_of(item, "ROINumber")), []).append(item)
            regions = list(value_of(dataset, "ROIContourSequence") or [])
    except ScanError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise ScanError(
            f"{path.name} cannot be read as RTSTRUCT", found=type(error).__name__, remedy="export it again"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn: dict[str, list[Any]] = {}
        for region in regions:
            items = drawn.setdefault(str(value_of(region, "ReferencedROINumber")), [])
            items += value_of(region, "ContourSequence") or []
        order = [*drawn, *(n for n in described if n not in drawn)]
        found = [s for n in order for s in _structures(n, drawn.get(n, []), described.get(n, []))]
        return tuple(found)


def _structures(number: str, contours: Sequence[Any], descriptions: Sequence[Any]) -> list[Structure]:
    """Return the structure of a number, and every one where several have it; one that is drawn and has no name gets one."""
    by_name = {text(d, "ROIName"): d for d in descriptions} or {"": {}}
    found = []
    for name, description in by_name.items():
        if not name and not contours:
            continue
        structure = _structure(name or f"structure {number}", contours, description)
        if len(by_name) > 1:
            structure = replace(structure, problem=f"{len(by_name)} structures of number {number}")
        found.append(structure)
    return found


def _structure(name: str, items: Sequence[Any], description: Any) -> Structure:
    contours, others, problem, kinds = [], [], "", set()
    for item in items:
        kind, n = text(item, "ContourGeometricType").upper(), len(value_of(item, "ContourData") or [])
        flat = numbers(item, "ContourData", n)
        if kind not in CLOSED_TYPES or n < 9:
            others.append(kind or "no type")
        elif flat is None or n % 3:
            problem = f"a contour of {n} values that are no points"
        else:
            kinds.add(kind)
            contours.append(np.array(flat).reshape(-1, 3))
    return Structure(
        name,
        tuple(contours),
        text(description, "ReferencedFrameOfReferenceUID"),
        is_exclusive="CLOSEDPLANAR_XOR" in kinds,
        other_types=tuple(dict.fromkeys(others)),
        problem=problem,
    )


def fill(structure: Structure, shape: tuple[int, int, int], locate: Locate) -> NDArray[np.bool_]:
    """The mask (X, Y, Z) of a structure on the slices of an image of `shape`.

    Raises
    ------
    ScanError
        If a contour cannot be read, lies in no slice of the image or leaves it, overlaps another in part, or slices between
        contours were left out.
    """
    if structure.problem:
        raise _unusable(
            structure, "it cannot be read", "a number of its own, contours of three numbers a point", structure.problem
        )
    if not structure.contours:
        if structure.other_types:
            raise _unusable(
                structure, "it encloses nothing", "closed planar contours", ", ".join(structure.other_types)
            )
        return np.zeros(shape, bool)
    if open_types := [t for t in structure.other_types if t not in (*CLOSED_TYPES, "POINT")]:
        raise _unusable(
            structure, "some of its contours are not closed", "closed planar contours", ", ".join(open_types)
        )
    placed = [locate(points) for points in structure.contours]
    axis = int(np.argmin(np.sum([np.ptp(v, axis=0) for v in placed], axis=0)))  # along which they were stacked
    mask = np.moveaxis(np.zeros(shape, bool), axis, 0)  # (slice, A, B), a view
    slices = [_slice_of(v, axis) for v in placed]
    _refuse_misplaced(structure, placed, slices, axis, shape)
    _refuse_gaps(structure, sorted({k for k in slices if k is not None}))
    for k in {k for k in slices if k is not None}:
        outlines = [without_rounds(np.delete(v, axis, axis=1)) for v, at in zip(placed, slices, strict=True) if at == k]
        mask[k] = _combine(structure, outlines, (mask.shape[1], mask.shape[2]))
    if left_out := find_left_out(mask, sorted({k for k in slices if k is not None})):
        raise _unusable(structure, "it was drawn on some slices only", "contours on neighbouring slices", left_out)
    return np.ascontiguousarray(np.moveaxis(mask, 0, axis))


def _slice_of(voxels: Points, axis: int) -> int | None:
    """The slice in which all points lie, or None."""
    k = round(float(voxels[:, axis].mean()))
    return k if np.abs(voxels[:, axis] - k).max() <= PLANE_TOLERANCE_VOXEL else None


def _refuse_misplaced(
    structure: Structure, placed: Sequence[Points], slices: Sequence[int | None], axis: int, shape: tuple[int, ...]
) -> None:
    between = sum(k is None for k in slices)
    if between:
        raise _unusable(
            structure,
            "contours lie in no slice of the image",
            "each in one slice",
            f"{between} of {len(slices)} do not",
        )
    last = np.array(shape) - 1
    outside = 0
    for voxels in placed:
        tolerance = np.full(3, EDGE_TOLERANCE_VOXEL)
        tolerance[axis] = PLANE_TOLERANCE_VOXEL
        outside += bool((voxels < -tolerance).any() or (voxels > last + tolerance).any())
    if outside:
        raise _unusable(
            structure, "contours lie outside the image", "all within it", f"{outside} of {len(placed)} do not"
        )


def _refuse_gaps(structure: Structure, slices: Sequence[int]) -> None:
    if len(slices) > 2 and np.diff(slices).min() > 1:
        raise _unusable(
            structure,
            "it was drawn on some slices only",
            "contours on neighbouring slices",
            f"one every {np.diff(slices).min()} slices",
        )


def _unusable(structure: Structure, what: str, expected: str, found: str) -> ScanError:
    return ScanError(
        f"structure {structure.name!r}: {what}",
        expected=expected,
        found=found,
        remedy="give the series it was drawn on, whole; or export the structure as DICOM SEG on that series",
    )


def _combine(structure: Structure, outlines: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (A, B) of the contours (N, 2) of one slice."""
    if structure.is_exclusive:
        return _exclusive(outlines, shape)
    drawn: list[Points] = []
    for o in sorted(outlines, key=area, reverse=True):  # of one that is there twice, the outer
        if not any(_are_same(o, d) for d in drawn):
            drawn.append(o)
    masks = [inside(o, shape) for o in drawn]
    out = np.zeros(shape, bool)
    if len(masks) == 1:
        return masks[0]
    within = [interior(o, shape) for o in drawn]
    depths = [0] * len(drawn)
    for i, a in enumerate(within):
        for j, b in enumerate(within):
            if i == j:
                continue
            if not (a & b).any():  # apart; or too narrow for a voxel centre
                if _lies_in(drawn[i], drawn[j]):
                    _refuse_thin_wall(structure, drawn[i], drawn[j])
                    depths[i] += 1
                continue
            is_in_b, is_around_b = not (a & ~masks[j]).any(), not (b & ~masks[i]).any()
            if is_in_b and is_around_b:  # the same voxels: the wall between them has none inside it
                is_in_b, is_around_b = _lies_in(drawn[i], drawn[j]), _lies_in(drawn[j], drawn[i])
            if not is_in_b and not is_around_b:
                raise _unusable(
                    structure, "contours of a slice overlap in part", "apart, or one in the other", "an overlap"
                )
            if is_in_b and not is_around_b:
                _refuse_thin_wall(structure, drawn[i], drawn[j])
                depths[i] += 1
    for i in sorted(range(len(drawn)), key=lambda i: depths[i]):
        out = out & ~within[i] if depths[i] % 2 else out | masks[i]
    return out


def _exclusive(outlines: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (A, B) that an odd number of contours enclose; one on a line that several share, if an odd number do beside it."""
    out, n_lines = np.zeros(shape, bool), np.zeros(shape, int)
    for outline in outlines:
        out ^= inside(outline, shape)
        n_lines += on_outline(outline, shape)
    out |= n_lines == 1  # on the edge of what is enclosed
    is_shared = n_lines > 1
    if is_shared.any():
        out &= ~is_shared
        for aside in np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]) * 5 * ON_CONTOUR_VOXEL:
            beside = np.zeros(shape, bool)
            for outline in outlines:
                beside ^= enclosed(outline + aside, shape)
            out |= beside & is_shared
    return out


def _refuse_thin_wall(structure: Structure, inner: Points, outer: Points) -> None:
    """Refuse a contour in another whose wall is too thin for a cavity and too thick for one drawn twice."""
    wall = 2 * (area(outer) - area(inner)) / (length(outer) + length(inner))
    is_coarse_copy = distance(inner, outer).max() <= SAME_CONTOUR_VOXEL  # all its points lie on the other
    if wall < LEAST_WALL_VOXEL or is_coarse_copy:
        raise _unusable(
            structure,
            "a contour lies close within another: a cavity, or drawn twice",
            f"a wall of {LEAST_WALL_VOXEL} voxels, or the two within {SAME_CONTOUR_VOXEL} of each other everywhere",
            f"a wall of {wall:.2f} voxels on average",
        )


def _are_same(a: Points, b: Points) -> bool:
    """Whether two contours run along each other everywhere, from whatever points and in whatever directions."""
    ends = np.abs(a.min(0) - b.min(0)).max(), np.abs(a.max(0) - b.max(0)).max()
    if max(ends) > SAME_CONTOUR_VOXEL or abs(area(a) - area(b)) > SAME_CONTOUR_VOXEL * max(length(a), length(b)):
        return False
    shared = np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0))
    if (shared < 0.5 * np.minimum(np.ptp(a, axis=0), np.ptp(b, axis=0))).any():
        return False  # two small ones side by side
    return bool(max(distance(a, b).max(), distance(b, a).max()) <= SAME_CONTOUR_VOXEL)


def _lies_in(inner: Points, outer: Points) -> bool:
    """Whether a contour that is no mere line lies within a larger one, by its points."""
    margins = *(inner.min(0) - outer.min(0)), *(outer.max(0) - inner.max(0))
    if min(margins) < -TOUCHING_VOXEL or area(inner) >= area(outer):
        return False
    if 2 * area(inner) < LEAST_HOLE_VOXEL * length(inner):
        return False
    is_inside = contains(outer, inner)
    return bool(is_inside.all() or distance(inner[~is_inside], outer).max() <= TOUCHING_VOXEL)
