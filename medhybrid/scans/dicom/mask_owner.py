"""Patient and images that a SEG or RTSTRUCT belongs to, by its header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medhybrid.errors import ScanError
from medhybrid.scans.dicom.attributes import text, value_of
from medhybrid.scans.dicom.headers import load_dataset
from medhybrid.scans.dicom.patient import IDENTIFIERS, differing_identifiers, identity_of, names_nobody
from medhybrid.scans.dicom.source_values import valid_uid
from medhybrid.scans.scan import Scan

SERIES_PATHS = (
    ("ReferencedSeriesSequence",),
    ("ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", "RTReferencedSeriesSequence"),
)
"""Nested sequences with the SeriesInstanceUID of the images, of a SEG and of an RTSTRUCT."""


def series_drawn_on(path: Path) -> set[str]:
    """Return the SeriesInstanceUIDs of the images that a file refers to; raises `ScanError` if it cannot be read."""
    header = load_dataset(path, tags=[p[0] for p in SERIES_PATHS], defers=False)
    return set() if header is None else _series_in(header)


def refuse_other_patient(path: Path, frame_of_reference: str, image: Scan) -> None:
    """Raise `ScanError` if a mask is of another patient than its image.

    The same frame of reference or study, or a reference to the image's series, counts more than the patient: anonymisers may
    change the patients of masks and images in different ways.

    Parameters
    ----------
    frame_of_reference : str
        Frame of reference of the mask; empty if it has none.
    """
    if image.source.kind != "dicom" or not image.source.header:
        return
    source = image.source.header[0]
    is_supplied = any("FrameOfReferenceUID is absent" in note for note in image.notes)
    ours = "" if is_supplied else text(source, "FrameOfReferenceUID")
    if ours and frame_of_reference in (ours, valid_uid(ours)):
        return
    header = load_dataset(path, tags=[*IDENTIFIERS, "StudyInstanceUID", *(p[0] for p in SERIES_PATHS)], defers=False)
    if header is None or text(source, "SeriesInstanceUID") in _series_in(header):
        return
    if text(header, "StudyInstanceUID") == text(source, "StudyInstanceUID") != "":
        return
    identities = [identity_of(header), identity_of(source)]
    have_ids = [bool(identity[0]) for identity in identities]
    if any(map(names_nobody, identities)) or len(set(have_ids)) > 1:  # unknown, or known in different ways
        return
    plain = {identity[0].casefold().lstrip("0") for identity in identities}
    if len(plain) < 2 and have_ids[0]:
        return
    if not (differing := differing_identifiers([(i[0], "", "", i[3]) for i in identities])):
        return
    raise ScanError(
        f"{path.name} is of another patient than its image",
        expected="one patient or study, or a reference to the image's series",
        found=f"another {' and '.join(differing)}",
        remedy="use the image that it was drawn on",
    )


def _series_in(header: Any) -> set[str]:
    return {text(item, "SeriesInstanceUID") for p in SERIES_PATHS for item in _items(header, p)}


def _items(dataset: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield the items of nested sequences; a damaged sequence counts as empty."""
    if not path:
        yield dataset
        return
    items = value_of(dataset, path[0])
    for item in items if items is not None and not isinstance(items, (str, bytes, int, float)) else ():
        yield from _items(item, path[1:])
