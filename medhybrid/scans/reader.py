"""One way to read any scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import ScansConfig
from medhybrid.errors import MedHybridError, ScanError, SeriesError, item_error
from medhybrid.files import check_file
from medhybrid.geometry import corner_distance_mm
from medhybrid.names import printable_path
from medhybrid.scans import image_files, itk, nifti
from medhybrid.scans.align import bring_onto
from medhybrid.scans.dicom.headers import group_series
from medhybrid.scans.dicom.patient import differing_identifiers, identity_of
from medhybrid.scans.dicom.read import read_series, read_volume
from medhybrid.scans.discover import ScanEntry
from medhybrid.scans.scan import Scan, Source
from medhybrid.scans.walk import visible_files

MAX_CHANNEL_GAP_MM = 0.01
"""Channels whose grids differ by more at a corner are not stacked."""


def read_scan(
    path: str | Path | Sequence[str | Path],
    *,
    case: str | None = None,
    part: str = "",
    options: ScansConfig | None = None,
) -> Scan:
    """Read a file (NIfTI, Analyze, NRRD, MHA), a folder with one of them or one DICOM series, or the files of one scan.

    Parameters
    ----------
    part : str
        Which volume of a DICOM series that holds several.
    options : ScansConfig, optional
        What is done where there is a choice.

    Raises
    ------
    ScanError
        If there is not exactly one readable scan.
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
    else:
        scan = read_series([path], case=case or path.stem, part=part, options=options)
    return scan.named(case) if case else scan


def read_entry(entry: ScanEntry, case: str, options: ScansConfig | None = None) -> Scan:
    """Read what `discover` found; raises `ScanError`."""
    paths = entry.paths if entry.kind == "dicom" else entry.paths[0]
    return read_scan(paths, case=case, part=entry.part, options=options)


def _read_folder(folder: Path, case: str, part: str, options: ScansConfig | None) -> Scan:
    datasets: dict[Path, Any] = {}
    files = [p for p in visible_files(folder) if p.is_file()]
    found = group_series(files, datasets=datasets)[0]
    series = [s for s in found if not s.left_aside]
    if problem := next((s.problem for s in series if s.problem), None):
        raise problem
    images = [p for p in ([] if found else files) if image_files.kind_of(p) in ("nifti", "itk")]
    if len(images) == 1:  # macOS unpacks scan.nii.gz to a folder of that name with the file in it
        return _read(images[0], case, part, options)
    if len(series) != 1:
        code = (
            "multi_volume" if series else "localizer" if any(s.left_aside == "localizer" for s in found) else "no_dicom"
        )
        raise SeriesError(
            f"{case}: a folder must hold one DICOM image series",
            code=code,
            series=case,
            expected="1",
            found=f"{len(series)}" + "".join(f", left aside: {s.left_aside}" for s in found if s.left_aside),
            remedy="give each series in a folder of its own, or list them: medhybrid inspect",
        )
    return read_volume(series[0].volumes, datasets, case=case, part=part, options=options)


def stack_channels(
    scans: Sequence[Scan | None], channels: Sequence[str], *, case: str, options: ScansConfig | None = None
) -> Scan:
    """One scan of several single-channel ones, on the grid of the first; `None` stands for a missing channel: zeros.

    Raises
    ------
    ScanError
        If none is given, one has several channels, or lies on another grid and may not be resampled (`scans.other_grids`).
    """
    present = [s for s in scans if s is not None]
    if not present:
        raise ScanError(f"case {case}: no channel is there", expected=", ".join(channels))
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
                f"case {case}: channel {name} has an axis of its own", expected="1", found=str(len(scan.array))
            )
        if scan.array.shape == first.array.shape and corner_distance_mm(scan.grid, first.grid) <= MAX_CHANNEL_GAP_MM:
            arrays.append(scan.array[0])
        else:
            array, note = bring_onto(scan, first, name, options or ScansConfig())
            arrays.append(array)
            notes.append(note)
    return Scan(np.stack(arrays), first.affine, first.source, case, tuple(channels), tuple(dict.fromkeys(notes)))


def _refuse_other_patients(scans: Sequence[Scan], case: str) -> None:
    """Refuse channels of several patients; files that are not DICOM name none."""
    identities = [identity_of(s.source.header[0]) for s in scans if s.source.kind == "dicom" and s.source.header]
    if identities and (differing := differing_identifiers(identities)):
        raise ScanError(
            f"case {case}: its channels are of different patients",
            expected="one patient",
            found=f"{', '.join(differing)} differ",
            remedy="sort the series by patient",
        )


__all__ = ["Scan", "Source", "read_scan", "stack_channels"]
