"""A DICOM series to a `Scan`: right, or refused with a code, the numbers and a remedy.

The headers are checked first, by rules whose tolerances are named here; highdicom then assembles the volume; and each
frame's own header is held against the result, so that a slip in either is caught.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.errors import GeometryError, SeriesError
from medhybrid.geometry import LPS_FROM_RAS
from medhybrid.scans.scan import Scan, Source

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of direction cosines within a series; real data jitters by 1e-8 to 1e-5."""

SPACING_TOLERANCE = 0.01
"""Largest deviation of a slice distance from the median, as share of it."""

SAME_POSITION_MM = 1e-2
"""Slices closer than this along the normal are at one position."""

MAX_TILT_MM_PER_SLICE = 0.01
"""Largest in-plane step between slices, as share of the slice distance, at which a series is not tilted (0.6 degrees)."""

PLACE_TOLERANCE_VOXEL = 0.02
"""How far a frame's own corner may lie from its voxel."""


def read_series(paths: Sequence[Path], *, case: str) -> Scan:
    """Read one series.

    Parameters
    ----------
    paths : sequence of Path
        The files of one series, in any order.
    case : str
        Name of the scan.

    Raises
    ------
    SeriesError
        If it is not one regular volume of grey values.
    """
    datasets = [_load(path) for path in paths]
    if not datasets:
        raise SeriesError(f"{case}: no DICOM file", code="no_dicom", remedy="check the folder")
    _refuse_special_images(case, datasets)
    is_multiframe = any("PerFrameFunctionalGroupsSequence" in d for d in datasets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # header oddities that do not bear on geometry, which is checked here
        if is_multiframe:
            ordered = datasets
            volume = _multiframe_volume(case, datasets)
        else:
            ordered = _slices_in_order(case, datasets)
            volume = _series_volume(case, ordered)
    array, affine = _to_xyz(volume)
    scan = Scan(
        array=array[None],
        affine=affine,
        source=Source("dicom", tuple(Path(d.filename) for d in ordered), tuple(ordered)),
        case=case,
        channels=(str(ordered[0].get("SeriesDescription", "") or ""),),
        notes=() if not _lacks_frame_of_reference(ordered) else ("FrameOfReferenceUID is absent",),
    )
    if not is_multiframe:
        _hold_against_headers(scan, ordered)
    return _without_pixels(scan)


def _load(path: Path) -> Any:
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            dataset.decode()
    except Exception as error:  # damaged files raise many kinds; each means the same to the user
        raise SeriesError(
            f"{path.name} cannot be read as DICOM",
            code="encrypted_or_unreadable",
            found=type(error).__name__,
            remedy="export the series again",
        ) from error
    if "PixelData" not in dataset:
        raise SeriesError(f"{path.name} holds no pixels", code="not_image", remedy="leave the file out")
    return dataset


def _refuse_special_images(case: str, datasets: Sequence[Any]) -> None:
    for d in datasets:
        kinds = {str(v).upper() for v in (d.get("ImageType") or [])}
        if "MOSAIC" in kinds or "VFRAME" in kinds:
            raise SeriesError(
                f"{case}: vendor sheet of tiled slices ({'MOSAIC' if 'MOSAIC' in kinds else 'VFRAME'})",
                code="mosaic",
                expected="one slice an image",
                remedy="export it as enhanced DICOM or convert it with dcm2niix first",
            )
        if int(d.get("SamplesPerPixel", 1) or 1) != 1:
            raise SeriesError(
                f"{case}: colour image", code="colour", expected="grey values", remedy="give the original series"
            )


def _slices_in_order(case: str, datasets: list[Any]) -> list[Any]:
    """The slices sorted along their normal; raises unless they form one regular, right-angled stack."""
    for d in datasets:
        for name, length in (("ImageOrientationPatient", 6), ("ImagePositionPatient", 3), ("PixelSpacing", 2)):
            if len(_numbers(d, name)) != length or not np.isfinite(_numbers(d, name)).all():
                raise SeriesError(
                    f"{case}: {name} is missing or unusable in {Path(d.filename).name}",
                    code="no_geometry",
                    remedy="a mask could not be placed; export the series with its geometry",
                )
        if int(d.get("NumberOfFrames", 1) or 1) != 1:
            raise SeriesError(
                f"{case}: several frames without functional groups", code="no_geometry", remedy="export it again"
            )
    shapes = {
        f"{d.Rows} x {d.Columns} of {' x '.join(f'{mm:.4g}' for mm in _numbers(d, 'PixelSpacing'))} mm"
        for d in datasets
    }
    if len(shapes) > 1:
        raise SeriesError(
            f"{case}: slices differ in size",
            code="mixed_shape",
            expected="one size and spacing",
            found=" and ".join(sorted(shapes)),
            remedy="export each stack as a series of its own",
        )
    orientations = np.array([_numbers(d, "ImageOrientationPatient") for d in datasets])
    jitter = np.abs(orientations - orientations[0]).max()
    if jitter > ORIENTATION_TOLERANCE:
        raise SeriesError(
            f"{case}: slices differ in orientation (a localizer, or several stacks)",
            code="mixed_orientation",
            expected=f"direction cosines within {ORIENTATION_TOLERANCE}",
            found=f"{jitter:.4f}",
            remedy="export each stack as a series of its own",
        )
    row, column = orientations[0][:3], orientations[0][3:]
    if abs(row @ column) > ORIENTATION_TOLERANCE * 10 or abs(np.linalg.norm(row) * np.linalg.norm(column) - 1) > 1e-2:
        raise SeriesError(f"{case}: orientation is no pair of unit vectors", code="no_geometry", found=str(row))
    if len(datasets) < 2:
        raise SeriesError(
            f"{case}: a single slice", code="single_slice", expected="at least two", remedy="give the whole series"
        )
    normal = np.cross(row, column)
    positions = np.array([_numbers(d, "ImagePositionPatient") for d in datasets])
    order = np.argsort(positions @ normal, kind="stable")
    _check_steps(case, positions[order], normal)
    return [datasets[i] for i in order]


def _check_steps(case: str, positions: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    if (along < SAME_POSITION_MM).any():
        n_distinct = 1 + int((along >= SAME_POSITION_MM).sum())
        every_position_repeats = len(positions) % n_distinct == 0 and len(positions) > n_distinct
        raise SeriesError(
            f"{case}: {len(positions)} images at {n_distinct} slice positions",
            code="multi_volume" if every_position_repeats else "duplicate_slice",
            expected="one image a position",
            remedy="split time points, echoes or repeats into series of their own",
        )
    median = float(np.median(along))
    if np.abs(along - median).max() > SPACING_TOLERANCE * median:
        gaps = np.round(np.unique(np.round(along, 3)), 3).tolist()
        is_hole = all(abs(g / min(gaps) - round(g / min(gaps))) < 0.05 for g in gaps)
        raise SeriesError(
            f"{case}: slice distances differ",
            code="missing_slice" if is_hole else "nonuniform",
            expected=f"{median:.3f} mm throughout",
            found=f"{gaps[:6]} mm",
            remedy="a slice may be missing: export the series again",
        )
    sideways = np.linalg.norm(steps - along[:, None] * normal, axis=1)
    if sideways.max() > MAX_TILT_MM_PER_SLICE * median:
        angle = np.degrees(np.arctan2(np.median(sideways), median))
        raise SeriesError(
            f"{case}: gantry tilt",
            code="gantry_tilt",
            expected="slices stacked at right angles",
            found=f"{angle:.1f} degrees",
            remedy="resample the series to a right-angled grid first",
        )


def _series_volume(case: str, datasets: list[Any]) -> Any:
    import highdicom as hd

    for d in datasets:
        _supply_frame_of_reference(d)
    try:
        return hd.get_volume_from_series(
            datasets,
            dtype=np.float32,
            apply_real_world_transform=False,
            apply_voi_transform=False,
            rtol=SPACING_TOLERANCE,
            perpendicular_tol=MAX_TILT_MM_PER_SLICE,
            orientation_tol=ORIENTATION_TOLERANCE,
        )
    except (ValueError, AttributeError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise _refused(case, error) from error


def _multiframe_volume(case: str, datasets: list[Any]) -> Any:
    import highdicom as hd

    if len(datasets) > 1:
        raise SeriesError(
            f"{case}: {len(datasets)} multi-frame files in one series",
            code="multi_volume",
            expected="one",
            remedy="give each file in a folder of its own",
        )
    _supply_frame_of_reference(datasets[0])
    try:
        image = hd.Image.from_dataset(datasets[0], copy=False)
        return image.get_volume(
            dtype=np.float32,
            apply_real_world_transform=False,
            apply_voi_transform=False,
            rtol=SPACING_TOLERANCE,
            perpendicular_tol=MAX_TILT_MM_PER_SLICE,
        )
    except (ValueError, AttributeError, RuntimeError, KeyError, TypeError, NotImplementedError, IndexError) as error:
        raise _refused(case, error) from error


def _refused(case: str, error: Exception) -> SeriesError:
    text = str(error).strip()
    code = "multi_volume" if "regular" in text or "position" in text else "no_geometry"
    return SeriesError(
        f"{case}: not one regular volume",
        code=code,
        found=text[:200] or type(error).__name__,
        remedy="split frame types, time points or stacks into files of their own",
    )


def _lacks_frame_of_reference(datasets: Sequence[Any]) -> bool:
    return any(getattr(d, "_supplied_frame", False) for d in datasets)


def _supply_frame_of_reference(dataset: Any) -> None:
    """In memory only: one series with one geometry is one frame of reference, also where the UID was stripped."""
    from pydicom.uid import generate_uid

    if not dataset.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(dataset.get("SeriesInstanceUID", ""))])
        dataset._supplied_frame = True


def _to_xyz(volume: Any) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """From highdicom's (slice, row, column) in LPS to (X, Y, Z) = (column, row, slice) in RAS.

    Slices ascend along the normal of rows and columns, as ITK and most tools have them, so that masks made elsewhere fit.
    """
    array = volume.array.transpose(2, 1, 0)
    affine = LPS_FROM_RAS @ np.asarray(volume.affine, np.float64)[:, [2, 1, 0, 3]]
    if np.linalg.det(affine[:3, :3]) < 0:
        array = array[:, :, ::-1]
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
    return np.ascontiguousarray(array, np.float32), affine


def _hold_against_headers(scan: Scan, datasets: Sequence[Any]) -> None:
    """Each slice's own corners must fall on voxels of the volume."""
    to_voxel = np.linalg.inv(scan.affine) @ LPS_FROM_RAS
    for d in datasets:
        orientation, position = _numbers(d, "ImageOrientationPatient"), _numbers(d, "ImagePositionPatient")
        row_mm, column_mm = _numbers(d, "PixelSpacing")
        far = position + orientation[:3] * column_mm * (d.Columns - 1) + orientation[3:] * row_mm * (d.Rows - 1)
        for corner in (position, far):
            voxel = to_voxel[:3, :3] @ corner + to_voxel[:3, 3]
            off = np.abs(voxel - np.rint(voxel)).max()
            inside = (np.rint(voxel) >= 0).all() and (np.rint(voxel) < scan.array.shape[1:]).all()
            if off > PLACE_TOLERANCE_VOXEL or not inside:
                raise SeriesError(
                    f"{scan.case}: {Path(d.filename).name} is not at its place in the volume",
                    code="nonuniform",
                    expected=f"within {PLACE_TOLERANCE_VOXEL} voxels",
                    found=f"{off:.3f}",
                    remedy="export the series again",
                )


def _without_pixels(scan: Scan) -> Scan:
    for dataset in scan.source.header:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            dataset.PixelData = b""
    return scan


def _numbers(dataset: Any, name: str) -> NDArray[np.float64]:
    try:
        value = dataset.get(name)
        return np.array([float(v) for v in value], float) if value is not None else np.empty(0)
    except (TypeError, ValueError, GeometryError):
        return np.empty(0)
