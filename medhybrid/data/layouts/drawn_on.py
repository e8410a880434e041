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
    if mask.modality not in KINDS:
        return []
    found: set[str] = set()
    with suppress(MedHybridError):
        found = series_drawn_on(mask.paths[0])
    return [e for e in images if e.uid and e.uid in found]
