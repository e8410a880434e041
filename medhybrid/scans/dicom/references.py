"""Reading of reference masks from DICOM SEG and RTSTRUCT, on the grid of their image.

Masks may overlap, so each is a separate array. A mask that does not lie exactly on the image's voxels is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import ScanError
from medhybrid.geometry import LPS_FROM_RAS, Grid, apply_affine
from medhybrid.number_text import format_apart
from medhybrid.scans import raster
from medhybrid.scans.dicom.attributes import number as number_of
from medhybrid.scans.dicom.attributes import numbers, text
from medhybrid.scans.dicom.headers import read_header
from medhybrid.scans.dicom.left_out import MIN_REGULAR, find_stripes
from medhybrid.scans.dicom.mask_owner import refuse_other_patient
from medhybrid.scans.dicom.rtstruct import Locate, fill, read_structures
from medhybrid.scans.dicom.seg_file import Groups, SegFile, unreadable
from medhybrid.scans.dicom.source_values import valid_uid
from medhybrid.scans.image_files import is_marked_as_dicom
from medhybrid.scans.scan import Scan

Masks = dict[str, NDArray[np.bool_]]
"""Masks (X, Y, Z) by name."""

KINDS = ("SEG", "RTSTRUCT")

OTHER_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr", *raster.SUFFIXES)
"""Suffixes of files that are not DICOM, unless their content has its mark."""

MAX_SLICE_STEPS = 1.5
"""Largest slice distance of a SEG, in slice distances of its image. Above it, the SEG was drawn on another image."""

MAX_OFF_VOXEL = 0.05
"""Largest distance of a SEG's pixel from its voxel of the image, in voxels."""


def reference_kind(path: Path) -> str:
    """Return ``SEG``, ``RTSTRUCT``, or an empty string for any other file."""
    if path.name.lower().endswith(OTHER_SUFFIXES) and not is_marked_as_dicom(path):
        return ""
    header = read_header(path)
    return header.modality if header is not None and header.modality in KINDS else ""


def reference_names(path: Path) -> list[str]:
    """Return the distinct names of the segments or structures of a file; raises `ScanError`."""
    if reference_kind(path) == "RTSTRUCT":
        return list(dict.fromkeys(s.name for s in read_structures(path)))
    return list(dict.fromkeys(SegFile.open(path).names.values()))


def read_masks(path: Path, image: Scan, names: Collection[str]) -> Masks:
    """Read the masks with the given names, on the image's grid. Segments with equal names are joined.

    Raises
    ------
    ScanError
        If the file cannot be read, has another frame of reference or patient than the image, or does not lie on its voxels.
    """
    masks = _from_structures if reference_kind(path) == "RTSTRUCT" else _from_segments
    return masks(path, image, names)


# --- RTSTRUCT -----------------------------------------------------------------------------------------------------


def _from_structures(path: Path, image: Scan, names: Collection[str]) -> Masks:
    shape, locate, finish = _target(image)
    masks: Masks = {}
    for structure in read_structures(path):
        if structure.name not in names:
            continue
        _refuse_other_frame(path, structure.frame_of_reference, image)
        if not masks:
            refuse_other_patient(path, structure.frame_of_reference, image)
        mask = finish(fill(structure, shape, locate))
        masks[structure.name] = masks[structure.name] | mask if structure.name in masks else mask
    return masks


def _target(image: Scan) -> tuple[tuple[int, int, int], Locate, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]]:
    """Return the grid for filling masks: its shape, a function from LPS mm to it, and one from it to the image's grid.

    For an image that was resampled from irregular slices, masks are filled on the original slices.
    """
    regular = image.source.regular
    if regular is None:
        return image.grid.shape, _locate_on(image.grid), lambda mask: mask
    return regular.slices_shape, regular.locate_in_slices, regular.labels_from_slices


def _locate_on(grid: Grid) -> Locate:
    to_voxel: NDArray[np.float64] = (np.linalg.inv(grid.affine) @ LPS_FROM_RAS).astype(np.float64)
    return lambda points: apply_affine(to_voxel, points)


