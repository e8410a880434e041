"""Keys of the entries of a data list besides image and label: the subject, and the part (training, validation, testing)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medhybrid.data.layouts.case import Case, NoMaskError, Note, read_fold
from medhybrid.data.layouts.parts import SPLIT_NAMES, part_of
from medhybrid.errors import DataError
from medhybrid.names import check_case_name, printable_path

SUBJECT_WORDS = (
    *("subject", "subjectid", "subjectname", "subj", "subjid", "patient", "patientid", "patientname", "pat", "patid"),
    *("participant", "participantid", "pid", "mrn"),
)
"""Names of columns and keys with the subject, in lower case and without separators, in the order of the search."""

USED_KEYS = ("image", "label", "fold", "subject")
"""Keys of entries that are read, besides that for a part."""


def split_key(entries: list[Any], name: str) -> str:
    """Return the key of entries that assigns them to training, validation or testing; empty if they have none.

    Raises
    ------
    DataError
        If an entry has another word under this key.
    """
    dicts = [(i, e) for i, e in enumerate(entries) if isinstance(e, dict)]
    key = next((k for k in SPLIT_NAMES if any(part_of(e.get(k)) for _, e in dicts)), "")
    for i, entry in dicts:
        if key and entry.get(key) not in (None, "") and part_of(entry[key]) is None:
            raise DataError(
                f"{name}, entry {i + 1}: unknown word under `{key}`",
                expected="train, val or test, as in other entries",
                found=ascii(entry[key])[:60],
                remedy="use one of these words, or rename the key",
            )
    return key


def part_under(key: str, entry: object) -> str | None:
    """Return the part of an entry (`train`, `validation`, `test`); None without one."""
    return part_of(entry.get(key)) if key and isinstance(entry, dict) else None


def with_part(case: Case, part: str | None, key: str, must_say: bool) -> Case:
    """Add a problem to a case that is not assigned to training, validation or testing while others are."""
    if part is not None or not must_say or not (case.problem is None or isinstance(case.problem, NoMaskError)):
        return case
    problem = DataError(
        f"case {case.name}: its entry has no `{key}`, while other entries have",
        expected=f"train, val or test under `{key}`",
        remedy="add it",
    )
    return replace(case, problem=problem)


def subject_under(entry: object) -> str:
    """Return the subject of an entry as text; empty without one. Its key may be `patient_id`, for example."""
    if not isinstance(entry, dict):
        return ""
    plain = {re.sub(r"[\W_]+", "", str(k).casefold()): v for k, v in reversed(entry.items())}
    value = entry.get("subject", next((plain[w] for w in SUBJECT_WORDS if w in plain), None))
    value = None if isinstance(value, (dict, list)) else value
    return "" if value is None or value != value else str(value).strip()  # NaN differs from itself


def with_subject(case: Case, entry: object, where: str, *, must_say: bool) -> Case:
    """Set the subject of a case to that of its entry; add a problem if it has none while others have, or it is invalid."""
    subject = subject_under(entry)
    problem: DataError | None = None
    if subject:
        try:
            subject = check_case_name(subject, source=f"{where}, key subject")
        except DataError as error:
            subject, problem = case.subject, error
    elif must_say:
        problem = DataError(
            f"case {case.name}: its entry has no `subject`, while other entries have",
            expected="a subject in each entry, or in none",
            remedy="add it",
        )
    may_have_problem = case.problem is None or isinstance(case.problem, NoMaskError)
    return replace(
        case, subject=subject or case.subject, problem=problem if problem and may_have_problem else case.problem
    )


def with_fold(case: Case, entry: object) -> Case:
    """Set the fold of a case to that of its entry; add a problem if it is not a number."""
    try:
        return replace(case, fold=read_fold(entry.get("fold")) if isinstance(entry, dict) else None)
    except DataError as error:
        return replace(case, problem=case.problem or error)


def notes_on_unused_keys(entries: Sequence[Any], split: str, name: str, *, used: Sequence[str] = ()) -> list[Note]:
    """Return a note on keys of entries that are not read: neither `USED_KEYS` nor `used`."""
    unused = sorted({str(k) for e in entries if isinstance(e, dict) for k in e} - {*USED_KEYS, *used, split})
    if not any(isinstance(e, dict) and "subject" in e for e in entries):
        unused = [k for k in unused if re.sub(r"[\W_]+", "", k.casefold()) not in SUBJECT_WORDS]
    if not unused:
        return []
    return [Note(name, f"{len(unused)} keys of the entries are not used", printable_path(", ".join(unused))[:200])]
