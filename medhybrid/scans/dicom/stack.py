"""Fitting of a regular grid to frames, or a fault with the measured numbers.

One rule decides: the outer corners of every frame, as given by its own header, must lie on the grid within
`PLACE_TOLERANCE_VOXEL`. Rounding in real headers is accepted. A displacement of voxels is not.
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
"""Largest difference of direction cosines within a stack. In real data, they vary by 1e-8 to 1e-5."""

SAME_POSITION_MM = 1e-2
"""Frames with a smaller distance along the normal are at the same position."""

PLACE_TOLERANCE_VOXEL = 0.02
"""Largest distance of a frame's corner from its voxel of the grid."""

ROUNDED_DECIMALS = (3, 4)
"""Numbers of decimals of rounded direction cosines. The slices' positions give the normal more precisely."""

MAX_ROUNDING = 1.01 * 10.0 ** -min(ROUNDED_DECIMALS)
"""Largest difference between rounded cosines of one direction: one in the last decimal."""

ROUNDED_NOTE = "ImageOrientationPatient is rounded; the slices' positions give its normal"

ROUNDED_POSITION_MM = 0.1
"""Unit of positions that are rounded to one decimal. Equal distances then seem to differ by up to this unit."""

MAX_TOLERANCE_VOXEL = 0.1
"""Largest distance of a frame's corner from its voxel, if positions are rounded."""

ROUNDED_POSITIONS_NOTE = (
    f"ImagePositionPatient is rounded to {ROUNDED_POSITION_MM} mm; slice distances are taken as equal"
)

ROUNDING_FACTOR = 2.5
"""Largest difference between a direction computed from positions and the header's, in rounding errors."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames ordered along their normal, one per position.

    Attributes
    ----------
    frames : tuple of Frame
        The frames, in ascending order along row x column, as in ITK.
    affine : (4, 4) ndarray
        Voxel (column, row, slice) to RAS mm. It is sheared for the fault ``gantry_tilt``, and unusable for other faults.
    fault : SeriesError, optional
        Reason why the frames do not form a regular orthogonal grid.
    notes : tuple of str
        Assumptions about the headers.
    """

    frames: tuple[Frame, ...]
    affine: Affine
    fault: SeriesError | None
    notes: tuple[str, ...] = ()


def normal_of(frame: Frame) -> NDArray[np.float64]:
    """Return the cross product of row and column direction as a unit vector (LPS)."""
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def same_position_mm(frames: Sequence[Frame]) -> float:
    """Return the distance in mm below which frames are at the same position. It is smaller for microscopic pixels."""
    return min(SAME_POSITION_MM, 0.25 * min(frames[0].spacing_mm))


def positions_along(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Return each frame's position in mm along the normal of the first frame."""
    return np.array([f.position_mm for f in frames]) @ normal_of(frames[0])


PROJECTION_MM = 1.0
"""Thickness that is assumed for a projection."""


def projection_stack(frame: Frame) -> Stack:
    """Return the stack of a projection: one slice, of which only the pixel size is known."""
    row_mm, column_mm = frame.spacing_mm
    lps = np.diag([column_mm, row_mm, PROJECTION_MM, 1.0])
    return Stack((frame,), LPS_FROM_RAS @ lps, None, frame.notes)


def make_stack(frames: Sequence[Frame], *, series: str) -> Stack:
    """Sort frames of one size and orientation along their normal, and fit a grid.

    Raises
    ------
    SeriesError
        For a single frame, or two frames at the same position.
    """
    if len(frames) < 2:
        raise SeriesError(
            f"{series}: a single slice ({frames[0].name})",
            code="single_slice",
            series=series,
            expected="at least two",
            remedy="use the complete series",
        )
    along = positions_along(frames)
    order = np.argsort(along, kind="stable")
    ordered = tuple(frames[i] for i in order)
    steps = np.diff(along[order])
    least = same_position_mm(frames)
    if (steps < least).any():
        first = int(np.argmin(steps))
        raise SeriesError(
            f"{series}: {ordered[first].name} and {ordered[first + 1].name} have the same position",
            code="duplicate_slice",
            series=series,
            expected="one image per position",
            found=f"{len(frames)} images at {1 + int((steps >= least).sum())} positions",
            remedy="remove the repeats, or export them as separate series",
        )
    sheared, off = _fit(ordered, right_angled=False)
    tolerance = _tolerance(ordered)
    if off <= tolerance:
        affine, off_axis = _fit(ordered, right_angled=True)
        if off_axis <= tolerance and not is_sheared(affine):
            is_exact = off_axis <= PLACE_TOLERANCE_VOXEL
            return Stack(ordered, affine, None, () if is_exact else (ROUNDED_POSITIONS_NOTE,))
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
        found=f"{format_apart([angle], decimals=2)[0]} degrees, slice distance {np.linalg.norm(step):.3f} mm",
        remedy="set scans.resample_irregular=true to resample it, or scans.keep_sheared=true for a sheared affine",
    )
    return Stack(ordered, sheared, fault)


