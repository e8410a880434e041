"""DICOM series of a folder: files grouped by their headers, with the volumes of each series."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medhybrid.errors import SeriesError
from medhybrid.names import printable_path
from medhybrid.scans.dicom.acquisition import Acquisition, describe_frame
from medhybrid.scans.dicom.concatenation import refuse_missing_parts
from medhybrid.scans.dicom.copies import without_copies
from medhybrid.scans.dicom.damaged_uids import regroup
from medhybrid.scans.dicom.headers import FileHeader, load_dataset, problem_of, read_acquisition, read_header
from medhybrid.scans.dicom.patient import Identity, differing_identifiers
from medhybrid.scans.dicom.single_slice import find_other_slice, single_slice_error
from medhybrid.scans.dicom.volumes import Volume, split_volumes

BLOCK = 50
N_BLANK = 256
"""Number of bytes at the start of a file that show whether it is blank."""

READING_THREADS = 8
"""Number of headers that are read in parallel on slow storage, where most of the time is waiting."""


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
    patient : tuple of str
        Identifiers of the patient, in memory only.
    note : str
        Files of the series that are not slices of its volumes, or empty.
    is_concatenation : bool
        Whether its files are parts of an instance.
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
    patient: Identity = field(default=(), repr=False)
    note: str = ""
    is_concatenation: bool = False


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
    blank: list[Path] = []
    n_skipped = 0
    for n, (path, header) in enumerate(_in_order(list(paths), datasets), start=1):
        if n % 200 == 0:
            on_progress(n)
        if header is None:
            n_skipped += 1
            blank += [path] if _is_blank(path) else []
            continue
        alone = "" if header.series_uid else str(path)
        groups.setdefault((header.study_uid, header.series_uid, alone), []).append(header)
    found = _without_odd_slices([_with_blank(_entry(members), blank) for members in regroup(groups)])
    return sorted(found, key=lambda s: s.paths[0]), n_skipped


def _is_blank(path: Path) -> bool:
    """Return whether a file is empty or begins with zeros only, as an interrupted copy may."""
    with suppress(OSError), path.open("rb") as file:
        return not file.read(N_BLANK).strip(b"\0")
    return False


def _with_blank(series: SeriesEntry, blank: Sequence[Path]) -> SeriesEntry:
    """Return a series with a note on blank files beside its own, of the same suffix."""
    own = {(p.parent, p.suffix.lower()) for p in series.paths}
    beside = [p.name for p in blank if (p.parent, p.suffix.lower()) in own]
    if not beside or not series.volumes:
        return series
    note = f"empty files beside its slices: {len(beside)}, such as {printable_path(beside[0])}. Slices may be missing"
    return replace(series, note="; ".join(filter(None, (series.note, note))))


def _without_odd_slices(found: Sequence[SeriesEntry]) -> list[SeriesEntry]:
    """Refuse series of one slice in a study that has series of several slices, also unreadable ones."""
    volumes = {(s.study_uid, s.patient): s for s in found if s.study_uid and _has_several_slices(s)}
    kept = []
    for s in found:
        if (s.study_uid, s.patient) in volumes and is_single_slice(s):
            other = f"{volumes[s.study_uid, s.patient].paths[0].parent.name}, a series of several slices, in its study"
            kept.append(_as_part(s, other))
        else:
            kept.append(s)
    return kept


def _has_several_slices(series: SeriesEntry) -> bool:
    is_unreadable = series.problem is not None and len(series.paths) > 1
    return is_unreadable or any(len(v.stack.frames) > 1 for v in series.volumes)


def is_single_slice(series: SeriesEntry) -> bool:
    """Return whether a series is one slice with a position in the patient."""
    frames = [f for v in series.volumes for f in v.stack.frames]
    return len(frames) == 1 and not frames[0].is_projection


def without_parts(found: Sequence[SeriesEntry]) -> list[SeriesEntry]:
    """Refuse single slices that were named as files, and of whose series other slices are in the same folder."""
    others = [find_other_slice(s.paths) if is_single_slice(s) else "" for s in found]
    return [
        _as_part(s, f"{other} of the same series in its folder") if other else s
        for s, other in zip(found, others, strict=True)
    ]


def _as_part(series: SeriesEntry, found: str) -> SeriesEntry:
    name = series.paths[0].parent.name or "series"
    return replace(series, volumes=(), problem=single_slice_error(name, series.volumes[0].stack.frames[0], found))


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
            refuse_missing_parts([m.concatenation for m in scans], first.path, name)
            volumes = split_volumes(without_copies([m.frames for m in scans], load_dataset), series=name)
        except Exception as error:
            problem = problem_of(error, first.path)
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
        patient=first.patient,
        note=_notes_on(members, volumes) if volumes else "",
        is_concatenation=any(m.concatenation for m in members),
    )


def _notes_on(members: Sequence[FileHeader], volumes: Sequence[Volume]) -> str:
    """Return notes on files that are no slices of the volumes, and on slices that are missing by the header, or nothing."""
    stated = max(m.n_slices for m in members)
    found = min(len(v.stack.frames) for v in volumes)
    short = f"the header states {stated} slices, of which {found} are there" if found < stated else ""
    return "; ".join(filter(None, (_left_out([m.skip_reason for m in members]), short)))


def _left_out(reasons: Sequence[str]) -> str:
    """Return a note on the files of a series that are not slices of its volumes, or an empty text."""
    counts = ", ".join(f"{n} {reason}" for reason, n in Counter(filter(None, reasons)).items())
    return f"other files of the series left out: {counts}" if counts else ""


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


def _acquisitions(volumes: Sequence[Volume], first: Path) -> tuple[Acquisition, ...]:
    """Return the acquisition parameters of each volume's first slice, or of the first file without volumes."""
    headers = {path: read_acquisition(path) for path in {first, *(v.stack.frames[0].path for v in volumes)}}
    if not volumes:
        return (headers[first],)
    slices = [v.stack.frames[0] for v in volumes]
    return tuple({**headers[f.path], **describe_frame(f.traits)} for f in slices)
