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
from medhybrid.geometry import LPS_FROM_RAS, Affine
from medhybrid.scans.dicom.frames import Frame

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of direction cosines within a stack; real data jitters by 1e-8 to 1e-5."""

SAME_POSITION_MM = 1e-2
"""Frames closer than this along the normal are at one position."""

PLACE_TOLERANCE_VOXEL = 0.02
"""How far a frame's own corner may lie from its voxel."""


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
        Why the stack is no regular right-angled grid.
    """

    frames: tuple[Frame, ...]
    affine: Affine
    fault: SeriesError | None


def normal_of(frame: Frame) -> NDArray[np.float64]:
    """Row cross column, a unit vector (LPS)."""
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


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
    if (steps < SAME_POSITION_MM).any():
        first = int(np.argmin(steps))
        raise SeriesError(
            f"{series}: {ordered[first].name} and {ordered[first + 1].name} lie at one position",
            code="duplicate_slice",
            series=series,
            expected="one image a position",
            found=f"{len(frames)} images at {1 + int((steps >= SAME_POSITION_MM).sum())} positions",
            remedy="remove the repeats, or export them as series of their own",
        )
    sheared, off = _fit(ordered, right_angled=False)
    if off > PLACE_TOLERANCE_VOXEL:
        return Stack(ordered, sheared, _uneven(ordered, steps, off, series))
    affine, off_axis = _fit(ordered, right_angled=True)
    if off_axis <= PLACE_TOLERANCE_VOXEL:
        return Stack(ordered, affine, None)
    step = np.diff(np.array([f.position_mm for f in ordered]), axis=0).mean(0)
    angle = np.degrees(np.arccos(np.clip(abs(step @ normal_of(ordered[0])) / np.linalg.norm(step), 0, 1)))
    fault = SeriesError(
        f"{series}: gantry tilt; the slices are shifted against each other",
        code="gantry_tilt",
        series=series,
        expected="slices stacked at right angles",
        found=f"{angle:.2f} degrees, {np.linalg.norm(step):.3f} mm from slice to slice",
        remedy="set scans.resample_irregular=true to resample it, or scans.keep_sheared=true for a sheared affine",
    )
    return Stack(ordered, sheared, fault)


def _fit(frames: Sequence[Frame], *, right_angled: bool) -> tuple[Affine, float]:
    """The grid (voxel to RAS mm) by least squares, and how far a frame's corner is off it, in voxels."""
    positions = np.array([f.position_mm for f in frames])
    orientation = np.mean([f.orientation for f in frames], axis=0)
    row, column = orientation[:3] / np.linalg.norm(orientation[:3]), orientation[3:] / np.linalg.norm(orientation[3:])
    row_mm, column_mm = frames[0].spacing_mm
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


def _uneven(frames: Sequence[Frame], steps: NDArray[np.float64], off: float, series: str) -> SeriesError:
    gaps = np.unique(np.round(steps, 3))
    least = float(gaps[0])
    multiples = np.rint(steps / least)
    is_hole = bool((np.abs(steps / least - multiples) < 0.05).all()) and multiples.max() > 1
    if is_hole:
        n_missing = int((multiples - 1).sum())
        at = int(np.argmax(multiples))
        found = f"{n_missing} missing; {steps[at]:.3f} mm between {frames[at].name} and {frames[at + 1].name}"
        what, expected = "a slice is missing", f"{least:.3f} mm from slice to slice"
    else:
        shown = ", ".join(f"{g:.3f}" for g in gaps[:6]) + (", ..." if len(gaps) > 6 else "")
        found = f"{shown} mm; a slice would be {off:.2f} voxels off a regular grid"
        what, expected = "slice distances differ", "even distances"
    return SeriesError(
        f"{series}: {what}",
        code="missing_slice" if is_hole else "nonuniform",
        series=series,
        expected=expected,
        found=found,
        remedy="export the series again, whole; or set scans.resample_irregular=true to fill the gap between slices",
    )
