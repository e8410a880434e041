"""Comparison of patients between files. Identifiers stay in memory: messages name the attribute, never its value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from medhybrid.scans.dicom.attributes import text, value_of

IDENTIFIERS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")
"""Attributes that identify a patient. Names have several spellings, so they are compared only without an ID."""

MAY_BE_ABSENT = (1, 2)
"""Positions of the issuer and the birth date: with the same ID, a missing value is no difference."""

NOBODY = re.compile(
    r"[\W_]*(anon\w*|unknown|unnamed|none|null|n/?a|nobody|no ?name|removed|deleted|de-?identified|redacted|patient|subject"
    r"|test|x+|0+)?[\W_]*",
    re.IGNORECASE,
)
"""Identifiers that anonymisers write for all patients."""

Identity = tuple[str, ...]
"""The values of `IDENTIFIERS`."""


def identity_of(header: Any) -> Identity:
    """Return the patient identifiers of a data set."""
    number, issuer, birth_date = (text(header, keyword).strip() for keyword in IDENTIFIERS[:3])
    name = str(value_of(header, "PatientName") or "")
    digits = re.sub(r"[-./ ]", "", birth_date)
    birth_date = digits if len(digits) == 8 else birth_date
    return number, issuer, birth_date.strip("0") and birth_date, "" if number else name.rstrip("^ ").casefold()


def names_nobody(identity: Identity) -> bool:
    """Return whether identifiers are absent, or words that anonymisers write for all patients."""
    known = [v for i, v in enumerate(identity) if i not in MAY_BE_ABSENT]
    return all(not v or NOBODY.fullmatch(v) for v in known)


def differing_identifiers(identities: Sequence[Identity]) -> tuple[str, ...]:
    """Return the attributes in which identities differ; empty if all belong to one patient."""
    values = [set(of) for of in zip(*identities, strict=True)]
    if values and len(values[0]) == 1 and "" not in values[0]:
        for i in MAY_BE_ABSENT:
            values[i].discard("")
    return tuple(name for name, of in zip(IDENTIFIERS, values, strict=True) if len(of) > 1)


def one_for_each_patient(identities: Iterable[Identity]) -> dict[Identity, Identity]:
    """Return identity to that of its patient which has the most values: other series may lack the birth date."""
    found: dict[Identity, Identity] = {}
    with_id: dict[Identity, list[Identity]] = {}
    for identity in sorted(set(identities), key=lambda i: (i.count(""), i)):
        known = with_id.setdefault(identity[:1] if identity[:1] != ("",) else identity, [])
        alike = (o for o in known if not differing_identifiers([identity, o]))
        found[identity] = next(alike, identity)
        if found[identity] == identity:
            known.append(identity)
    return found
