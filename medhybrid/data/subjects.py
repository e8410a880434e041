"""Subjects of cases: one subject may be written in several ways, and must not stand on both sides of a fold for that."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from medhybrid.data.layouts.case import Case, Note

NUMBER = re.compile(r"0*([0-9]+)(\.0*)?")
"""A number, as spreadsheets change it: 7, 007, 7.0."""

SHOWN = 5


def unify_subjects(cases: Sequence[Case]) -> tuple[tuple[Case, ...], list[Note]]:
    """Give cases whose subjects differ in case, spaces, Unicode form or the form of a number one spelling; name these."""
    spellings: dict[str, set[str]] = {}
    for case in cases:
        spellings.setdefault(_form_of(case.subject), set()).add(case.subject)
    several = {form: sorted(found) for form, found in spellings.items() if len(found) > 1}
    if not several:
        return tuple(cases), []
    chosen = {subject: found[0] for found in several.values() for subject in found}
    shown = "; ".join(", ".join(found) for found in list(several.values())[:SHOWN])
    note = Note(
        "subjects",
        f"{len(several)} subjects are written in several ways, and are taken as one each",
        shown,
        "write each subject alike",
    )
    return tuple(replace(c, subject=chosen.get(c.subject, c.subject)) for c in cases), [note]


def _form_of(subject: str) -> str:
    """Return the form in which subjects are compared."""
    text = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", subject).casefold()).split())
    number = NUMBER.fullmatch(text)
    return number[1] if number else text
