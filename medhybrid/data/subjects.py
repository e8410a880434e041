"""Unification of subject names: a subject in several spellings must not be on both sides of a fold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from medhybrid.data.layouts.case import Case, Note

NUMBER = re.compile(r"0*([0-9]+)(?:\.([0-9]*))?(?:e\+?([0-9]{1,2}))?")
"""A number in the forms that spreadsheets convert it to: 7, 007, 7.0, 7E+0."""

EXPONENT = re.compile(r"[0-9](\.[0-9]+)?E\+[0-9]+")
"""A large number as spreadsheets show it."""

SHOWN = 5


def unify_subjects(cases: Sequence[Case]) -> tuple[tuple[Case, ...], list[Note]]:
    """Unify subjects that differ only in case, spaces, Unicode form or the form of a number; return cases and a note."""
    spellings: dict[str, set[str]] = {}
    for case in cases:
        spellings.setdefault(form_of_subject(case.subject), set()).add(case.subject)
    several = {form: sorted(found) for form, found in spellings.items() if len(found) > 1}
    notes = _notes_on_exponents(cases)
    if not several:
        return tuple(cases), notes
    chosen = {subject: found[0] for found in several.values() for subject in found}
    shown = "; ".join(", ".join(found) for found in list(several.values())[:SHOWN])
    note = Note(
        "subjects",
        f"{len(several)} subjects have several spellings, which are treated as the same subject",
        shown,
        "use one spelling for each subject",
    )
    return tuple(replace(c, subject=chosen.get(c.subject, c.subject)) for c in cases), [*notes, note]


def _notes_on_exponents(cases: Sequence[Case]) -> list[Note]:
    """Return a note on subjects that a spreadsheet wrote with an exponent: different numbers may look the same."""
    found = sorted({c.subject for c in cases if EXPONENT.fullmatch(c.subject)})
    if not found:
        return []
    message = f"{len(found)} subjects are numbers with an exponent, of which a spreadsheet may have removed digits"
    return [Note("subjects", message, ", ".join(found[:SHOWN]), "save the column as text")]


def form_of_subject(subject: str) -> str:
    """Return the normalised form of a subject for comparison."""
    text = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", subject).casefold()).split())
    number = NUMBER.fullmatch(text)
    if number is None:
        return text
    exponent, decimals = int(number[3] or 0), (number[2] or "").rstrip("0")
    if len(decimals) > exponent:
        return text  # not a whole number
    return (number[1] + decimals.ljust(exponent, "0")).lstrip("0") or "0"
