"""Headers of single DICOM files: reading a data set, its identifiers and frames, and why a file is not a scan."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.errors import ScanError, SeriesError, item_error
from medhybrid.scans.dicom.acquisition import TAGS as ACQUISITION_TAGS
from medhybrid.scans.dicom.acquisition import Acquisition, describe_header
from medhybrid.scans.dicom.attributes import integer, text, value_of
from medhybrid.scans.dicom.concatenation import TAGS as CONCATENATION_TAGS
from medhybrid.scans.dicom.concatenation import Part, part_of_concatenation
from medhybrid.scans.dicom.deflated import DEFLATED, find_bomb
from medhybrid.scans.dicom.frames import FRAME_TAGS, Frame, is_projection, is_secondary_capture, read_frames
from medhybrid.scans.dicom.not_scans import NOT_SCANS, modality_of
from medhybrid.scans.dicom.patient import IDENTIFIERS, Identity, identity_of
from medhybrid.scans.dicom.pixel_bytes import FLOAT_PIXEL_DATA, PIXEL_DATA
from medhybrid.scans.dicom.tiles import SIEMENS_COUNT, SIEMENS_CREATOR
from medhybrid.scans.streams import GZIP_MAGIC

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
IMAGE_TAGS = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")
"""Attributes of an image. A file with all of them and without pixels is damaged."""

SUFFIXES = (".dcm", ".ima", ".dicom")
"""Suffixes of DICOM files. A file with one of them that is not DICOM is reported as damaged, not skipped."""

GROUPING_TAGS = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "BurnedInAnnotation", *IDENTIFIERS)
TAGS = [*GROUPING_TAGS, "Modality", *CONCATENATION_TAGS, *FRAME_TAGS]
_PLAIN_TAGS: list[str | int] = [*dict.fromkeys(TAGS), "SpacingBetweenSlices", SIEMENS_CREATOR, SIEMENS_COUNT]

COLOUR_MAPS = frozenset({"FA", "COLFA", "DIFFUSION", "TENSOR", "PERFUSION"})
"""Words in ImageType of maps that are shown in colours, such as directions of diffusion."""

DEFER_BYTES = 1 << 14
"""Larger values, usually pixel data, are read from the file on first access."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Header of one DICOM file. Its identifiers are used for grouping in memory and never logged."""

    path: Path
    study_uid: str
    series_uid: str
    modality: str
    frames: tuple[Frame, ...]
    problem: SeriesError | None
    skip_reason: str
    is_burned_in: bool = False
    patient: Identity = ("",) * len(IDENTIFIERS)
    concatenation: Part | None = None
    n_slices: int = 0
    """Number of slices of a volume that a PET header states; 0 if unknown."""


def load_dataset(path: Path, *, tags: Sequence[str | int] | None = None, defers: bool = True) -> Any:
    """Load a DICOM data set, or only some of its attributes.

    Parameters
    ----------
    tags : sequence, optional
        The attributes to read; by default, all.
    defers : bool
        Read large values only on first access.

    Returns
    -------
    Dataset or None
        None if the file is not DICOM.

    Raises
    ------
    SeriesError
        If the file is DICOM by its content or suffix, but cannot be read.
    """
    import pydicom

    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise _unreadable(path, error.strerror or "cannot be opened") from error
    has_mark = start[128:] == b"DICM"
    is_bare = _starts_like_a_data_set(start)
    if not has_mark and not is_bare:
        if path.suffix.lower() in SUFFIXES:
            if start.startswith(GZIP_MAGIC):
                raise _unreadable(path, "a gzip file", remedy="unpack it with gunzip")
            raise _unreadable(path, "content that is not DICOM" if start else "an empty file")
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # real headers have many invalid values; the ones that are used are checked later
            if bomb := find_bomb(path):
                raise _unreadable(path, bomb)
            if tags is not None:
                return pydicom.dcmread(path, force=is_bare, stop_before_pixels=True, specific_tags=list(tags))
            dataset = pydicom.dcmread(path, force=is_bare, defer_size=DEFER_BYTES if defers else None)
            if defers and text(dataset.file_meta, "TransferSyntaxUID") == DEFLATED:
                # deferred reading needs a position in the file, which a deflated value does not have
                dataset = pydicom.dcmread(path, force=is_bare)
            return dataset
    except SeriesError:
        raise
    except Exception as error:  # a damaged header can raise anything
        if is_bare and not has_mark and path.suffix.lower() not in SUFFIXES:
            return None
        raise _unreadable(path, type(error).__name__) from error


def _starts_like_a_data_set(start: bytes) -> bool:
    """Return True if a file without preamble starts with group 8 (or 2), little or big endian."""
    is_little_endian = start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] == b"\x00"
    return is_little_endian or (start[:3] == b"\x00\x08\x00")


def _unreadable(path: Path, found: str, *, remedy: str = "export the series again") -> SeriesError:
    return SeriesError(
        f"{path.name} cannot be read as DICOM",
        code="encrypted_or_unreadable",
        path=path,
        found=found,
        remedy=remedy,
    )


