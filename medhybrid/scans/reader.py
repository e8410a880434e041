"""Reading of scans in all supported formats, and stacking of their channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import ScansConfig
from medhybrid.errors import MedHybridError, ScanError, SeriesError, item_error
from medhybrid.files import check_file
from medhybrid.geometry import corner_distance_mm
from medhybrid.names import printable_path
from medhybrid.scans import image_files, itk, nifti, raster
from medhybrid.scans.align import bring_onto
from medhybrid.scans.dicom.headers import load_dataset
from medhybrid.scans.dicom.patient import differing_identifiers, identity_of
from medhybrid.scans.dicom.read import read_series, read_volume
from medhybrid.scans.dicom.series import group_series
from medhybrid.scans.discover import ScanEntry
from medhybrid.scans.scan import Scan, Source
from medhybrid.scans.walk import Walk, visible_files

MAX_CHANNEL_GAP_MM = 0.01
"""Largest distance between corners of two channels' grids for stacking without resampling."""


def read_scan(
    path: str | Path | Sequence[str | Path],
    *,
    case: str | None = None,
    part: str = "",
    options: ScansConfig | None = None,
) -> Scan:
    """Read a scan.

    Parameters
    ----------
    path : path or sequence of paths
        An image file (NIfTI, Analyze, NRRD, MetaImage, PNG, JPEG, TIFF, BMP, GIF, PGM, PPM), a folder with one image file or
        one DICOM series, or the files of one scan.
    case : str, optional
        Name of the scan; by default, the name of the file or folder.
    part : str
        Name of the volume, for a DICOM series with several volumes.
    options : ScansConfig, optional
        Handling of tilted or irregular series, and of channels on different grids.

    Raises
    ------
    ScanError
        If `path` does not hold exactly one readable scan.
    """
    try:
        return _read(path, case, part, options)
    except MedHybridError:
        raise
    except Exception as error:
        name = "a scan" if not isinstance(path, str | Path) else printable_path(Path(path).name[:100])
        raise item_error(error, f"{name} cannot be read", ScanError) from error


def _read(path: str | Path | Sequence[str | Path], case: str | None, part: str, options: ScansConfig | None) -> Scan:
    if not isinstance(path, (str, Path)):
        paths = [Path(p) for p in path]
        for p in paths:
            check_file(p)
        if image_files.is_header_with_values(paths):
            return read_scan(paths[0], case=case)
        return read_series(paths, case=case or "series", part=part, options=options)
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, case or path.name, part, options)
    if not path.exists():
        raise ScanError(f"{path} does not exist", remedy="check the path")
    check_file(path)
    path = image_files.header_of(path)
    kind = image_files.kind_of(path)
    if kind == "nifti":
        scan = nifti.read_nifti(path)
    elif kind == "itk":
        scan = itk.read_itk(path)
    elif kind == "raster":
        scan = raster.read_raster(path)
    else:
        _refuse_other_format(path)
        scan = read_series([path], case=case or path.stem, part=part, options=options)
    return scan.named(case) if case else scan


def _refuse_other_format(path: Path) -> None:
    """Raise `ScanError` for a file that is not DICOM, with what to do where its format is known."""
    if load_dataset(path, tags=()) is not None:
        return
    reason = image_files.why_unread(path) or image_files.why_unread_image(path)
    if path.suffix.lower() == ".zip":
        reason = "archives are unpacked only where folders are searched: unpack it"
    if reason:
        raise ScanError(f"{path.name} cannot be read: {reason}")
    raise SeriesError(
        f"{path.name} is not a scan",
        code="no_dicom",
        path=path,
        expected="NIfTI, Analyze, NRRD, MetaImage, PNG, JPEG, TIFF, BMP, GIF, PGM, PPM or DICOM",
        found="another format",
        remedy="check the path, or convert it to NIfTI",
    )


def read_label_scan(
    path: str | Path | Sequence[str | Path],
    *,
    case: str | None = None,
    part: str = "",
    options: ScansConfig | None = None,
) -> Scan:
    """Read a label map: as `read_scan`, except that the palette of a PNG or TIFF gives indices, and a JPEG is refused."""
    paths = [path] if isinstance(path, str | Path) else list(path)
    if len(paths) == 1 and image_files.kind_of(Path(paths[0])) == "raster" and Path(paths[0]).is_file():
        scan = raster.read_raster_labels(Path(paths[0]))
        return scan.named(case) if case else scan
    return read_scan(path, case=case, part=part, options=options)


def read_entry(entry: ScanEntry, case: str, options: ScansConfig | None = None) -> Scan:
    """Read a scan that `discover` found; raises `ScanError`."""
    paths = entry.paths if entry.kind == "dicom" else entry.paths[0]
    return read_scan(paths, case=case, part=entry.part, options=options)


