"""Tables with a line for each file of a case, such as `patient,modality,path`, as tables with a line for each case."""

from __future__ import annotations

import re
from itertools import combinations

from medhybrid.draft.words import MASK_WORDS, words_of
from medhybrid.tables import Table

MAX_KINDS = 12
"""Largest number of images and masks of a case."""

PERSON_WORDS = frozenset({"patient", "subject", "participant", "person", "individual", "volunteer"})

KEY_WORDS = PERSON_WORDS | {"case", "scan", "id", "study", "series", "visit", "name"}
"""Words of columns that are tried first."""

MAX_KEYS = 2
"""Largest number of columns that name a case together, such as those of the patient and the visit."""


def as_wide(table: Table, file_column: str) -> Table | None:
    """Return a table with a line for each case and a column for each kind of file; None if the table has another form.

    A column tells the kind: it has a word for masks and other words, and each case has each kind once at most. Columns with one
    value for each case, such as the split, are kept.

    Parameters
    ----------
    file_column : str
        Only column of files.
    """
    others = [c for c in table.columns if c and c != file_column]
    for kind in others:
        kinds = list(dict.fromkeys(row[kind] for _, row in table.rows))
        n_masks = sum(map(_is_mask, kinds))
        if not 2 <= len(kinds) <= MAX_KINDS or not 0 < n_masks < len(kinds) or "" in kinds:
            continue
        rest = sorted((c for c in others if c != kind), key=lambda c: not KEY_WORDS & set(words_of(c)))
        for n in range(1, MAX_KEYS + 1):
            for keys in combinations(rest, n):
                if (wide := _pivoted(table, keys, kind, file_column)) is not None:
                    return wide
    return None


def _pivoted(table: Table, keys: tuple[str, ...], kind: str, file_column: str) -> Table | None:
    lines: dict[str, tuple[int, dict[str, str]]] = {}
    for number, row in table.rows:
        if not all(row[k] for k in keys):
            return None
        case = "_".join(row[k] for k in keys)
        _, made = lines.setdefault(case, (number, {"case": case, **{k: row[k] for k in keys}}))
        column = _column_of(row[kind])
        if column in made:
            return None  # two files of one kind: the case has another name
        made[column] = row[file_column]
    kinds = list(dict.fromkeys(_column_of(row[kind]) for _, row in table.rows))
    others = [c for c in table.columns if c and c not in (*keys, kind, file_column, "case", *kinds)]
    values: dict[tuple[str, str], set[str]] = {}
    for _, row in table.rows:
        for c in others:  # merged cells have their text in the first line only
            values.setdefault(("_".join(row[k] for k in keys), c), set()).update({row[c]} - {""})
    kept = [c for c in others if all(len(values[case, c]) <= 1 for case in lines)]
    if any(PERSON_WORDS & set(words_of(c)) for c in others if c not in kept):
        return None  # a case of several persons: these columns name no cases
    for case, (_, made) in lines.items():
        made |= {c: next(iter(values[case, c]), "") for c in kept}
    if len(lines) < 2 or 2 * len(lines) > len(table.rows):
        return None
    columns = ("case", *(k for k in keys if k != "case"), *kept, *kinds)
    rows = tuple((n, {c: made.get(c, "") for c in columns}) for n, made in lines.values())
    return Table(columns, rows, table.separator)


def _column_of(kind: str) -> str:
    return "mask" if _is_mask(kind) else re.sub(r"\W+", "_", kind)


def _is_mask(kind: str) -> bool:
    return not MASK_WORDS.isdisjoint(words_of(kind))
