"""RT structure sets as masks: contours in patient space, filled on the slices that they were drawn on.

A voxel belongs to a structure where its centre lies inside a contour or on it; contours of one slice cut holes into each other
(even-odd), as cavities are drawn. matplotlib tells inside from outside. Nothing is clipped, moved or filled in: a contour that
does not lie in a slice of the image is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.scans.dicom.frames import numbers, text, value_of

PLANE_TOLERANCE_VOXEL = 0.1
"""How far a contour's points may lie from the middle of their slice."""

EDGE_TOLERANCE_VOXEL = 0.5
"""How far they may lie outside the outermost voxel centres: contours are often drawn along the picture's edge."""

ON_CONTOUR_VOXEL = 1e-6
CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

Points = NDArray[np.float64]
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
    other_types : tuple of str
        Kinds of its contours that enclose nothing, such as points.
    """

    name: str
    contours: tuple[Points, ...]
    frame_of_reference: str
    other_types: tuple[str, ...] = ()


def read_structures(path: Path) -> tuple[Structure, ...]:
    """The structures of an RTSTRUCT file, in its order.

    Raises
    ------
    ScanError
        If it is none, or a contour's points cannot be read.
    """
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            described = {str(value_of(r, "ROINumber")): r for r in dataset.StructureSetROISequence}
            regions = list(dataset.ROIContourSequence)
    except Exception as error:  # a damaged file can raise anything
        raise ScanError(
            f"{path.name} cannot be read as RTSTRUCT", found=type(error).__name__, remedy="export it again"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(_structure(r, described.get(str(value_of(r, "ReferencedROINumber"))), path) for r in regions)


def _structure(region: Any, description: Any, path: Path) -> Structure:
    if description is None or not text(description, "ROIName"):
        raise ScanError(f"{path.name}: a contour set has no name", expected="ROIName", remedy="export it again")
    name, contours, others = text(description, "ROIName"), [], []
    for item in value_of(region, "ContourSequence") or []:
        kind = text(item, "ContourGeometricType").upper()
        if kind not in CLOSED_TYPES:
            others.append(kind or "no type")
            continue
        n = len(value_of(item, "ContourData") or [])
        flat = numbers(item, "ContourData", n)
        if flat is None or n % 3 or n < 9:
            raise ScanError(
                f"{path.name}: a contour of {name!r} cannot be read",
                expected="ContourData of at least three points",
                found=f"{n} values",
                remedy="export it again",
            )
        contours.append(np.array(flat).reshape(-1, 3))
    frame = text(description, "ReferencedFrameOfReferenceUID")
    return Structure(name, tuple(contours), frame, tuple(dict.fromkeys(others)))


def fill(structure: Structure, shape: tuple[int, int, int], locate: Locate) -> NDArray[np.bool_]:
    """The mask (X, Y, Z) of a structure on the slices of an image of `shape`.

    Raises
    ------
    ScanError
        If a contour lies in no slice of the image or leaves it, or slices between contours were left out.
    """
    if not structure.contours:
        if structure.other_types:
            raise _unusable(
                structure, "it encloses nothing", "closed planar contours", ", ".join(structure.other_types)
            )
        return np.zeros(shape, bool)
    placed = [locate(points) for points in structure.contours]
    axis = int(np.argmin(np.sum([np.ptp(v, axis=0) for v in placed], axis=0)))  # along which they were stacked
    mask = np.moveaxis(np.zeros(shape, bool), axis, 0)  # (slice, A, B), a view
    slices = [_slice_of(v, axis) for v in placed]
    _refuse_misplaced(structure, placed, slices, axis, shape)
    _refuse_gaps(structure, sorted({k for k in slices if k is not None}))
    for voxels, k in zip(placed, slices, strict=True):
        assert k is not None
        mask[k] ^= _inside(np.delete(voxels, axis, axis=1), (mask.shape[1], mask.shape[2]))
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


def _inside(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (A, B) whose centres lie within a polygon (N, 2) in pixels, or on it."""
    from matplotlib.path import Path as Outline

    out = np.zeros(shape, bool)
    low = np.maximum(np.ceil(polygon.min(0) - ON_CONTOUR_VOXEL), 0).astype(int)
    high = np.minimum(np.floor(polygon.max(0) + ON_CONTOUR_VOXEL), np.array(shape) - 1).astype(int)
    if (high < low).any():
        return out
    a, b = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
    x, y = polygon.T
    runs_left = float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) > 0
    # the sign of the library's margin follows the direction in which the outline runs
    margin = ON_CONTOUR_VOXEL if runs_left else -ON_CONTOUR_VOXEL
    closed = Outline(np.vstack([polygon, polygon[:1]]), closed=True)
    hits = closed.contains_points(np.column_stack([a.ravel(), b.ravel()]), radius=margin).reshape(a.shape)
    out[low[0] : high[0] + 1, low[1] : high[1] + 1] = hits
    return out
