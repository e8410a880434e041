"""Whether frames form one regular grid, and which; the numbers where they do not.

One rule decides: a grid is taken only if it holds the outer corners of every frame, each placed by its own header, within
`PLACE_TOLERANCE_VOXEL`. Jitter of real headers passes, anything that would move a voxel does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import SeriesError
from medhybrid.geometry import LPS_FROM_RAS, Affine, is_sheared
from medhybrid.number_text import format_apart, format_vectors_apart
from medhybrid.scans.dicom.frames import Frame

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of direction cosines within a stack; real data jitters by 1e-8 to 1e-5."""

SAME_POSITION_MM = 1e-2
"""Frames closer than this along the normal are at one position."""

PLACE_TOLERANCE_VOXEL = 0.02
"""How far a frame's own corner may lie from its voxel."""

ROUNDED_DECIMALS = (3, 4)
"""Direction cosines with so few decimals are rounded; their slices' positions tell the normal more exactly."""

MAX_ROUNDING = 1.01 * 10.0 ** -min(ROUNDED_DECIMALS)
"""How far rounded cosines of one direction may differ: by one in their last decimal."""

ROUNDED_NOTE = "ImageOrientationPatient is rounded; the slices' positions give its normal"

ROUNDING_FACTOR = 2.5
"""How many roundings a direction that is worked out from positions may differ from its header's."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames ordered along their normal, one a position.

    Attributes
    ----------
    frames : tuple of Frame
        Ascending along row x column, as ITK has them.
    affine : (4, 4) ndarray
        Voxel (column, row, slice) to RAS mm; sheared where `fault` is ``gantry_tilt``. Of no use with other faults.
    fault : SeriesError, optional
        Why the stack is not a regular right-angled grid.
    notes : tuple of str
        What was assumed of the headers.
    """

    frames: tuple[Frame, ...]
    affine: Affine
    fault: SeriesError | None
    notes: tuple[str, ...] = ()


def normal_of(frame: Frame) -> NDArray[np.float64]:
    """Row cross column, a unit vector (LPS)."""
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def same_position_mm(frames: Sequence[Frame]) -> float:
    """Return the distance below which frames are at one position: less for slices of micrometres."""
    return min(SAME_POSITION_MM, 0.25 * min(frames[0].spacing_mm))


