"""Comparison of patients between files. Identifiers stay in memory: messages name the attribute, never its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medhybrid.scans.dicom.attributes import text, value_of

IDENTIFIERS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")
"""Attributes that identify a patient. A missing value differs from a present one. Names have several spellings, so they are
compared only without an ID."""

Identity = tuple[str, ...]
"""The values of `IDENTIFIERS`."""


def identity_of(header: Any) -> Identity:
    """Return the patient identifiers of a data set."""
    number, issuer, birth_date = (text(header, keyword).strip() for keyword in IDENTIFIERS[:3])
    name = str(value_of(header, "PatientName") or "")
    return number, issuer, birth_date, "" if number else name.rstrip("^ ").casefold()


def differing_identifiers(identities: Sequence[Identity]) -> tuple[str, ...]:
    """Return the attributes in which identities differ; empty if all belong to one patient."""
    return tuple(
        name for name, values in zip(IDENTIFIERS, zip(*identities, strict=True), strict=True) if len(set(values)) > 1
    )