def _tolerance(frames: Sequence[Frame]) -> float:
    """Return the largest distance of a frame's corner from its voxel: larger if positions are rounded to one decimal."""
    positions = np.array([f.position_mm for f in frames]) / ROUNDED_POSITION_MM
    is_rounded = np.abs(positions - positions.round()).max() < 1e-6
    if not is_rounded or len(frames) < 3:
        return PLACE_TOLERANCE_VOXEL
    step = float(np.linalg.norm(positions[-1] - positions[0])) * ROUNDED_POSITION_MM / (len(frames) - 1)
    rounding = ROUNDING_FACTOR / 2 * 0.5 * ROUNDED_POSITION_MM / min(step, *frames[0].spacing_mm)
    return float(np.clip(rounding, PLACE_TOLERANCE_VOXEL, MAX_TOLERANCE_VOXEL))


def _fit(frames: Sequence[Frame], *, right_angled: bool) -> tuple[Affine, float]:
    """Fit a grid to frames by least squares.

    Returns
    -------
    affine : (4, 4) ndarray
        Voxel to RAS mm.
    off : float
        Largest distance of a frame's corner from the grid, in voxels.
    """
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
    """Return the spacing of rows and columns: that of the first frame, or the mean if rounding differs."""
    spacings = np.array([f.spacing_mm for f in frames])
    row_mm, column_mm = spacings[0] if np.allclose(spacings, spacings[0], rtol=1e-5, atol=1e-7) else spacings.mean(0)
    return float(row_mm), float(column_mm)


def is_rounded_stack(frames: Sequence[Frame]) -> bool:
    """Return True if ordered frames form an orthogonal stack with rounded direction cosines."""
    return len(frames) > 1 and _refine_rounded(frames) is not None


def _refine_rounded(frames: Sequence[Frame]) -> Affine | None:
    """Return an orthogonal grid (voxel to RAS mm) for frames with rounded direction cosines, or None.

    The normal is computed from the slices' positions, which are more precise than rounded cosines. Row and column are rotated
    to be orthogonal to it. These directions must agree with the header within the rounding, and the positions with the grid.
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
    """Return the fault of unevenly spaced slices, with the measured numbers."""
    least = float(steps.min())
    multiples = np.rint(steps / least)
    is_hole = bool((np.abs(steps / least - multiples) < 0.05).all()) and multiples.max() > 1
    remedy = "export the complete series again, or set scans.resample_irregular=true to interpolate between slices"
    if is_hole:
        n_missing = int((multiples - 1).sum())
        at = int(np.argmax(multiples))
        wanted, longest = format_apart([least, steps[at]])
        found = f"{n_missing} missing; {longest} mm between {frames[at].name} and {frames[at + 1].name}"
        what, expected = "a slice is missing", f"a slice distance of {wanted} mm"
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
    """Find the largest irregularity in mm: of slice distances, sideways shifts, or slice directions.

    Returns
    -------
    tuple of str
        The fault, the expected state, and the numbers found.
    """
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
        return "slice distances differ", "equal distances", f"{shown} mm"
    return "slices are shifted sideways by different distances", "equal shifts", f"shifts of {shown} mm"
