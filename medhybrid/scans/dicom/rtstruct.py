"""Conversion of RT structure sets to masks: contours in patient coordinates are filled on the slices they were drawn on.

A voxel belongs to a structure if its centre lies inside a contour or on it. A contour completely inside another one of its
slice is a hole, without the voxels on its line. A repeated contour counts once, regardless of its first point and direction. A
contour that goes round twice also counts once. Nothing is clipped, moved or interpolated. These are refused: contours outside
the image's slices, partly overlapping contours, open contours, and slices skipped within a part.
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
from medhybrid.scans.dicom.attributes import integer, name_text, restore_vrs, text, value_of
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
"""Largest distance of a contour's points from the centre of their slice."""

EDGE_TOLERANCE_VOXEL = 0.5
"""Largest distance of points outside the outermost voxel centres. Contours are often drawn along the image's edge."""

SAME_CONTOUR_VOXEL = 0.5
"""Largest distance between two copies of one contour. Some systems export a contour twice, with different points."""

LEAST_WALL_VOXEL = 0.75
"""Smallest average wall around a hole. With a thinner wall, it may be a hole or a contour drawn twice."""

TOUCHING_VOXEL = 0.1
"""Largest distance by which an inner contour may extend outside its outer contour."""

LEAST_HOLE_VOXEL = 0.25
"""Smallest width of a hole without a voxel centre. A narrower contour is a line, not a hole."""

CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

Locate = Callable[[Points], Points]
"""Function from points (N, 3) in LPS mm to voxel coordinates (N, 3) of the image's array."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Region of interest of an RTSTRUCT.

    Attributes
    ----------
    contours : tuple of (N, 3) ndarray
        Closed contours, in LPS mm.
    frame_of_reference : str
        Frame of reference; empty if the file does not give it.
    is_exclusive : bool
        True if contours are combined by exclusive or, regardless of their positions (CLOSEDPLANAR_XOR).
    short : tuple of (N, 3) ndarray
        Closed contours of one or two points, in LPS mm, which lie on voxels but enclose no area.
    other_types : tuple of str
        Types of other contours that enclose no area, such as points.
    problem : str
        Reason why a contour cannot be read, or empty.
    """

    name: str
    contours: tuple[Points, ...]
    frame_of_reference: str
    is_exclusive: bool = False
    short: tuple[Points, ...] = ()
    other_types: tuple[str, ...] = ()
    problem: str = ""


