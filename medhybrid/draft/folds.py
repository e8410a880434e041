"""Folds of a draft: the dataset's file of folds, if its names are cases and it divides no subject."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from medhybrid.data.splits import NNUNET_SPLITS, SPLITS, Fold, read_folds, with_names_of
from medhybrid.draft.draft import Draft
from medhybrid.errors import DataError
from medhybrid.names import printable_path

NAMES_FOLDS = re.compile(r"split|fold", re.IGNORECASE)
"""Names of other files of folds than the usual ones."""

MAX_UNKNOWN = 0.2
"""Largest share of the names in a file of folds that are no cases, as those of damaged files."""


def with_folds(draft: Draft) -> Draft:
    """Return a draft with the dataset's file of folds, if it is not the one that `data.splits` names by default.

    Without a file of the usual names, the first one that names cases counts.
    """
    usual = [draft.root / n for n in (SPLITS, NNUNET_SPLITS) if (draft.root / n).is_file()]
    if usual and usual[0].name == SPLITS and not draft.table:
        return draft
    others = sorted(p for p in draft.root.glob("*.json") if NAMES_FOLDS.search(p.name) and not p.name.startswith("."))
    for path in usual[:1] or [*others, draft.root / "dataset.json"]:
        try:
            folds = with_names_of(read_folds(path), draft.cases)
        except DataError as error:
            if NAMES_FOLDS.search(path.name):
                draft = _with_remark(draft, f"{printable_path(path.name)} is not used: {error}")
            continue
        if why := _why_unused(draft, folds):
            if NAMES_FOLDS.search(path.name):
                draft = _with_remark(draft, f"the folds of {printable_path(path.name)} are not used: {why}")
            continue
        named = {n for f in folds for n in (*f.train, *f.validation)}
        if left := sorted(set(draft.cases) - named):
            message = f"{len(left)} cases are in no fold of {printable_path(path.name)}, and are not used: {left[0]}"
            draft = _with_remark(draft, message)
        return replace(draft, splits=str(path) if draft.table else path.name)
    return draft


def _with_remark(draft: Draft, message: str) -> Draft:
    return replace(draft, remarks=(*draft.remarks, message))


def _why_unused(draft: Draft, folds: Sequence[Fold]) -> str:
    """Return the reason why folds cannot be used; empty if they can."""
    names = {n for f in folds for n in (*f.train, *f.validation)}
    if len(unknown := sorted(names - set(draft.cases))) > MAX_UNKNOWN * len(names):
        return f"{len(unknown)} of its names are no cases, such as {unknown[0]}"
    known = set(draft.cases)
    if not all(known.intersection(f.train) and known.intersection(f.validation) for f in folds):
        return "a fold has no cases for training or for validation"
    subjects = _subjects_of(draft)
    for fold in folds:
        if both := {subjects.get(n, n) for n in fold.train} & {subjects.get(n, n) for n in fold.validation}:
            return f"a subject is on both sides of one, such as {min(both)}"
    return ""


def _subjects_of(draft: Draft) -> dict[str, str]:
    """Return case to subject, by the column of the table or the pattern; empty if each case is a subject."""
    if draft.table and "subject" in draft.table[0]:
        case, subject = (draft.table[0].index(c) for c in ("case", "subject"))
        return {row[case]: row[subject] for row in draft.table[1:]}
    matched = {c: re.search(draft.subject_pattern, c) for c in draft.cases} if draft.subject_pattern else {}
    return {case: m[1] for case, m in matched.items() if m}
