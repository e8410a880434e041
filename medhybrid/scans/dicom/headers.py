"""DICOM files of a folder, by series, from their headers alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_IMAGES = {
    "SR": "structured report",
    "PR": "presentation state",
    "KO": "key object selection",
    "SEG": "segmentation",
    "RTSTRUCT": "radiotherapy structures",
    "RTPLAN": "radiotherapy plan",
    "RTDOSE": "radiotherapy dose",
    "REG": "registration",
    "DOC": "document",
    "PLAN": "plan",
}
"""Modalities that hold no scan; they are left aside with a line in the table."""

_TAGS = [
    "SOPClassUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "ImageOrientationPatient",
]


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """A DICOM series found in a folder.

    Attributes
    ----------
    uid, study_uid : str
        SeriesInstanceUID and StudyInstanceUID, kept in memory for grouping; never written to logs.
    left_aside : str
        Why the series holds no scan, else empty.
    """

    uid: str
    study_uid: str
    modality: str
    description: str
    paths: tuple[Path, ...]
    n_frames: int
    rows: int
    columns: int
    left_aside: str


def read_header(path: Path) -> Any | None:
    """The grouping attributes of a DICOM file, or None if it is not one."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in real headers; what we need is checked where it is used
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            _ = [header.get(tag) for tag in _TAGS]  # values are parsed on access
    except (InvalidDicomError, OSError):
        return None
    except Exception:  # a damaged header can raise anything; the file is then counted as unreadable
        return None
    return header


def group_series(paths: Iterable[Path]) -> tuple[list[SeriesEntry], int]:
    """The series among `paths`, and how many files are no DICOM."""
    groups: dict[tuple[str, str], list[tuple[Path, Any]]] = {}
    n_skipped = 0
    for path in paths:
        header = read_header(path)
        if header is None:
            n_skipped += 1
        elif "DirectoryRecordSequence" not in header and header.get("SOPClassUID") != "1.2.840.10008.1.3.10":
            key = (str(header.get("StudyInstanceUID", "")), str(header.get("SeriesInstanceUID", "")))
            groups.setdefault(key, []).append((path, header))
    return [_entry(key, members) for key, members in sorted(groups.items(), key=lambda g: g[1][0][0])], n_skipped


def _entry(key: tuple[str, str], members: list[tuple[Path, Any]]) -> SeriesEntry:
    first = members[0][1]
    modality = str(first.get("Modality", "") or "")
    left_aside = NOT_IMAGES.get(modality, "")
    if not left_aside and not first.get("Rows"):
        left_aside = "no pixels"
    return SeriesEntry(
        uid=key[1],
        study_uid=key[0],
        modality=modality,
        description=str(first.get("SeriesDescription", "") or ""),
        paths=tuple(path for path, _ in members),
        n_frames=sum(_integer(h.get("NumberOfFrames")) or 1 for _, h in members),
        rows=_integer(first.get("Rows")),
        columns=_integer(first.get("Columns")),
        left_aside=left_aside,
    )


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