def read_structures(path: Path) -> tuple[Structure, ...]:
    """Read the named or drawn structures of an RTSTRUCT file, in its order; raises `ScanError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = load_dataset(path, defers=False)
            restore_vrs(dataset)
            described: dict[str, list[Any]] = {}
            for item in dataset.StructureSetROISequence:
                described.setdefault(_number_of(item, "ROINumber"), []).append(item)
            regions = list(value_of(dataset, "ROIContourSequence") or [])
    except ScanError:
        raise
    except Exception as error:  # damaged files raise many kinds of exceptions
        raise ScanError(
            f"{path.name} cannot be read as RTSTRUCT", found=type(error).__name__, remedy="export it again"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn: dict[str, list[Any]] = {}
        for region in regions:
            items = drawn.setdefault(_number_of(region, "ReferencedROINumber"), [])
            items += value_of(region, "ContourSequence") or []
        order = [*drawn, *(n for n in described if n not in drawn)]
        found = [s for n in order for s in _structures(n, drawn.get(n, []), described.get(n, []), dataset)]
        return tuple(found)


def _number_of(item: Any, name: str) -> str:
    """Return the number of a structure, which may be written `01`; another text is returned as it is."""
    number = integer(item, name)
    return text(item, name) if number is None else str(number)


def _structures(number: str, contours: Sequence[Any], descriptions: Sequence[Any], dataset: Any) -> list[Structure]:
    """Return the structures of a ROI number: normally one, several with a problem if the number is not unique.

    A drawn structure without a name is named by its number.
    """
    by_name = {name_text(d, "ROIName", dataset): d for d in descriptions} or {"": {}}
    found = []
    for name, description in by_name.items():
        if not name and not contours:
            continue
        structure = _structure(name or f"structure {number}", contours, description)
        if len(by_name) > 1:
            structure = replace(structure, problem=f"{len(by_name)} structures with number {number}")
        found.append(structure)
    return found


def _structure(name: str, items: Sequence[Any], description: Any) -> Structure:
    contours, short, others, problem, kinds = [], [], [], "", set()
    for item in items:
        values = list(value_of(item, "ContourData") or [])
        while values and str(values[-1]).strip() == "":  # after a backslash at the end
            values.pop()
        kind, n = text(item, "ContourGeometricType").upper() or CLOSED_TYPES[0], len(values)
        flat = _as_numbers(values)
        if kind not in CLOSED_TYPES or n < 3:
            others.append(kind)
        elif flat is not None and n in (3, 6):
            short.append(np.array(flat).reshape(-1, 3))
        elif flat is None or n % 3:
            problem = f"a contour of {n} values that are not points"
        else:
            kinds.add(kind)
            contours.append(np.array(flat).reshape(-1, 3))
    return Structure(
        name,
        tuple(contours),
        text(description, "ReferencedFrameOfReferenceUID"),
        is_exclusive="CLOSEDPLANAR_XOR" in kinds,
        short=tuple(short),
        other_types=tuple(dict.fromkeys(others)),
        problem=problem,
    )


def _as_numbers(values: Sequence[Any]) -> tuple[float, ...] | None:
    """Return values as finite numbers; None if one is not."""
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found).all() else None


def fill(structure: Structure, shape: tuple[int, int, int], locate: Locate) -> NDArray[np.bool_]:
    """Fill the contours of a structure, and return its mask (X, Y, Z) of `shape`.

    Raises
    ------
    ScanError
        If a contour cannot be read, lies outside the image or between slices, partly overlaps another one, or slices were
        skipped.
    """
    if structure.problem:
        raise _unusable(
            structure, "it cannot be read", "a unique number, contours with three numbers per point", structure.problem
        )
    if not structure.contours:
        found = [*structure.other_types, *(["contours of one or two points"] if structure.short else [])]
        if found:
            raise _unusable(structure, "it encloses no area", "closed planar contours", ", ".join(found))
        return np.zeros(shape, bool)
    if open_types := [t for t in structure.other_types if t not in (*CLOSED_TYPES, "POINT")]:
        raise _unusable(
            structure, "some of its contours are not closed", "closed planar contours", ", ".join(open_types)
        )
    placed = [locate(points) for points in structure.contours]
    axis = int(np.argmin(np.sum([np.ptp(v, axis=0) for v in placed], axis=0)))  # contours are stacked along it
    mask = np.moveaxis(np.zeros(shape, bool), axis, 0)  # (slice, A, B), a view
    slices = [_slice_of(v, axis) for v in placed]
    _refuse_misplaced(structure, placed, slices, axis, shape)
    for voxels in map(locate, structure.short):
        if (k := _slice_of(voxels, axis)) is not None and _is_inside(voxels, shape):
            placed.append(voxels)
            slices.append(k)
    _refuse_gaps(structure, sorted({k for k in slices if k is not None}))
    for k in {k for k in slices if k is not None}:
        outlines = [without_rounds(np.delete(v, axis, axis=1)) for v, at in zip(placed, slices, strict=True) if at == k]
        mask[k] = _combine(structure, outlines, (mask.shape[1], mask.shape[2]))
    if left_out := find_left_out(mask, sorted({k for k in slices if k is not None})):
        raise _unusable(structure, "it was drawn on some slices only", "contours on neighbouring slices", left_out)
    return np.ascontiguousarray(np.moveaxis(mask, 0, axis))


def _slice_of(voxels: Points, axis: int) -> int | None:
    """Return the slice that contains all points, or None."""
    k = round(float(voxels[:, axis].mean()))
    return k if np.abs(voxels[:, axis] - k).max() <= PLANE_TOLERANCE_VOXEL else None


def _is_inside(voxels: Points, shape: tuple[int, ...]) -> bool:
    last = np.array(shape) - 1
    return bool(((voxels >= -EDGE_TOLERANCE_VOXEL) & (voxels <= last + EDGE_TOLERANCE_VOXEL)).all())


def _refuse_misplaced(
    structure: Structure, placed: Sequence[Points], slices: Sequence[int | None], axis: int, shape: tuple[int, ...]
) -> None:
    between = sum(k is None for k in slices)
    if between:
        raise _unusable(
            structure,
            "contours lie between the slices of the image",
            "each contour in one slice",
            f"{between} of {len(slices)} contours between slices",
        )
    last = np.array(shape) - 1
    outside = 0
    for voxels in placed:
        tolerance = np.full(3, EDGE_TOLERANCE_VOXEL)
        tolerance[axis] = PLANE_TOLERANCE_VOXEL
        outside += bool((voxels < -tolerance).any() or (voxels > last + tolerance).any())
    if outside:
        raise _unusable(
            structure,
            "contours lie outside the image",
            "all contours inside",
            f"{outside} of {len(placed)} contours outside",
        )


def _refuse_gaps(structure: Structure, slices: Sequence[int]) -> None:
    if len(slices) > 2 and np.diff(slices).min() > 1:
        raise _unusable(
            structure,
            "it was drawn on some slices only",
            "contours on neighbouring slices",
            f"a contour on every {np.diff(slices).min()} slices",
        )


def _unusable(structure: Structure, what: str, expected: str, found: str) -> ScanError:
    return ScanError(
        f"structure {structure.name!r}: {what}",
        expected=expected,
        found=found,
        remedy="use the complete series that it was drawn on, or export the structure as DICOM SEG on that series",
    )


def _combine(structure: Structure, outlines: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill the contours (N, 2) of one slice, and return its pixels (A, B)."""
    if structure.is_exclusive:
        return _exclusive(outlines, shape)
    drawn: list[Points] = []
    for o in sorted(outlines, key=area, reverse=True):  # of two copies, the outer one is kept
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
            if not (a & b).any():  # separate, or one too narrow for a voxel centre
                if _lies_in(drawn[i], drawn[j]):
                    _refuse_thin_wall(structure, drawn[i], drawn[j])
                    depths[i] += 1
                continue
            is_in_b, is_around_b = not (a & ~masks[j]).any(), not (b & ~masks[i]).any()
            if is_in_b and is_around_b:  # the same voxels: the wall between them contains no voxel centre
                is_in_b, is_around_b = _lies_in(drawn[i], drawn[j]), _lies_in(drawn[j], drawn[i])
            if not is_in_b and not is_around_b:
                raise _unusable(
                    structure,
                    "contours of a slice partly overlap",
                    "separate contours, or one inside the other",
                    "an overlap",
                )
            if is_in_b and not is_around_b:
                _refuse_thin_wall(structure, drawn[i], drawn[j])
                depths[i] += 1
    for i in sorted(range(len(drawn)), key=lambda i: depths[i]):
        out = out & ~within[i] if depths[i] % 2 else out | masks[i]
    return out