def positions_along(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Each frame's place in mm along the first one's normal."""
    return np.array([f.position_mm for f in frames]) @ normal_of(frames[0])


def make_stack(frames: Sequence[Frame], *, series: str) -> Stack:
    """Order frames of one size and orientation, and fit a grid.

    Raises
    ------
    SeriesError
        If there is a single frame, or two lie at one position.
    """
    if len(frames) < 2:
        raise SeriesError(
            f"{series}: a single slice ({frames[0].name})",
            code="single_slice",
            series=series,
            expected="at least two",
            remedy="give the whole series",
        )
    along = positions_along(frames)
    order = np.argsort(along, kind="stable")
    ordered = tuple(frames[i] for i in order)
    steps = np.diff(along[order])
    least = same_position_mm(frames)
    if (steps < least).any():
        first = int(np.argmin(steps))
        raise SeriesError(
            f"{series}: {ordered[first].name} and {ordered[first + 1].name} lie at one position",
            code="duplicate_slice",
            series=series,
            expected="one image a position",
            found=f"{len(frames)} images at {1 + int((steps >= least).sum())} positions",
            remedy="remove the repeats, or export them as series of their own",
        )
    sheared, off = _fit(ordered, right_angled=False)
    if off <= PLACE_TOLERANCE_VOXEL:
        affine, off_axis = _fit(ordered, right_angled=True)
        if off_axis <= PLACE_TOLERANCE_VOXEL and not is_sheared(affine):
            return Stack(ordered, affine, None)
    refined = _refine_rounded(ordered)
    if refined is not None:
        return Stack(ordered, refined, None, (ROUNDED_NOTE,))
    if off > PLACE_TOLERANCE_VOXEL:
        return Stack(ordered, sheared, _uneven(ordered, steps, off, series))
    step = np.diff(np.array([f.position_mm for f in ordered]), axis=0).mean(0)
    angle = np.degrees(np.arccos(np.clip(abs(step @ normal_of(ordered[0])) / np.linalg.norm(step), 0, 1)))
    fault = SeriesError(
        f"{series}: gantry tilt; the slices are shifted against each other",
        code="gantry_tilt",
        series=series,
        expected="slices stacked at right angles",
        found=f"{format_apart([angle], decimals=2)[0]} degrees, {np.linalg.norm(step):.3f} mm from slice to slice",
        remedy="set scans.resample_irregular=true to resample it, or scans.keep_sheared=true for a sheared affine",
    )
    return Stack(ordered, sheared, fault)


def _fit(frames: Sequence[Frame], *, right_angled: bool) -> tuple[Affine, float]:
    """The grid (voxel to RAS mm) by least squares, and how far a frame's corner is off it, in voxels."""
    positions = np.array([f.position_mm for f in frames])
    orientation = np.mean([f.orientation for f in frames], axis=0)
    row, column = orientation[:3] / np.linalg.norm(orientation[:3]), orientation[3:] / np.linalg.norm(orientation[3:])
    row_mm, column_mm = _common_spacing(frames)
    index = np.arange(len(frames)) - (len(frames) - 1) / 2
    centre, step = positions.mean(0), index @ positions / (index @ index)
    if right_angled:
        normal = np.cross(row, column)
        step = normal * (step @ normal)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * column_mm, column * row_mm, step
    lps[:3, 3] = centre + step * index[0]
    far = np.array([f.far_corner_mm for f in frames])
    last = np.array([frames[0].columns - 1, frames[0].rows - 1])
    to_voxel = np.linalg.inv(lps)
    off = 0.0
    for corners, at in ((positions, (0, 0)), (far, last)):
        voxels = corners @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        expected = np.column_stack([np.tile(at, (len(frames), 1)), np.arange(len(frames))])
        off = max(off, float(np.abs(voxels - expected).max()))
    return LPS_FROM_RAS @ lps, off


def _common_spacing(frames: Sequence[Frame]) -> tuple[float, float]:
    """Return the distance of rows and of columns: the first frame's, or the mean where roundings differ."""
    spacings = np.array([f.spacing_mm for f in frames])
    row_mm, column_mm = spacings[0] if np.allclose(spacings, spacings[0], rtol=1e-5, atol=1e-7) else spacings.mean(0)
    return float(row_mm), float(column_mm)


def is_rounded_stack(frames: Sequence[Frame]) -> bool:
    """Whether frames in order are a right-angled stack whose direction cosines were rounded, some up and some down."""
    return len(frames) > 1 and _refine_rounded(frames) is not None


def _refine_rounded(frames: Sequence[Frame]) -> Affine | None:
    """Return a right-angled grid (voxel to RAS mm) for frames whose direction cosines were rounded, or None.

    The slices' positions span more than the rounding, so they give the normal; row and column turn with it. The turned
    directions must agree with the header's within the rounding, and the positions with the grid.
    """
    cosines = np.array([f.orientation for f in frames])
    n_decimals = next((n for n in (1, 2, *ROUNDED_DECIMALS) if np.abs(cosines - cosines.round(n)).max() < 1e-9), 0)
    if n_decimals not in ROUNDED_DECIMALS:
        return None
    positions = np.array([f.position_mm for f in frames])
    index = np.arange(len(frames)) - (len(frames) - 1) / 2
    step = index @ positions / (index @ index)
    normal = step / np.linalg.norm(step)
    plane = cosines.mean(0).reshape(2, 3)
    plane = plane - np.outer(plane @ normal, normal)
    u, _, v = np.linalg.svd(plane, full_matrices=False)
    row, column = u @ v  # the nearest pair of unit vectors at right angles
    if np.ptp(cosines, axis=0).max() > 1.01 * 10.0**-n_decimals:
        return None
    turned = np.abs(np.concatenate([row, column]) - cosines.mean(0)).max()
    row_mm, column_mm = _common_spacing(frames)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * column_mm, column * row_mm, step
    lps[:3, 3] = positions.mean(0) + step * index[0]
    voxels = (positions - lps[:3, 3]) @ np.linalg.inv(lps[:3, :3]).T
    off = np.abs(voxels - np.outer(np.arange(len(frames)), (0, 0, 1))).max()
    is_small = turned <= ROUNDING_FACTOR * 0.5 * 10.0**-n_decimals
    return LPS_FROM_RAS @ lps if is_small and off <= PLACE_TOLERANCE_VOXEL else None


def _uneven(frames: Sequence[Frame], steps: NDArray[np.float64], off: float, series: str) -> SeriesError:
    """Return the fault of slices that lie on no regular grid, with the numbers that show why."""
    least = float(steps.min())
    multiples = np.rint(steps / least)
    is_hole = bool((np.abs(steps / least - multiples) < 0.05).all()) and multiples.max() > 1
    remedy = "export the series again, whole; or set scans.resample_irregular=true to fill the gap between slices"
    if is_hole:
        n_missing = int((multiples - 1).sum())
        at = int(np.argmax(multiples))
        wanted, longest = format_apart([least, steps[at]])
        found = f"{n_missing} missing; {longest} mm between {frames[at].name} and {frames[at + 1].name}"
        what, expected = "a slice is missing", f"{wanted} mm from slice to slice"
    else:
        what, expected, numbers = _find_irregularity(frames, steps)
        found = f"{numbers}; a slice would be {off:.2f} voxels off a regular grid"
    return SeriesError(
        f"{series}: {what}",
        code="missing_slice" if is_hole else "nonuniform",
        series=series,
        expected=expected,
        found=found,
        remedy=remedy,
    )


def _find_irregularity(frames: Sequence[Frame], steps: NDArray[np.float64]) -> tuple[str, str, str]:
    """Return what differs between slices most, in mm: their distances, their shifts, or their directions."""
    first = frames[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    positions = np.array([f.position_mm for f in frames])
    shifts = np.diff(positions, axis=0) @ np.stack([row, column]).T  # (n - 1, 2) mm
    corners = np.array([f.far_corner_mm for f in frames]) - positions
    spread = {"steps": np.ptp(steps), "shifts": np.ptp(shifts, axis=0).max(), "corners": np.ptp(corners, axis=0).max()}
    largest = max(spread, key=lambda name: spread[name])
    if largest == "corners":
        turns = format_vectors_apart(sorted({f.orientation for f in frames})[:2])
        return "slice directions or spacings differ", "one orientation and spacing", f"({') and ('.join(turns)})"
    values = steps if largest == "steps" else shifts[:, np.argmax(np.ptp(shifts, axis=0))]
    distinct = np.unique(np.round(values, 6))
    shown = ", ".join(format_apart([*distinct[:6]])) + (", ..." if len(distinct) > 6 else "")
    if largest == "steps":
        return "slice distances differ", "even distances", f"{shown} mm"
    return "slices are shifted sideways unevenly", "even shifts", f"shifts of {shown} mm"