def read_header(path: Path, *, datasets: dict[Path, Any] | None = None) -> FileHeader | None:
    """Read the header of a DICOM file.

    Any exception for a damaged file is stored as the problem of this file.

    Parameters
    ----------
    datasets : dict, optional
        Receives the complete data set by path, for reading the pixels later.

    Returns
    -------
    FileHeader or None
        None for a DICOMDIR, and for a file that is not DICOM.
    """
    try:
        return _read_header(path, datasets)
    except Exception as error:
        return FileHeader(path, "", "", "", (), problem_of(error, path), "")


def problem_of(error: Exception, path: Path) -> SeriesError:
    """Convert an exception raised while reading a file or series to a `SeriesError`."""
    problem = item_error(error, f"{path.name} cannot be read as DICOM", ScanError, remedy="export the series again")
    if isinstance(problem, SeriesError):
        return problem
    return SeriesError(
        problem.what,
        code="encrypted_or_unreadable",
        path=path,
        expected=problem.expected,
        found=problem.found,
        remedy=problem.remedy,
    )


def _read_header(path: Path, datasets: dict[Path, Any] | None) -> FileHeader | None:
    try:
        header = load_dataset(path, tags=_PLAIN_TAGS if datasets is None else None)
    except SeriesError as error:
        return FileHeader(path, "", "", "", (), error, "")
    if header is None or path.name.upper() == "DICOMDIR":
        return None
    if text(getattr(header, "file_meta", {}), "MediaStorageSOPClassUID") == DICOMDIR_CLASS:  # under any name
        return None
    if datasets is not None:
        datasets[path] = header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return describe(header, path)


def describe(header: Any, path: Path) -> FileHeader:
    """Extract the identifiers for grouping and the frames of a data set."""
    series_uid = text(header, "SeriesInstanceUID")
    modality = modality_of(header)
    skip_reason = _why_no_scan(header, modality, path)
    frames: tuple[Frame, ...] = ()
    problem: SeriesError | None = None
    try:
        if not text(header, "SOPClassUID") or not series_uid:
            raise SeriesError(
                f"{path.name}: its header is incomplete or damaged",
                code="truncated",
                path=path,
                expected="SOPClassUID and SeriesInstanceUID",
                remedy="export the series again",
            )
        if not skip_reason:
            frames = tuple(read_frames(header, path))
    except SeriesError as error:
        problem, skip_reason = error, ""  # a damaged file is reported, never skipped as "not a scan"
    return FileHeader(
        path,
        text(header, "StudyInstanceUID"),
        series_uid,
        modality,
        frames,
        problem,
        skip_reason,
        text(header, "BurnedInAnnotation").upper() == "YES",
        identity_of(header),
        part_of_concatenation(header),
        (integer(header, "NumberOfSlices") or 0) if modality == "PT" else 0,
    )


def _why_no_scan(header: Any, modality: str, path: Path) -> str:
    from pydicom.uid import UID

    if modality in NOT_SCANS:
        return NOT_SCANS[modality]
    kinds = text(header, "ImageType").upper().split("\\")
    if "LOCALIZER" in kinds:
        return "localizer"
    if "SCREEN SAVE" in kinds and not _is_placed(header):
        return "screen save"
    is_capture = is_secondary_capture(header)
    is_grey = text(header, "SamplesPerPixel") == "1"
    if COLOUR_MAPS.intersection(kinds) and text(header, "SamplesPerPixel") == "3":
        return "colour map"
    if is_capture and not (is_grey and (_is_placed(header) or _is_captured_radiograph(header))):
        return "secondary capture" if is_grey else "colour secondary capture"
    storage = UID(text(header, "SOPClassUID"))
    is_image = storage.name != storage and "Image Storage" in storage.name  # other classes are private, or not images
    if is_image or not storage or all(tag in header for tag in IMAGE_TAGS) or _has_pixels(header, path):
        return ""
    return "no image"


def _is_captured_radiograph(header: Any) -> bool:
    """Return True for a secondary capture of a radiograph, as in public datasets, without text in its pixels."""
    return is_projection(header) and text(header, "BurnedInAnnotation").upper() != "YES"


def _is_placed(header: Any) -> bool:
    """Return True if a header or its functional groups give the position of a frame."""
    if "ImagePositionPatient" in header:
        return True
    try:
        groups = list(value_of(header, "PerFrameFunctionalGroupsSequence") or [])
        return any("PlanePositionSequence" in group for group in groups)
    except TypeError:
        return False


def _has_pixels(header: Any, path: Path) -> bool:
    """Return True if a file has pixel data. A header without it may be incomplete, so the file is read again."""
    tags = (PIXEL_DATA, *FLOAT_PIXEL_DATA)
    return any(tag in header for tag in tags) or any(tag in load_dataset(path) for tag in tags)


def read_acquisition(path: Path) -> Acquisition:
    """Return the acquisition parameters in a file's header; empty if it cannot be read."""
    try:
        return describe_header(load_dataset(path, tags=ACQUISITION_TAGS))
    except Exception:  # acquisition parameters are optional
        return {}
