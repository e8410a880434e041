"""What a case is for, as tables and lists write it, and that cases kept for testing do not train under another name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medhybrid.data.layouts.case import NO_FOLD, Case, Note
from medhybrid.data.layouts.copies import same_file_keys
from medhybrid.errors import DataError

SPLIT_NAMES = ("split", "set", "subset", "partition")
"""Columns of tables, and keys of lists, that may say which cases train, validate and test."""

PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "ts", "holdout", "heldout"), "test"),
}
"""Words for these, in lower case and without what `FILLERS` and separators add."""

FILLERS = re.compile(r"(?<=.)(dataset|subset|set|data|cohort|cases|case|split|part|group|scans|images)$")

SHOWN = 5


def part_of(text: object) -> str | None:
    """Return what a word such as `train`, `Test set` or `hold-out` says a case is for; None for another word."""
    if not isinstance(text, str):
        return None
    word = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())
    return PARTS.get(word) or PARTS.get(FILLERS.sub("", word))


def fold_or_part(cases: Sequence[tuple[Case, str | None]], column: str, where: str) -> tuple[list[Case], list[Note]]:
    """Give the cases that validate their fold: the numbers of folds decide where there are any, else the part.

    A case that is for validation and has no number, where others have one, gets a problem: it would train. So does one of which
    nothing is said.
    """
    if any(case.fold is not None for case, _ in cases):
        cases = [(_with_fold_told(case) if part is None else case, part) for case, part in cases]
    if all(part != "validation" for _, part in cases):
        return [case for case, _ in cases], []
    if all(case.fold is None or case.fold < 0 for case, _ in cases):
        return [replace(c, fold=0 if part == "validation" else NO_FOLD) for c, part in cases], []
    given = []
    for case, part in cases:
        if part == "validation" and (case.fold is None or case.fold < 0) and case.problem is None:
            problem = DataError(
                f"case {case.name}: it is for validation by `{column}`, and `fold` names no fold in which it validates",
                expected="a number of a fold, as other cases have",
                remedy="give it its fold, or empty `fold` in every case",
            )
            case = replace(case, problem=problem)
        given.append(case)
    message = f"`fold` decides which cases validate; `{column}` only keeps cases for testing out"
    return given, [Note(where, message, remedy=f"empty `fold` in every case to go by `{column}`")]


def _with_fold_told(case: Case) -> Case:
    """Give a case that could validate, and does not say in which fold, a problem."""
    if case.fold is not None or case.problem is not None or not case.is_labelled:
        return case
    problem = DataError(
        f"case {case.name}: it names no fold, and other cases do",
        expected=f"the number of the fold in which it validates, or {NO_FOLD} to train in every fold",
        remedy="fill the cell: of cells that were merged, a spreadsheet keeps the text in the first line only",
    )
    return replace(case, problem=problem)


def keep_tests_out(cases: Sequence[Case], testing: Sequence[Case]) -> tuple[tuple[Case, ...], list[Note]]:
    """Leave out the cases whose subject, or an image file of theirs or a copy of it, is kept for testing, and name them.

    A file that every case has, such as a template, is no case's own: it is compared only where a case has no other.
    """
    if not testing:
        return tuple(cases), []
    keys = same_file_keys(_paths_of(testing), _paths_of(cases))
    files = {id(c): _images_of(c, keys) for c in (*cases, *testing)}
    counts = Counter(path for found in files.values() for path in found)
    own = {key: {p for p in found if counts[p] < len(files)} or found for key, found in files.items()}
    subjects = {c.subject for c in testing if c.subject}
    held = {path for c in testing for path in own[id(c)]}
    of_subject = [c for c in cases if c.problem is None and c.subject in subjects]
    of_file = [c for c in cases if c.problem is None and c.subject not in subjects and own[id(c)] & held]
    notes = [
        Note(_shown(left), f"{len(left)} cases do not train: {why} kept for testing", remedy=remedy)
        for left, why, remedy in (
            (of_subject, "their subject is", "correct the subjects if they are others"),
            (of_file, "an image file of theirs is", "take them out of the cases that train, or of those for testing"),
        )
        if left
    ]
    out = {id(c) for c in (*of_subject, *of_file)}
    return tuple(c for c in cases if id(c) not in out), notes


def _paths_of(cases: Sequence[Case]) -> list[Path]:
    return [p for c in cases for files in c.images if files for p in files.paths]


def _images_of(case: Case, keys: Mapping[Path, str]) -> set[tuple[str, str]]:
    """Return the keys of a case's images, each with the volume of the file that is taken."""
    return {(keys[p], files.part) for files in case.images if files for p in files.paths}


def _shown(cases: Sequence[Case]) -> str:
    names = ", ".join(c.name for c in cases[:SHOWN])
    return names + (f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else "")
