"""Reference masks from DICOM: segments of a SEG and structures of an RTSTRUCT, by name, on the grid of their image.

Several masks may share a voxel, so each is an array of its own. What does not fit the image exactly is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError, ScanError
from medhybrid.geometry import LPS_FROM_RAS, Grid, apply_affine, place_on_grid
from medhybrid.scans.dicom.frames import text
from medhybrid.scans.dicom.headers import read_header
from medhybrid.scans.dicom.rtstruct import Locate, fill, read_structures
from medhybrid.scans.scan import Scan

Masks = dict[str, NDArray[np.bool_]]
"""By name, (X, Y, Z)."""

KINDS = ("SEG", "RTSTRUCT")


def reference_kind(path: Path) -> str:
    """``SEG``, ``RTSTRUCT``, or an empty string for any other file."""
    if path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr")):
        return ""
    header = read_header(path)
    return header.modality if header is not None and header.modality in KINDS else ""


def reference_names(path: Path) -> list[str]:
    """Names of the segments or structures of a file, each once; raises `ScanError`."""
    if reference_kind(path) == "RTSTRUCT":
        return list(dict.fromkeys(s.name for s in read_structures(path)))
    return list(dict.fromkeys(_segment_names(_open_seg(path)).values()))


def read_masks(path: Path, image: Scan, names: Collection[str]) -> Masks:
    """The masks of those names on the image's grid; several segments of one name are joined.

    Raises
    ------
    ScanError
        If the file cannot be read, belongs to another frame of reference, or does not lie on the image's voxels.
    """
    masks = _from_structures if reference_kind(path) == "RTSTRUCT" else _from_segments
    return masks(path, image, names)


# --- RTSTRUCT -----------------------------------------------------------------------------------------------------


def _from_structures(path: Path, image: Scan, names: Collection[str]) -> Masks:
    regular = image.source.regular
    shape, locate = image.grid.shape, _locate_on(image.grid)
    if regular is not None:  # contours were drawn on the slices, not on the grid that they were resampled to
        shape, locate = regular.slices_shape, regular.locate_in_slices
    masks: Masks = {}
    for structure in read_structures(path):
        if structure.name not in names:
            continue
        _refuse_other_frame(path, structure.frame_of_reference, image)
        mask = fill(structure, shape, locate)
        mask = mask if regular is None else regular.labels_from_slices(mask)
        masks[structure.name] = masks[structure.name] | mask if structure.name in masks else mask
    return masks


def _locate_on(grid: Grid) -> Locate:
    to_voxel: NDArray[np.float64] = (np.linalg.inv(grid.affine) @ LPS_FROM_RAS).astype(np.float64)
    return lambda points: apply_affine(to_voxel, points)


# --- SEG ----------------------------------------------------------------------------------------------------------


def _open_seg(path: Path) -> Any:
    import highdicom as hd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seg = hd.seg.segread(path)
            kind = seg.segmentation_type
    except Exception as error:  # the library raises many kinds on damaged files
        raise _unreadable(path, error) from error
    if kind == hd.seg.SegmentationTypeValues.FRACTIONAL:
        raise ScanError(
            f"{path.name} holds probabilities, no masks",
            expected="a BINARY or LABELMAP segmentation",
            found="FRACTIONAL",
            remedy="choose a threshold and export it as BINARY",
        )
    return seg


def _segment_names(seg: Any) -> dict[int, str]:
    return {int(n): str(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers}


def _from_segments(path: Path, image: Scan, names: Collection[str]) -> Masks:
    seg = _open_seg(path)
    _refuse_other_frame(path, text(seg, "FrameOfReferenceUID"), image)
    read = _segment_by_volume if image.source.regular is None else _segment_by_slices
    masks: Masks = {}
    for number, name in _segment_names(seg).items():
        if name not in names:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mask = read(seg, number, image)
        except GeometryError as error:
            raise ScanError(f"{path.name}: segment {name!r}: {error}") from error
        except Exception as error:
            raise _unreadable(path, error) from error
        masks[name] = masks[name] | mask if name in masks else mask
    return masks


def _segment_by_volume(seg: Any, number: int, image: Scan) -> NDArray[np.bool_]:
    volume = seg.get_volume(segment_numbers=[number], combine_segments=True, dtype=np.uint8)
    affine = LPS_FROM_RAS @ np.asarray(volume.affine, np.float64)[:, [2, 1, 0, 3]]
    array = np.ascontiguousarray(volume.array.transpose(2, 1, 0)) != 0  # (slice, row, column) -> (X, Y, Z)
    n_x, n_y, n_z = array.shape
    if n_z == 1:  # the step to a slice that is not there may be anything; the image's own is as good
        affine[:3, 2] *= image.grid.spacing_mm[2] / np.linalg.norm(affine[:3, 2])
    return np.asarray(place_on_grid(array, Grid((n_x, n_y, n_z), affine), image.grid), bool)


def _segment_by_slices(seg: Any, number: int, image: Scan) -> NDArray[np.bool_]:
    """For slices that were resampled: the segment on the slices, then as they were."""
    uids = [frame.uid for frame in image.source.regular.stack.frames]
    frames = seg.get_pixels_by_source_instance(
        uids, segment_numbers=[number], combine_segments=True, assert_missing_frames_are_empty=True, dtype=np.uint8
    )
    on_slices = np.ascontiguousarray(frames.transpose(2, 1, 0)) != 0
    return np.asarray(image.source.regular.labels_from_slices(on_slices), bool)


def _unreadable(path: Path, error: Exception) -> ScanError:
    return ScanError(
        f"{path.name} cannot be read as a DICOM SEG of this image", found=str(error)[:200], remedy="export it again"
    )


def _refuse_other_frame(path: Path, frame_of_reference: str, image: Scan) -> None:
    """Only where both files say in which frame of reference they are."""
    if image.source.kind != "dicom" or not frame_of_reference:
        return
    ours = text(image.source.header[0], "FrameOfReferenceUID")
    was_supplied = any("FrameOfReferenceUID is absent" in note for note in image.notes)
    if ours and not was_supplied and ours != frame_of_reference:
        raise ScanError(
            f"{path.name} lies in another frame of reference than its image",
            expected="one FrameOfReferenceUID",
            remedy="give the image that it was drawn on",
        )
