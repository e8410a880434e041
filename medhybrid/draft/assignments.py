"""Subjects, parts and folds that a dataset gives to its cases by name: in a table, or in lists such as `train.txt`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.data.layouts.parts import SPLIT_NAMES, part_of
from medhybrid.data.layouts.table import is_blank, split_column, with_split
from medhybrid.draft.tables import subject_column
from medhybrid.draft.words import stem_of, words_of
from medhybrid.errors import DataError, MedHybridError
from medhybrid.files import check_file
from medhybrid.names import printable_path
from medhybrid.tables import Table, decode_text, read_table

MAX_LISTS, MAX_LIST_BYTES = 50, 1 << 20
"""Largest number and size of text files that are read."""

LIST_SHARE = 0.8
"""Share of the names of a list that are those of cases."""

MIN_SHARE = 0.5
"""Share of the cases that a table must name; it may have further ones."""

MAX_SHOWN = 3

KEY_WORDS = frozenset({"case", "id", "name", "scan", "image", "file", "filename", "patient", "subject", "participant"})
"""Words of the column that names cases, if several columns could."""

LIST_WORDS = frozenset(
    {
        *(
            "list",
            "lists",
            "id",
            "ids",
            "name",
            "names",
            "file",
            "files",
            "filenames",
            "subgroup",
            "subset",
            "split",
            "set",
        ),
        *("cases", "case", "images", "subjects", "patients", "fold", "keys", "internal", "public", "private", "final"),
    }
)
"""Words beside that of the part in the name of a list."""

USED = " are those of "

MAX_TABLES_BELOW = 12

TABLES, LISTS = ("*.[cC][sS][vV]", "*.[tT][sS][vV]"), "*.txt"


@dataclass(slots=True)
class Assignments:
    """Values of cases by the name of the case; empty where the dataset gives none.

    Attributes
    ----------
    subjects, parts, folds : dict
        Subject; `train`, `validation` or `test`; number of the fold in which the case validates.
    remarks : list of str
        Uses and omissions, each with the reason.
    """

    subjects: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def find_assignments(root: Path, cases: Mapping[str, Iterable[str]]) -> Assignments:
    """Find the subjects, parts and folds of all cases in the tables and lists of names of a folder.

    Values that only some cases have are not used. The first table or set of lists that gives a value counts.

    Parameters
    ----------
    cases : mapping
        Case to other names that it may have: those of its files without suffix, and its subject.
    """
    found = Assignments()
    known = _known_names(cases)
    lists: dict[Path, set[str]] = {}
    for path in _tables(root):
        try:
            if named := _read_one(path, known, cases, found):
                lists[path] = named
        except DataError as error:
            found.remarks.append(f"{printable_path(path.name)} is not used: {error}")
    for path in _tables_below(root):
        others = len(found.remarks)
        with suppress(DataError):
            _read_one(path, known, cases, found)
        found.remarks[others:] = [r for r in found.remarks[others:] if USED in r]
    _read_lists(root, known, cases, found, lists)
    return found


def _tables(root: Path) -> list[Path]:
    """Return the tables of a folder, and those in its folders whose names are those of lists of a part."""
    own = [p for pattern in TABLES for p in root.glob(pattern)]
    below = [p for pattern in TABLES for p in root.glob(f"*/{pattern}") if _part_of_list(p)]
    return sorted(p for p in (*own, *below[:MAX_LISTS]) if not p.name.startswith("."))


def _tables_below(root: Path) -> list[Path]:
    """Return the other tables in the folders of a folder; none if there are many, as with a table for each case."""
    found = [p for pattern in TABLES for level in ("*", "*/*") for p in root.glob(f"{level}/{pattern}")]
    return [] if len(found) > MAX_TABLES_BELOW else sorted(p for p in found if not _part_of_list(p))


def _known_names(cases: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return each name, without regard to case, to the cases that have it; names of all cases are left out."""
    known: dict[str, set[str]] = {}
    for case, others in cases.items():
        for name in {case, *others}:
            known.setdefault(_folded(name), set()).add(case)
            if name.isdecimal():  # spreadsheets remove zeros
                known.setdefault(str(int(name)), set()).add(case)
    return {name: of for name, of in known.items() if len(of) < len(cases) or len(cases) == 1}


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _plain(name: str) -> str:
    return _folded(stem_of(Path(name)) if "." in name and not name[-1].isdecimal() else name)


def _cases_of(text: str, known: Mapping[str, set[str]]) -> set[str]:
    """Return the cases that a cell or line names: by a name, or the path of a file or folder."""
    parts = text.strip().strip("\"'").replace("\\", "/").rstrip("/").split("/")
    return next((known[n] for p in reversed(parts) if p and (n := _plain(p)) in known), set())


