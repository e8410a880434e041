"""Assignment of cases to training, validation and testing, and exclusion of training cases that are also for testing."""

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
"""Columns of tables, and keys of lists, that may assign cases to training, validation and testing."""

PARTS = {
    **dict.fromkeys(("train", "training", "tr", "entrenamiento", "entrainement", "addestramento", "xunlian"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "validate", "validating", "dev", "eval", "evaluation", "tuning"), "validation"
    ),
    **dict.fromkeys(("validierung", "validacion", "validazione", "yanzheng"), "validation"),
    **dict.fromkeys(("test", "testing", "ts", "holdout", "heldout", "unseen"), "test"),
    **dict.fromkeys(("prüfung", "pruefung", "prueba", "pruebas", "prova", "ceshi"), "test"),
}
"""Words for the three parts, in lower case and without separators, accents and `FILLERS`; also in a few other languages."""

FILLERS = re.compile(
    r"(?<=.)(dataset|subset|set|data|cohort|cases|case|split|part|group|scans|images|s?daten(satz)?|s?f(ä|ae)lle|s?menge|s?fall)$"
)

OUTSIDE = re.compile(r"^(external|independent|unseen|blind|hidden|final)(?=.)|(?<=.)(external|independent|unseen)$")
"""Words beside one for a part that make it a part for testing: `external_validation`."""

ACCENTS = str.maketrans("áàâéèêíîóôúû", "aaaeeeiioouu")

SHOWN = 5


def part_of(text: object) -> str | None:
    """Return the part that words such as `train`, `Test set` or `external validation` mean; None for others."""
    if not isinstance(text, str):
        return None
    word = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())
    word = word.translate(ACCENTS)
    plain = FILLERS.sub("", word)
    if found := PARTS.get(word) or PARTS.get(plain):
        return found
    found = PARTS.get(FILLERS.sub("", OUTSIDE.sub("", plain.removeprefix("internal"))))
    return "test" if found == "validation" and OUTSIDE.search(plain) else found


def fold_or_part(cases: Sequence[tuple[Case, str | None]], column: str, where: str) -> tuple[list[Case], list[Note]]:
    """Set the fold of cases: by their fold numbers if any case has one, otherwise by their part.

    If other cases have a fold number, two kinds of cases get a problem, because they would train: those for validation
    without a number, and those without number and part.
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
                f"case {case.name}: `{column}` assigns it to validation, but it has no `fold`",
                expected="the number of a fold, as other cases have",
                remedy="add its fold, or remove `fold` from every case",
            )
            case = replace(case, problem=problem)
        given.append(case)
    message = f"`fold` determines the validation cases; `{column}` only excludes cases for testing"
    return given, [Note(where, message, remedy=f"to use `{column}`, remove `fold` from every case")]


def _with_fold_told(case: Case) -> Case:
    """Add a problem to a case that could validate and has no fold number."""
    if case.fold is not None or case.problem is not None or not case.is_labelled:
        return case
    problem = DataError(
        f"case {case.name}: it has no fold, while other cases have one",
        expected=f"the number of the fold in which it validates, or {NO_FOLD} to train in every fold",
        remedy="fill the cell: of merged cells, a spreadsheet saves the text only in the first line",
    )
    return replace(case, problem=problem)


def keep_tests_out(cases: Sequence[Case], testing: Sequence[Case]) -> tuple[tuple[Case, ...], list[Note]]:
    """Exclude cases that share their subject, an image file or a copy of one with a case for testing; return notes on them.

    A file that is in every case, such as a template, is compared only for cases without another file.
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
        Note(_shown(left), f"{len(left)} cases do not train: {why} also in cases for testing", remedy=remedy)
        for left, why, remedy in (
            (of_subject, "their subject is", "correct the subjects if they are wrong"),
            (of_file, "their image file is", "remove them from the training cases, or from those for testing"),
        )
        if left
    ]
    out = {id(c) for c in (*of_subject, *of_file)}
    return tuple(c for c in cases if id(c) not in out), notes


def _paths_of(cases: Sequence[Case]) -> list[Path]:
    return [p for c in cases for files in c.images if files for p in files.paths]


def _images_of(case: Case, keys: Mapping[Path, str]) -> set[tuple[str, str]]:
    """Return the keys of a case's image files, each with the volume that is used."""
    return {(keys[p], files.part) for files in case.images if files for p in files.paths}


def _shown(cases: Sequence[Case]) -> str:
    names = ", ".join(c.name for c in cases[:SHOWN])
    return names + (f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else "")