# --- SEG ----------------------------------------------------------------------------------------------------------


def _from_segments(path: Path, image: Scan, names: Collection[str]) -> Masks:
    """Read masks from a SEG. Each frame is placed by its own position, regardless of the images that the SEG refers to."""
    seg = SegFile.open(path)
    frame_of_reference = text(seg.dataset, "FrameOfReferenceUID")
    _refuse_other_frame(path, frame_of_reference, image)
    refuse_other_patient(path, frame_of_reference, image)
    shape, locate, finish = _target(image)
    chosen = {number: name for number, name in seg.names.items() if name in names}
    masks: Masks = {name: np.zeros(shape, bool) for name in chosen.values()}
    others: dict[str, list[tuple[int, Groups, int]]] = {}  # frames of the other segments
    places: list[tuple[float, ...]] = []
    first: Groups | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for index, (groups, segment) in enumerate(seg.frames()):
                first = first or groups
                places += filter(None, [numbers(groups("PlanePositionSequence"), "ImagePositionPatient", 3)])
                if segment is not None and segment not in seg.names:
                    raise ScanError(
                        f"{path.name}: a frame belongs to an unknown segment",
                        expected=f"segments {', '.join(map(str, seg.names))}",
                        found=f"segment {segment}",
                        remedy="export it again",
                    )
                for n in (n for n in seg.names if n not in chosen and segment in (None, n)):
                    others.setdefault(seg.names[n], []).append((index, groups, n))
                wanted = [
                    n for n in chosen if segment is None or segment == n
                ]  # a frame of a label map holds all segments
                if not wanted:
                    continue
                frame = seg.pixels(index)  # (row, column)
                for n in wanted:
                    pixels = frame == n if segment is None else frame != 0
                    if pixels.any():
                        at = _place(pixels, groups, locate, shape)
                        masks[chosen[n]][at[:, 0], at[:, 1], at[:, 2]] = True
            if first is not None and places:
                axis = _slice_axis(first, locate)
                slices = np.unique(np.rint(locate(np.array(places))[:, axis]).astype(np.int64))
                steps = np.diff(slices)
                if not (steps == 1).any():
                    _refuse_other_spacing(first, image, axis)
                for mask in masks.values():
                    _refuse_stripes(np.moveaxis(mask, axis, 0))
                if len(slices) >= MIN_REGULAR and np.gcd.reduce(steps) > 1:
                    for frames in others.values():
                        _refuse_stripes(np.moveaxis(_draw(seg, frames, locate, shape), axis, 0))
    except ScanError as error:
        raise error if path.name in str(error) else ScanError(f"{path.name}: {error}") from error
    except Exception as error:
        raise unreadable(path, type(error).__name__) from error  # the text may quote a value of the header
    return {name: finish(mask) for name, mask in masks.items()}