def _read_one(
    path: Path, known: Mapping[str, set[str]], cases: Mapping[str, Iterable[str]], found: Assignments
) -> set[str]:
    """Add what a table gives; return the cases that it names if it is the list of a part by its name."""
    table = read_table(path)
    named = {c: [_cases_of(row[c], known) for _, row in table.rows] for c in table.columns if c}
    n_named = {c: len(set().union(*of)) for c, of in named.items() if of}
    key = max(n_named, key=lambda c: (n_named[c], not KEY_WORDS.isdisjoint(words_of(c))), default="")
    if key and _part_of_list(path) and sum(map(bool, named[key])) >= LIST_SHARE * len(table.rows):
        return set().union(*named[key], _cases_of(key, known))  # without a header, its first line is a name, too
    if not key or n_named[key] < max(2, MIN_SHARE * len(cases)):
        if subject_column(table, []) or any(table.column(n) for n in (*SPLIT_NAMES, "fold")):
            shown = next((row[c] for _, row in table.rows for c in table.columns[:1]), "")
            found.remarks.append(
                f"{printable_path(path.name)} is not used: its names are not those of the cases, such as {shown[:40]!r}"
            )
        return set()
    others = [c for c in table.columns if c and c != key]
    # rows of a column of patients are patients: another column of identifiers, such as names, tells nothing more
    subject = None if subject_column(table, []) == key else subject_column(table, [key])
    given = {"subjects": subject, "parts": None, "folds": table.column("fold")}
    try:
        table = with_split(table, [key], path.name)
        given["parts"] = split_column(table, [key], path.name) or None
    except DataError as error:
        found.remarks.append(f"the split of {printable_path(path.name)} is not used: {error}")
    used = [
        kind
        for kind, c in given.items()
        if c and (c in others or kind == "parts") and not getattr(found, kind)
        if _take(path.name, kind, c, table, named[key], cases, found)
    ]
    if used:
        found.remarks.append(f"{' and '.join(used)}{USED}{printable_path(path.name)}")
    return set()


def _take(
    name: str,
    kind: str,
    column: str,
    table: Table,
    named: Sequence[set[str]],
    cases: Mapping[str, Iterable[str]],
    found: Assignments,
) -> bool:
    """Add the values of a column, if all cases have one each; otherwise a remark. Return whether they were added."""
    values: dict[str, set[str]] = {}
    for (_, row), of in zip(table.rows, named, strict=True):
        cell = row[column]
        value = "" if is_blank(cell) else part_of(cell) or "" if kind == "parts" else cell
        for case in of if value else ():
            values.setdefault(case, set()).add(value)
    shown = f"the column {column} of {printable_path(name)} is not used"
    all_values = {v for of in values.values() for v in of}
    if several := sorted(case for case, of in values.items() if len(of) > 1):
        found.remarks.append(f"{shown}: it has several values for {several[0]}")
    elif absent := sorted(set(cases) - set(values)):
        found.remarks.append(f"{shown}: it has no value for {len(absent)} of {len(cases)} cases, such as {absent[0]}")
    elif kind == "folds" and not all(v.lstrip("-").isdecimal() for v in all_values):
        found.remarks.append(f"{shown}: its values are no numbers of folds")
    elif len(all_values) < 2:
        found.remarks.append(f"{shown}: all cases have {next(iter(all_values), 'no value')}")
    elif kind == "parts" and sum("train" in of for of in values.values()) < 2:
        found.remarks.append(f"{shown}: fewer than two cases are for training")
    else:
        getattr(found, kind).update({case: next(iter(of)) for case, of in values.items()})
        return True
    return False


def _read_lists(
    root: Path,
    known: Mapping[str, set[str]],
    cases: Mapping[str, Iterable[str]],
    found: Assignments,
    tables: Mapping[Path, set[str]],
) -> None:
    """Add the parts of lists such as `train.txt`, `val.txt` and `test_ids.csv`; otherwise remarks.

    Cases of a list for testing are kept for testing, also beside other lists.
    """
    listed = dict(tables)
    for path in sorted(root.rglob(LISTS), key=lambda p: (_part_of_list(p) is None, p))[:MAX_LISTS]:
        lines = [line for line in _lines(path) if line.strip()]
        named = [_cases_of(line, known) or _cases_of(line.split()[0], known) for line in lines]
        if named and sum(map(bool, named)) >= LIST_SHARE * len(named):
            listed[path] = set().union(*named)
    by_part: dict[str, set[str]] = {}
    for path, of in listed.items():
        if part := _part_of_list(path):
            by_part.setdefault(part, set()).update(of)
    train, validation, test = (by_part.get(part, set()) for part in ("train", "validation", "test"))
    if test in (train, validation):
        test = set()
    train, validation = train - test, validation - train - test
    rest = set(cases) - train - validation - test
    is_whole = not rest and len(train) > 1 and bool(validation)
    keeps_tests = len(test) > 0 and len(set(cases) - test - validation) > 1
    shown = {path: printable_path(path.relative_to(root)) for path in listed}
    if (
        sum(part == "train" and c not in test for c, part in found.parts.items()) > 1 and test
    ):  # beside parts of a table
        found.parts |= dict.fromkeys(test, "test")
        found.remarks.append(f"{len(test)} cases of a list for testing are kept for testing")
    elif not found.parts and (is_whole or keeps_tests):
        found.parts = {c: "test" if c in test else "validation" if c in validation else "train" for c in cases}
        used = [path for path in listed if _part_of_list(path)]
        found.remarks.append(f"parts are those of {', '.join(shown[p] for p in used[:5])}")
        if rest and train:
            found.remarks.append(f"{len(rest)} cases are in no list, and train: {min(rest)}")
        return
    found.remarks += [
        f"{name} lists {len(of)} cases, and is not used: give folds in splits.json"
        for name, of in list(zip(shown.values(), listed.values(), strict=True))[:MAX_SHOWN]
    ]


def _part_of_list(path: Path) -> str | None:
    """Return the part that the name of a list has a word for, such as `train_list.txt` or `subgroup_testing.txt`."""
    words = [re.sub(r"(?:(?<=test)list|(?<=train)list)?\d*$", "", w) for w in words_of(path.stem)]
    return part_of(path.stem) or part_of("_".join(w for w in words if len(w) > 1 and w not in LIST_WORDS))


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; none if it is large or cannot be read."""
    try:
        check_file(path)
        return decode_text(path.read_bytes()).split("\n") if path.stat().st_size <= MAX_LIST_BYTES else []
    except (OSError, UnicodeError, MedHybridError):
        return []
