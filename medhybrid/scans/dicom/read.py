"""Reading of one volume of a DICOM series as a `Scan`, or refusal with a code, the measured numbers and a remedy.

`frames`, `volumes` and `stack` place every frame by its header, `pixels` decodes the values. Tests compare the result with
highdicom, SimpleITK and each frame's own header.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from medhybrid.config import ScansConfig
from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.acquisition import describe_frame
from medhybrid.scans.dicom.attributes import text
from medhybrid.scans.dicom.concatenation import refuse_missing_parts
from medhybrid.scans.dicom.copies import without_copies
from medhybrid.scans.dicom.damaged_uids import is_one_series
from medhybrid.scans.dicom.headers import FileHeader, load_dataset, read_header
from medhybrid.scans.dicom.irregular import RegularGrid
from medhybrid.scans.dicom.pixel_bytes import FLOAT_PIXEL_DATA
from medhybrid.scans.dicom.pixels import read_values
from medhybrid.scans.dicom.single_slice import find_other_slice, single_slice_error
from medhybrid.scans.dicom.volumes import Volume, split_volumes
from medhybrid.scans.scan import Scan, Source


def read_series(paths: Sequence[Path], *, case: str, part: str = "", options: ScansConfig | None = None) -> Scan:
    """Read one volume of a series.

    Parameters
    ----------
    paths : sequence of Path
        The files of one series, in any order.
    case : str
        Name of the scan.
    part : str
        Name of the volume, for a series with several volumes.
    options : ScansConfig, optional
        Handling of tilted and unevenly spaced series, which are refused by default.

    Raises
    ------
    SeriesError
        If the files are not one greyscale volume, or the position of a frame is unknown.
    """
    if part and len(paths) > 1:  # several volumes of a series are usually read one after the other
        stamps = tuple((p, p.stat().st_size, p.stat().st_mtime_ns) for p in paths)
        volumes = _volumes_of(stamps)
        _refuse_part(volumes, paths, case)
        chosen = _choose(volumes, part, case)
        loaded = {path: load_dataset(path) for path in dict.fromkeys(f.path for f in chosen.stack.frames)}
        return read_volume([chosen], loaded, case=case, options=options)
    datasets: dict[Path, Any] = {}
    volumes = _split([_read_header(path, datasets) for path in paths], case)
    _refuse_part(volumes, paths, case)
    return read_volume(volumes, datasets, case=case, part=part, options=options)


@lru_cache(maxsize=1)
def _volumes_of(stamps: tuple[tuple[Path, int, int], ...]) -> list[Volume]:
    """Return the volumes of files, by path, size and modification time; those of the last series are kept."""
    return _split([_read_header(path, None) for path, _, _ in stamps], stamps[0][0].parent.name or "series")


def _split(headers: Sequence[FileHeader], case: str) -> list[Volume]:
    """Split the files of one series into volumes; raises `SeriesError`."""
    _refuse(headers, case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings on other attributes; the geometry is checked here
        return split_volumes(without_copies([h.frames for h in headers], load_dataset), series=case)


def _refuse_part(volumes: Sequence[Volume], paths: Sequence[Path], case: str) -> None:
    """Refuse one slice of a series of which other slices are in the same folder."""
    frames = [f for v in volumes for f in v.stack.frames]
    if len(frames) == 1 and not frames[0].is_projection and (other := find_other_slice(paths)):
        raise single_slice_error(case, frames[0], f"{other} of the same series in its folder")


def _read_header(path: Path, datasets: dict[Path, Any] | None) -> FileHeader:
    header = read_header(path, datasets=datasets)
    if header is None:
        raise SeriesError(f"{path.name} is not a DICOM file", code="no_dicom", path=path, remedy="remove the file")
    return header


def _refuse(headers: Sequence[FileHeader], case: str) -> None:
    if not headers:
        raise SeriesError(f"{case}: no DICOM file", code="no_dicom", series=case, remedy="check the folder")
    for h in headers:
        if h.problem:
            raise h.problem
        if h.skip_reason:
            code = "localizer" if h.skip_reason == "localizer" else "not_image"
            raise SeriesError(f"{h.path.name}: {h.skip_reason}", code=code, path=h.path, remedy="remove the file")
    refuse_missing_parts([h.concatenation for h in headers], headers[0].path, case)
    if not is_one_series(headers):
        raise SeriesError(
            f"{case}: files of {len({h.series_uid for h in headers})} series",
            code="multi_volume",
            series=case,
            expected="one series",
            remedy="use the complete folder, so that the series are separated",
        )


def read_volume(
    volumes: Sequence[Volume],
    datasets: Mapping[Path, Any],
    *,
    case: str,
    part: str = "",
    options: ScansConfig | None = None,
) -> Scan:
    """Read one volume of a series from loaded data sets; see `read_series`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _assemble(_choose(volumes, part, case), datasets, case, options or ScansConfig())


