"""Series on which a DICOM mask was drawn, by the references in its header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medhybrid.errors import MedHybridError
from medhybrid.scans import ScanEntry
from medhybrid.scans.dicom.attributes import text, value_of
from medhybrid.scans.dicom.headers import load_dataset
from medhybrid.scans.dicom.references import KINDS

PATHS = (
    ("ReferencedSeriesSequence",),
    ("ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", "RTReferencedSeriesSequence"),
)
"""Nested sequences with the SeriesInstanceUID of the images, of a SEG and of an RTSTRUCT."""


def drawn_on(mask: ScanEntry, images: Sequence[ScanEntry]) -> list[ScanEntry]:
    """Return the images to which a SEG or RTSTRUCT refers; empty if it refers to none of them, or is another file."""
    if mask.modality not in KINDS:
        return []
    found: set[str] = set()
    with suppress(MedHybridError):
        found = _series_of(mask.paths[0])
    return [e for e in images if e.uid and e.uid in found]


def _series_of(path: Path) -> set[str]:
    header = load_dataset(path, tags=[p[0] for p in PATHS], defers=False)
    return set() if header is None else {text(item, "SeriesInstanceUID") for p in PATHS for item in _items(header, p)}


def _items(dataset: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield the items of nested sequences; a damaged sequence counts as empty."""
    if not path:
        yield dataset
        return
    items = value_of(dataset, path[0])
    for item in items if items is not None and not isinstance(items, (str, bytes, int, float)) else ():
        yield from _items(item, path[1:])