def _place(pixels: NDArray[np.bool_], groups: Groups, locate: Locate, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the voxels (N, 3) of the nonzero pixels of a frame (row, column)."""
    turn = numbers(groups("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    position = numbers(groups("PlanePositionSequence"), "ImagePositionPatient", 3)
    spacing = numbers(groups("PixelMeasuresSequence"), "PixelSpacing", 2)
    if position is None and shape == (pixels.shape[1], pixels.shape[0], 1):  # of a projection, which has no position
        rows, columns = np.nonzero(pixels)
        return np.stack([columns, rows, np.zeros_like(rows)], axis=1)
    if turn is None or position is None or spacing is None:
        raise ScanError(
            "the geometry of a frame is missing", expected="orientation, position and spacing", remedy="export it again"
        )
    row, column = np.array(turn[:3]) * spacing[1], np.array(turn[3:]) * spacing[0]  # steps in LPS mm
    rows, columns = np.nonzero(pixels)
    box = np.array([(c, r) for c in (columns.min(), columns.max()) for r in (rows.min(), rows.max())])
    first, *_ = at_box = locate(np.array(position) + box[:, :1] * row + box[:, 1:] * column)
    to_right, down = (
        locate(np.array(position) + box[:1, :1] * row + box[:1, 1:] * column + s)[0] - first for s in (row, column)
    )
    start, x, y = (np.rint(v).astype(np.int64) for v in (first, to_right, down))
    expected = start + (box - box[0]) @ np.stack([x, y])
    off = float(np.abs(at_box - expected).max())
    is_outside = bool((expected < 0).any() or (expected >= shape).any())
    has_voxels = np.abs(x).sum() == np.abs(y).sum() == 1 and not x @ y  # one pixel step is one voxel step
    if not has_voxels or off > MAX_OFF_VOXEL or is_outside:
        raise ScanError(
            "it does not lie on the image's voxels",
            expected="the same voxel positions",
            found="pixels of another size"
            if not has_voxels
            else "voxels outside the image"
            if is_outside
            else f"{format_apart([off, MAX_OFF_VOXEL])[0]} voxels off",
            remedy="use the image that it was drawn on, or resample it to this image",
        )
    return np.asarray(start + (columns - box[0, 0])[:, None] * x + (rows - box[0, 1])[:, None] * y)


def _draw(
    seg: SegFile, frames: Sequence[tuple[int, Groups, int]], locate: Locate, shape: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Return the mask of the given frames of one segment, without frames that do not lie on the image."""
    mask = np.zeros(shape, bool)
    for index, groups, n in frames:
        frame = seg.pixels(index)
        pixels = frame == n if seg.is_labelmap else frame != 0
        if pixels.any():
            with suppress(ScanError):
                at = _place(pixels, groups, locate, shape)
                mask[at[:, 0], at[:, 1], at[:, 2]] = True
    return mask


def _slice_axis(groups: Groups, locate: Locate) -> int:
    """Return the image axis along which frames are stacked (orthogonal to rows and columns)."""
    turn = numbers(groups("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    if turn is None:
        return 2
    start, *ends = locate(np.vstack([np.zeros(3), np.reshape(turn, (2, 3))]))
    return int(np.argmin(np.abs(np.array(ends) - start).max(axis=0)))


def _refuse_other_spacing(groups: Groups, image: Scan, axis: int) -> None:
    """Refuse a SEG with a larger SpacingBetweenSlices than the image, which would give stripes."""
    measures = groups("PixelMeasuresSequence")
    between = None if measures is None else number_of(measures, "SpacingBetweenSlices")
    step = image.grid.spacing_mm[axis]
    if image.source.regular is None and between is not None and between > MAX_SLICE_STEPS * step:
        wanted, found = format_apart([step, between])
        raise ScanError(
            "its slices are further apart than the image's",
            expected=f"{wanted} mm",
            found=f"{found} mm",
            remedy="use the image that it was drawn on, or resample it to this image",
        )


def _refuse_stripes(mask: NDArray[np.bool_]) -> None:
    """Refuse a mask (slice, A, B) with regular gaps, regardless of the spacing in the file."""
    if found := find_stripes(mask):
        raise ScanError(
            "its slices are further apart than the image's",
            expected="pixels on neighbouring slices, or parts that do not overlap",
            found=found,
            remedy="use the image that it was drawn on, or resample it to this image",
        )


def _refuse_other_frame(path: Path, frame_of_reference: str, image: Scan) -> None:
    """Refuse a file with another FrameOfReferenceUID than its image, if both have one."""
    if image.source.kind != "dicom" or not frame_of_reference:
        return
    ours = text(image.source.header[0], "FrameOfReferenceUID")
    was_supplied = any("FrameOfReferenceUID is absent" in note for note in image.notes)
    if ours and not was_supplied and frame_of_reference not in (ours, valid_uid(ours)):
        raise ScanError(
            f"{path.name} has another frame of reference than its image",
            expected="the same FrameOfReferenceUID",
            remedy="use the image that it was drawn on",
        )
