"""Folds of a draft: the dataset's file of folds, if its names are cases and it divides no subject."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medhybrid.data.splits import NNUNET_SPLITS, SPLITS, read_folds
from medhybrid.draft.draft import Draft
from medhybrid.errors import DataError, MedHybridError
from medhybrid.files import check_file
from medhybrid.names import printable_path
from medhybrid.tables import decode_text

MAX_LISTS, MAX_LIST_BYTES = 50, 1 << 20
"""Largest number and size of text files that are read."""

LIST_SHARE = 0.8
"""Share of the lines of a list of cases that are names of cases."""


def with_folds(draft: Draft) -> Draft:
    """Return a draft with the dataset's file of folds, if it is not the one that `data.splits` names by default."""
    found = [draft.root / n for n in (SPLITS, NNUNET_SPLITS) if (draft.root / n).is_file()]
    if not found or (found[0].name == SPLITS and not draft.table):
        return draft
    try:
        folds = read_folds(found[0])
        names = {n for fold in folds for n in (*fold.train, *fold.validation)}
    except DataError as error:
        return replace(draft, remarks=(*draft.remarks, f"{found[0].name} is not used: {error}"))
    if unknown := sorted(names - set(draft.cases)):
        message = (
            f"the folds of {found[0].name} are not used: {len(unknown)} of its names are no cases, such as {unknown[0]}"
        )
        return replace(draft, remarks=(*draft.remarks, message))
    subjects = _subjects_of(draft)
    for fold in folds:
        both = {subjects.get(n, n) for n in fold.train} & {subjects.get(n, n) for n in fold.validation}
        if both:
            message = (
                f"the folds of {found[0].name} are not used: a subject is on both sides of one, such as {min(both)}"
            )
            return replace(draft, remarks=(*draft.remarks, message))
    return replace(draft, splits=str(found[0]) if draft.table else found[0].name)


def remarks_on_lists(root: Path, cases: Sequence[str]) -> tuple[str, ...]:
    """Return remarks on text files that list names of cases, such as `train.txt`: they are not used."""
    found, known = [], set(cases)
    for path in sorted(root.rglob("*.txt"))[:MAX_LISTS]:
        try:
            check_file(path)
            if path.stat().st_size > MAX_LIST_BYTES:
                continue
            lines = decode_text(path.read_bytes()).split("\n")
        except (OSError, UnicodeError, MedHybridError):
            continue
        names = [Path(line.strip().split()[0].replace("\\", "/")).name.split(".")[0] for line in lines if line.strip()]
        n_cases = sum(name in known for name in names)
        if names and n_cases >= LIST_SHARE * len(names):
            found.append(
                f"{printable_path(path.relative_to(root))} lists {n_cases} cases, and is not used: give folds in splits.json"
            )
    return tuple(found[:3])


def _subjects_of(draft: Draft) -> dict[str, str]:
    """Return case to subject, by the column of the table or the pattern; empty if each case is a subject."""
    if draft.table and "subject" in draft.table[0]:
        case, subject = (draft.table[0].index(c) for c in ("case", "subject"))
        return {row[case]: row[subject] for row in draft.table[1:]}
    matched = {c: re.search(draft.subject_pattern, c) for c in draft.cases} if draft.subject_pattern else {}
    return {case: m[1] for case, m in matched.items() if m}
