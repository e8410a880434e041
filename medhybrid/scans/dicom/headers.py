"""Grouping of DICOM files into series by their headers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medhybrid.errors import ScanError, SeriesError, item_error
from medhybrid.scans.dicom.acquisition import TAGS as ACQUISITION_TAGS
from medhybrid.scans.dicom.acquisition import Acquisition, describe_frame, describe_header
from medhybrid.scans.dicom.attributes import text, value_of
from medhybrid.scans.dicom.copies import without_copies
from medhybrid.scans.dicom.deflated import DEFLATED, find_bomb
from medhybrid.scans.dicom.frames import FRAME_TAGS, Frame, read_frames
from medhybrid.scans.dicom.not_scans import CLASS_MODALITIES, NOT_SCANS
from medhybrid.scans.dicom.patient import IDENTIFIERS, Identity, differing_identifiers, identity_of
from medhybrid.scans.dicom.pixel_bytes import FLOAT_PIXEL_DATA, PIXEL_DATA
from medhybrid.scans.dicom.tiles import SIEMENS_COUNT, SIEMENS_CREATOR
from medhybrid.scans.dicom.volumes import Volume, split_volumes

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE_CLASSES = "1.2.840.10008.5.1.4.1.1.7"
"""UID of secondary capture; its multi-frame classes have the same UID with a suffix."""

IMAGE_TAGS = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")
"""Attributes of an image. A file with all of them and without pixels is damaged."""

SUFFIXES = (".dcm", ".ima", ".dicom")
"""Suffixes of DICOM files. A file with one of them that is not DICOM is reported as damaged, not skipped."""

GROUPING_TAGS = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "BurnedInAnnotation", *IDENTIFIERS)
TAGS = [*GROUPING_TAGS, "Modality", *FRAME_TAGS]
_PLAIN_TAGS: list[str | int] = [*dict.fromkeys(TAGS), "SpacingBetweenSlices", SIEMENS_CREATOR, SIEMENS_COUNT]

DEFER_BYTES = 1 << 14
"""Larger values, usually pixel data, are read from the file on first access."""

BLOCK = 50
READING_THREADS = 8
"""Number of headers that are read in parallel on slow storage, where most of the time is waiting."""


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


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """DICOM series found in a folder.

    Attributes
    ----------
    volumes : tuple of Volume
        Its volumes; empty for a series with a `problem`, or a skipped one.
    problem : SeriesError, optional
        Reason why it cannot be read.
    skip_reason : str
        Reason why the series is skipped (not a scan), or empty.
    acquisitions : tuple of dict
        Acquisition parameters of each volume; those of the first file for a series without volumes.
    """

    uid: str
    study_uid: str
    modality: str
    description: str
    paths: tuple[Path, ...]
    volumes: tuple[Volume, ...]
    problem: SeriesError | None
    skip_reason: str
    acquisitions: tuple[Acquisition, ...] = field(hash=False)
    is_burned_in: bool = False


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


def _unreadable(path: Path, found: str) -> SeriesError:
    return SeriesError(
        f"{path.name} cannot be read as DICOM",
        code="encrypted_or_unreadable",
        path=path,
        found=found,
        remedy="export the series again",
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
        return FileHeader(path, "", "", "", (), _problem_of(error, path), "")


def _problem_of(error: Exception, path: Path) -> SeriesError:
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
    modality = text(header, "Modality") or CLASS_MODALITIES.get(text(header, "SOPClassUID"), "")
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
    )


def _why_no_scan(header: Any, modality: str, path: Path) -> str:
    from pydicom.uid import UID

    if modality in NOT_SCANS:
        return NOT_SCANS[modality]
    if "LOCALIZER" in text(header, "ImageType").upper().split("\\"):
        return "localizer"
    is_capture = text(header, "SOPClassUID").startswith(SECONDARY_CAPTURE_CLASSES)
    is_grey = text(header, "SamplesPerPixel") == "1"
    if is_capture and (not is_grey or not _is_placed(header)):
        return "secondary capture" if is_grey else "colour secondary capture"
    storage = UID(text(header, "SOPClassUID"))
    is_image = storage.name != storage and "Image Storage" in storage.name  # other classes are private, or not images
    if is_image or not storage or all(tag in header for tag in IMAGE_TAGS) or _has_pixels(header, path):
        return ""
    return "no image"


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


def group_series(
    paths: Iterable[Path],
    *,
    datasets: dict[Path, Any] | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[SeriesEntry], int]:
    """Group files into DICOM series.

    Parameters
    ----------
    datasets : dict, optional
        Receives the complete data sets by path. Without it, only headers are kept in memory.
    on_progress : callable
        Called with the number of headers read so far.

    Returns
    -------
    series : list of SeriesEntry
        The series, sorted by their first path. A damaged file without SeriesInstanceUID is a separate series.
    n_skipped : int
        Number of files that are not DICOM.
    """
    groups: dict[tuple[str, str, str], list[FileHeader]] = {}
    n_skipped = 0
    for n, (path, header) in enumerate(_in_order(list(paths), datasets), start=1):
        if n % 200 == 0:
            on_progress(n)
        if header is None:
            n_skipped += 1
            continue
        alone = "" if header.series_uid else str(path)
        groups.setdefault((header.study_uid, header.series_uid, alone), []).append(header)
    found = [_entry(members) for members in groups.values()]
    return sorted(found, key=lambda s: s.paths[0]), n_skipped


def _in_order(paths: list[Path], datasets: dict[Path, Any] | None) -> Iterator[tuple[Path, FileHeader | None]]:
    """Yield headers in the order of the paths.

    Threads speed up slow storage, and slow down fast storage. The first block measures the waiting time and decides.
    """

    def read_block(block: list[Path]) -> list[FileHeader | None]:
        return [read_header(p, datasets=datasets) for p in block]

    blocks = [paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK)]
    wall, busy = time.perf_counter(), time.thread_time()
    first = read_block(blocks[0]) if blocks else []
    is_waiting = time.perf_counter() - wall > 2 * (time.thread_time() - busy)
    yield from zip(paths, first, strict=False)
    with ThreadPoolExecutor(READING_THREADS if is_waiting else 1) as pool:
        for block, headers in zip(blocks[1:], pool.map(read_block, blocks[1:]), strict=True):
            yield from zip(block, headers, strict=True)


def _entry(members: Sequence[FileHeader]) -> SeriesEntry:
    first = members[0]
    name = first.path.parent.name or "series"
    scans = [m for m in members if not m.skip_reason]
    skip_reason = "" if scans else first.skip_reason
    problem, volumes = next((m.problem for m in members if m.problem), None), []
    if problem is None and scans:
        try:
            _refuse_other_patients(scans, name)
            volumes = split_volumes(without_copies([m.frames for m in scans], load_dataset), series=name)
        except Exception as error:
            problem = _problem_of(error, first.path)
    if problem is not None and problem.code == "localizer":
        problem, skip_reason = None, "localizer"
    acquisitions = _acquisitions(volumes, first.path)
    return SeriesEntry(
        uid=first.series_uid,
        study_uid=first.study_uid,
        modality=first.modality,
        description=str(acquisitions[0].get("description", "")),
        paths=tuple(m.path for m in members),
        volumes=tuple(volumes),
        problem=problem,
        skip_reason=skip_reason,
        acquisitions=acquisitions,
        is_burned_in=any(m.is_burned_in for m in members),
    )


def _refuse_other_patients(members: Sequence[FileHeader], name: str) -> None:
    """Refuse files of several patients under one SeriesInstanceUID."""
    if differing := differing_identifiers([m.patient for m in members]):
        raise SeriesError(
            f"{name}: files with one SeriesInstanceUID belong to different patients",
            code="other_patient",
            path=members[0].path,
            expected="one patient",
            found=f"{len({m.patient for m in members})} patients, with different {', '.join(differing)}",
            remedy="sort the files by patient, and give each series a unique UID",
        )


def read_acquisition(path: Path) -> Acquisition:
    """Return the acquisition parameters in a file's header; empty if it cannot be read."""
    try:
        return describe_header(load_dataset(path, tags=ACQUISITION_TAGS))
    except Exception:  # acquisition parameters are optional
        return {}


def _acquisitions(volumes: Sequence[Volume], first: Path) -> tuple[Acquisition, ...]:
    """Return the acquisition parameters of each volume's first slice, or of the first file without volumes."""
    headers = {path: read_acquisition(path) for path in {first, *(v.stack.frames[0].path for v in volumes)}}
    if not volumes:
        return (headers[first],)
    slices = [v.stack.frames[0] for v in volumes]
    return tuple({**headers[f.path], **describe_frame(f.traits)} for f in slices)
