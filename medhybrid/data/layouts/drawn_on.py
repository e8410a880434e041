"""Series on which a DICOM mask was drawn, by the references in its header."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from medhybrid.errors import MedHybridError
from medhybrid.scans import ScanEntry
from medhybrid.scans.dicom.mask_owner import series_drawn_on
from medhybrid.scans.dicom.references import KINDS


def drawn_on(mask: ScanEntry, images: Sequence[ScanEntry]) -> list[ScanEntry]:
    """Return the images to which a SEG or RTSTRUCT refers; empty if it refers to none of them, or is another file."""
    found = _series_of(mask)
    return [e for e in images if e.uid and e.uid in found]


def refers_to_series(mask: ScanEntry) -> bool:
    """Return whether a SEG or RTSTRUCT refers to a series."""
    return bool(_series_of(mask))


def _series_of(mask: ScanEntry) -> set[str]:
    if mask.modality not in KINDS:
        return set()
    with suppress(MedHybridError):
        return series_drawn_on(mask.paths[0]) - {""}
    return set()