def _exclusive(outlines: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (A, B) that an odd number of contours enclose.

    A pixel on a line shared by several contours belongs to the structure if a point beside it does.
    """
    out, n_lines = np.zeros(shape, bool), np.zeros(shape, int)
    for outline in outlines:
        out ^= inside(outline, shape)
        n_lines += on_outline(outline, shape)
    out |= n_lines == 1  # on the edge of one contour
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
    """Refuse an inner contour if it is unclear whether it is a hole or a second drawing of the outer contour."""
    wall = 2 * (area(outer) - area(inner)) / (length(outer) + length(inner))
    is_coarse_copy = distance(inner, outer).max() <= SAME_CONTOUR_VOXEL  # all its points lie on the other
    if wall < LEAST_WALL_VOXEL or is_coarse_copy:
        raise _unusable(
            structure,
            "a contour lies closely inside another: it may be a hole, or drawn twice",
            f"a wall of {LEAST_WALL_VOXEL} voxels, or a distance of at most {SAME_CONTOUR_VOXEL} voxels everywhere",
            f"a wall of {wall:.2f} voxels on average",
        )


def _are_same(a: Points, b: Points) -> bool:
    """Return True if two contours are copies of one, regardless of their first point and direction."""
    ends = np.abs(a.min(0) - b.min(0)).max(), np.abs(a.max(0) - b.max(0)).max()
    if max(ends) > SAME_CONTOUR_VOXEL or abs(area(a) - area(b)) > SAME_CONTOUR_VOXEL * max(length(a), length(b)):
        return False
    shared = np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0))
    if (shared < 0.5 * np.minimum(np.ptp(a, axis=0), np.ptp(b, axis=0))).any():
        return False  # two small contours side by side
    return bool(max(distance(a, b).max(), distance(b, a).max()) <= SAME_CONTOUR_VOXEL)


def _lies_in(inner: Points, outer: Points) -> bool:
    """Return True if all points of a contour lie inside a larger one. A narrow contour (line) returns False."""
    margins = *(inner.min(0) - outer.min(0)), *(outer.max(0) - inner.max(0))
    if min(margins) < -TOUCHING_VOXEL or area(inner) >= area(outer):
        return False
    if 2 * area(inner) < LEAST_HOLE_VOXEL * length(inner):
        return False
    is_inside = contains(outer, inner)
    return bool(is_inside.all() or distance(inner[~is_inside], outer).max() <= TOUCHING_VOXEL)
