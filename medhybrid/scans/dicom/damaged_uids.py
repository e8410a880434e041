"""Series with useless UIDs, as some anonymisers and scanners write them.

One SeriesInstanceUID may be that of several series, such as a placeholder; each slice may have another one; and so may the
StudyInstanceUID, the FrameOfReferenceUID and the SOPInstanceUID. What else the headers say then decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.scans.dicom.attributes import text
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.headers import FileHeader, load_dataset
from medhybrid.scans.dicom.patient import Identity, names_nobody

Groups = Mapping[tuple[str, str, str], list[FileHeader]]
"""Files by study, series, and their path if they have no series."""

MIN_SLICES = 4
"""Least number of slices with a SeriesInstanceUID each that are joined."""

MAX_MISSING = 3.05
"""Largest distance of slices of a numbered series relative to the smallest one, and of this one to the thickness."""

MAX_UNEVEN = 0.05
"""Largest relative difference of the distances of such slices."""

MAX_GAP = 1.6
"""Largest distance of such slices relative to their thickness; those of several series may be further apart."""


def regroup(groups: Groups) -> list[list[FileHeader]]:
    """Return the files of each series.

    - Slices of one series and patient are joined where each has another study.
    - Files of one series without a patient in several folders, each with the same instance numbers, are a series for each
      folder.
    - Slices of one folder with a series each are joined if they have the same SeriesNumber and form one stack.
    """
    apart = [part for members in _with_one_study(groups) for part in _by_folder(members)]
    return _with_one_series(apart)


def is_one_series(headers: Sequence[FileHeader]) -> bool:
    """Return whether files have one SeriesInstanceUID, or are slices of one series with another UID each."""
    by_uid: dict[tuple[str, str, str], list[FileHeader]] = {}
    for h in headers:
        by_uid.setdefault((h.study_uid, h.series_uid, ""), []).append(h)
    return len({h.series_uid for h in headers}) == 1 or len(_with_one_series(list(by_uid.values()))) == 1


def with_one_frame_of_reference(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return frames with one FrameOfReferenceUID, if each has another, or some have none."""
    uids = {f.frame_of_reference for f in frames}
    named = sorted(uids - {""})
    is_absent = len(named) == 1 < len(uids)
    if not is_absent and (len(frames) < 3 or len(uids) < len(frames) or "" in uids):
        return frames
    uid = named[0] if is_absent else frames[0].frame_of_reference
    return [replace(f, frame_of_reference=uid) for f in frames]


def have_one_uid(files: Sequence[tuple[Frame, ...]]) -> bool:
    """Return whether all files have one SOPInstanceUID, although they are slices at different positions."""
    frames = [f[0] for f in files if f]
    return (
        len(frames) > 2
        and len({f.uid for f in frames}) == 1
        and len({f.position_mm for f in frames}) == len(frames) == len(files)
    )


def _with_one_study(groups: Groups) -> list[list[FileHeader]]:
    """Join slices of one series and patient that have a study each, and are in one folder or clearly one stack."""
    single: dict[tuple[str, Identity], list[FileHeader]] = {}
    for (_, series, alone), members in groups.items():
        if series and not alone and _is_slice(members):
            single.setdefault((series, members[0].patient), []).append(members[0])
    together = [members for members in single.values() if len(members) > 1 and _have_one_origin(members)]
    moved = {id(m) for members in together for m in members}
    return [*together, *(g for g in groups.values() if id(g[0]) not in moved)]


def _have_one_origin(slices: Sequence[FileHeader]) -> bool:
    """Return whether slices with a study each are of one scan: their numbers differ, and they are not of several patients."""
    numbers = [m.frames[0].number for m in slices]
    if None in numbers or len(set(numbers)) < len(numbers):
        return False
    is_one_folder = len({m.path.parent for m in slices}) == 1
    return is_one_folder or (not names_nobody(slices[0].patient) and _is_one_stack([m.frames[0] for m in slices]))


def _is_slice(members: Sequence[FileHeader]) -> bool:
    """Return whether a series is one file with one slice that has a place."""
    frames = members[0].frames
    return len(members) == 1 and len(frames) == 1 and not frames[0].is_projection