def _choose(volumes: Sequence[Volume], part: str, case: str) -> Volume:
    if len(volumes) == 1:
        return volumes[0]
    for volume in volumes:
        if volume.name == part:
            return volume
    raise SeriesError(
        f"{case}: a series of {len(volumes)} volumes",
        code="multi_volume",
        series=case,
        expected="one volume" if not part else f"one named {part}",
        found=", ".join(v.name for v in volumes[:8]),
        remedy="convert it first, to one file per volume: medhybrid convert",
    )


def _assemble(volume: Volume, datasets: Mapping[Path, Any], case: str, options: ScansConfig) -> Scan:
    stack, frames = volume.stack, volume.stack.frames
    fault = stack.fault
    notes: list[str] = []
    may_keep = fault is not None and fault.code == "gantry_tilt" and options.keep_sheared
    if fault is not None and not may_keep and not options.resample_irregular:
        raise fault
    values, value_notes = read_values(frames, datasets)
    array = values.transpose(2, 1, 0)  # (Z, Y, X) -> (X, Y, Z)
    notes += dict.fromkeys((*stack.notes, *(n for f in frames for n in f.notes), *value_notes))
    affine, regular = stack.affine, None
    if fault is not None:
        notes.append(f"{fault.code.replace('_', ' ')}: {fault.found}")
        if not may_keep:
            regular = RegularGrid.of(stack)
            array, affine = regular.from_slices(array), regular.grid.affine
            notes.append(f"resampled to {regular.grid.spacing_mm[2]:.3f} mm")
    is_projection = frames[0].is_projection
    if not frames[0].frame_of_reference and not is_projection:
        notes.append("FrameOfReferenceUID is absent")
    ordered = list(dict.fromkeys(f.path for f in frames))
    headers = [datasets[path] for path in ordered]
    for header in headers:
        _drop_large_values(header)
    if not is_projection:  # it has no position in any frame of reference
        _supply_frame_of_reference(headers)
    return Scan(
        array=array[None],
        affine=affine,
        source=Source(
            "dicom",
            tuple(ordered),
            tuple(headers),
            files=tuple(ordered.index(f.path) for f in frames),
            frames=tuple(f.index for f in frames),
            regular=regular,
            acquisition=describe_frame(frames[0].traits),
        ),
        case=case,
        channels=(str(text(headers[0], "SeriesDescription")),),
        notes=tuple(notes),
    )


def _drop_large_values(dataset: Any) -> None:
    """Remove pixel data and deferred values from a data set, which must not be read from the file later.

    Writing of masks needs only the headers.
    """
    dataset.PixelData = b""
    for tag in FLOAT_PIXEL_DATA:
        dataset.pop(tag, None)
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if element.is_raw and element.value is None and element.length:
            del dataset[tag]


def _supply_frame_of_reference(headers: Sequence[Any]) -> None:
    """Add a missing FrameOfReferenceUID in memory, derived from the series: one geometry is one frame of reference."""
    from pydicom.uid import generate_uid

    for header in headers:
        if not text(header, "FrameOfReferenceUID"):
            header.FrameOfReferenceUID = generate_uid(entropy_srcs=[text(header, "SeriesInstanceUID")])