def _read_folder(folder: Path, case: str, part: str, options: ScansConfig | None) -> Scan:
    datasets: dict[Path, Any] = {}
    files = [p for p in visible_files(folder) if p.is_file()]
    found = group_series(files, datasets=datasets)[0]
    series = [s for s in found if not s.skip_reason]
    if problem := next((s.problem for s in series if s.problem), None):
        raise problem
    kinds = {p: image_files.kind_of(p) for p in ([] if found else files)}
    images = [p for p in kinds if kinds[p] in ("nifti", "itk")]
    images = images or [p for p in kinds if kinds[p] == "raster"]  # beside scans, these are previews
    if len(images) == 1:  # macOS may unpack scan.nii.gz into a folder of the same name
        return _read(images[0], case, part, options)
    if not found and not images and (below := _first_folder_below(folder)):
        raise SeriesError(
            f"{case}: the folder has no image, and the folders in it are not searched",
            code="no_dicom",
            series=case,
            expected="one DICOM image series or one image file in the folder itself",
            found=f"files in {printable_path(below)}",
            remedy="give the path of the folder with the files, or list the scans: medhybrid inspect",
        )
    unread = next((f"{p.name}: {reason}" for p in files if (reason := image_files.why_unread(p))), "")
    if not found and not images and unread:
        raise SeriesError(
            f"{case}: the folder has no file that can be read",
            code="no_dicom",
            series=case,
            expected="one DICOM image series or one image file",
            found=unread,
        )
    if len(series) != 1:
        code = (
            "multi_volume"
            if series
            else "localizer"
            if any(s.skip_reason == "localizer" for s in found)
            else "no_dicom"
        )
        raise SeriesError(
            f"{case}: a folder must hold one DICOM image series",
            code=code,
            series=case,
            expected="1",
            found=f"{len(series)}"
            + (f" and {len(images)} image files" if images else "")
            + "".join(f", skipped: {s.skip_reason}" for s in found if s.skip_reason),
            remedy="put each series into a separate folder, or list them: medhybrid inspect",
        )
    scan = read_volume(series[0].volumes, datasets, case=case, part=part, options=options)
    return replace(scan, notes=(*scan.notes, series[0].note)) if series[0].note else scan


def _first_folder_below(folder: Path) -> Path | None:
    """Return the path, relative to a folder, of the first folder in it that has files; None without one."""
    files = sorted(p for p in Walk().files(folder, lambda *_: None) if p.parent != folder)
    return files[0].parent.relative_to(folder) if files else None


def stack_channels(
    scans: Sequence[Scan | None], channels: Sequence[str], *, case: str, options: ScansConfig | None = None
) -> Scan:
    """Stack single-channel scans into one scan on the grid of the first.

    Parameters
    ----------
    scans : sequence of Scan or None
        One scan per channel. A missing channel (`None`) is filled with zeros.
    channels : sequence of str
        Names of the channels.
    case : str
        Name of the stacked scan.
    options : ScansConfig, optional
        Handling of channels on different grids (`scans.other_grids`).

    Raises
    ------
    ScanError
        If all channels are missing, a scan has several channels, or a grid differs and may not be resampled.
    """
    present = [s for s in scans if s is not None]
    if not present:
        raise ScanError(f"case {case}: all channels are missing", expected=", ".join(channels))
    _refuse_other_patients(present, case)
    first = present[0].named(case)
    arrays: list[NDArray[np.generic]] = []
    notes = [note for s in present for note in s.notes]
    for scan, name in zip(scans, channels, strict=True):
        if scan is None:
            arrays.append(np.zeros(first.array.shape[1:], first.array.dtype))
            notes.append(f"channel {name} is missing")
            continue
        if scan.array.shape[0] != 1:
            raise ScanError(
                f"case {case}: the image of channel {name} has several channels",
                expected="1",
                found=str(len(scan.array)),
            )
        if scan.array.shape == first.array.shape and corner_distance_mm(scan.grid, first.grid) <= MAX_CHANNEL_GAP_MM:
            arrays.append(scan.array[0])
        else:
            array, note = bring_onto(scan, first, name, options or ScansConfig())
            arrays.append(array)
            notes.append(note)
    return Scan(np.stack(arrays), first.affine, first.source, case, tuple(channels), tuple(dict.fromkeys(notes)))


def _refuse_other_patients(scans: Sequence[Scan], case: str) -> None:
    """Raise `ScanError` for channels of different patients. Only DICOM files are compared."""
    identities = [identity_of(s.source.header[0]) for s in scans if s.source.kind == "dicom" and s.source.header]
    if identities and (differing := differing_identifiers(identities)):
        raise ScanError(
            f"case {case}: its channels belong to different patients",
            expected="one patient",
            found=f"{', '.join(differing)} differ",
            remedy="sort the series by patient",
        )


__all__ = ["Scan", "Source", "read_label_scan", "read_scan", "stack_channels"]