def _by_folder(members: list[FileHeader]) -> list[list[FileHeader]]:
    """Separate the files of a series by folder, if most instance numbers of a folder are also in the others, each once.

    Nothing is separated if the headers name the patient: then the UID is probably right, too.
    """
    if not names_nobody(members[0].patient):
        return [members]
    folders: dict[Path, list[FileHeader]] = {}
    for m in members:
        folders.setdefault(m.path.parent, []).append(m)
    frames = [m.frames[0] for m in members if len(m.frames) == 1]
    if len(folders) < 2 or len(frames) < len(members) or len({f.uid for f in frames}) < len(frames):
        return [members]
    if len(folders) == len(members) >= MIN_SLICES and _are_even(frames):  # a folder for each slice
        return [members]
    numbers = [[m.frames[0].number for m in inside] for inside in folders.values()]
    sets = [set(n) for n in numbers]
    are_unique = all(None not in n and len(set(n)) == len(n) for n in numbers)
    are_repeated = all(len(s & sets[0]) > min(len(s), len(sets[0])) / 2 for s in sets)
    return list(folders.values()) if are_unique and are_repeated else [members]


def _with_one_series(groups: list[list[FileHeader]]) -> list[list[FileHeader]]:
    """Join slices of one folder that have a series each, and are one series by what else their headers say."""
    alike: dict[tuple[object, ...], list[FileHeader]] = {}
    for members in groups:
        if _is_slice(members) and not members[0].problem and not members[0].skip_reason:
            m, f = members[0], members[0].frames[0]
            grid = (f.rows, f.columns, f.orientation, f.spacing_mm)
            alike.setdefault((m.path.parent, m.patient, m.modality, *grid), []).append(m)
    joined: list[list[FileHeader]] = []
    for found in alike.values():
        if len(found) >= MIN_SLICES:
            named: dict[tuple[str, ...], list[FileHeader]] = {}
            for m in found:
                named.setdefault(_name_of(m), []).append(m)
            joined += [
                slices for (number, _), slices in named.items() if _are_one_series(slices, has_number=bool(number))
            ]
    moved = {id(m) for slices in joined for m in slices}
    return [*joined, *(g for g in groups if id(g[0]) not in moved)]


def _are_one_series(slices: Sequence[FileHeader], *, has_number: bool) -> bool:
    """Return whether slices with the same SeriesNumber and SeriesDescription are one series.

    With a number, and in one study, they are also one if a slice is missing, which is said where they are stacked.
    """
    studies = {m.study_uid for m in slices}
    frames = [m.frames[0] for m in slices]
    numbers = {f.number for f in frames}
    if len(slices) < MIN_SLICES or len(numbers) < len(frames) or None in numbers:
        return False
    if has_number and len(studies) == 1:
        heights = np.sort(_heights(frames))
        gaps = np.diff(heights)
        thickness = frames[0].thickness_mm or gaps.min()
        # one or two slices of a stack may be missing; images that were chosen from it are further apart
        return bool(0 < gaps.min() <= MAX_MISSING * thickness and gaps.max() <= MAX_MISSING * gaps.min())
    return len(studies) in (1, len(slices)) and _is_one_stack(frames)


def _heights(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Return the position of slices along the normal of the first one, in mm."""
    row, column = np.array(frames[0].orientation[:3]), np.array(frames[0].orientation[3:])
    return np.array([f.position_mm for f in frames]) @ np.cross(row, column)


def _are_even(frames: Sequence[Frame]) -> bool:
    """Return whether slices are at different positions, evenly spaced."""
    gaps = np.diff(np.sort(_heights(frames)))
    return bool(len(gaps) and gaps.min() > 0 and gaps.max() - gaps.min() <= MAX_UNEVEN * gaps.mean())


def _is_one_stack(frames: Sequence[Frame]) -> bool:
    """Return whether slices have different numbers, and are evenly spaced, no further apart than they are thick."""
    numbers = {f.number for f in frames}
    if len(frames) < MIN_SLICES or len(numbers) < len(frames) or None in numbers:
        return False
    along, thickness = _heights(frames), frames[0].thickness_mm
    if not _are_even(frames):
        return False
    return thickness is None or float(np.ptp(along)) / (len(along) - 1) <= MAX_GAP * thickness


def _name_of(header: FileHeader) -> tuple[str, str]:
    """Return SeriesNumber and SeriesDescription."""
    dataset = load_dataset(header.path, tags=["SeriesNumber", "SeriesDescription"])
    return text(dataset, "SeriesNumber"), text(dataset, "SeriesDescription")
