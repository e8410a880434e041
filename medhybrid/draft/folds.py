"""Folds of a draft: the dataset's file of folds, if its names are cases and it divides no subject."""

from __future__ import annotations

import re
from dataclasses import replace

from medhybrid.data.splits import NNUNET_SPLITS, SPLITS, read_folds
from medhybrid.draft.draft import Draft
from medhybrid.errors import DataError


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


def _subjects_of(draft: Draft) -> dict[str, str]:
    """Return case to subject, by the column of the table or the pattern; empty if each case is a subject."""
    if draft.table and "subject" in draft.table[0]:
        case, subject = (draft.table[0].index(c) for c in ("case", "subject"))
        return {row[case]: row[subject] for row in draft.table[1:]}
    matched = {c: re.search(draft.subject_pattern, c) for c in draft.cases} if draft.subject_pattern else {}
    return {case: m[1] for case, m in matched.items() if m}
