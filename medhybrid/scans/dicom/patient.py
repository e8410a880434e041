"""Whether slices and channels are of one patient. Identifiers stay in memory: messages name the attribute, never its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medhybrid.scans.dicom.attributes import text

IDENTIFIERS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")
"""What tells one patient from another; absent beside present is a difference."""

Identity = tuple[str, ...]
"""The values of `IDENTIFIERS`."""


def identity_of(header: Any) -> Identity:
    """Return what identifies the patient of a data set."""
    return tuple(text(header, name).strip() for name in IDENTIFIERS)


def differing_identifiers(identities: Sequence[Identity]) -> tuple[str, ...]:
    """Return the attributes in which identities differ; none where all are of one patient."""
    return tuple(
        name for name, values in zip(IDENTIFIERS, zip(*identities, strict=True), strict=True) if len(set(values)) > 1
    )
