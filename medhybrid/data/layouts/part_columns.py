"""Columns of yes and no for whether a case is for training, validation or testing, such as `is_test`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from medhybrid.data.layouts.parts import part_of
from medhybrid.errors import DataError
from medhybrid.tables import Table

YES = frozenset({"1", "1.0", "true", "yes", "y", "t"})
NO = frozenset({"0", "0.0", "false", "no", "n", "f"})

ADDED = re.compile(r"^(?:is|in|for)[\W_]*(?=[a-z])|(?<=[a-z])[\W_]*set$", re.IGNORECASE)
"""Words beside that of the part: `is_test`, `in_test_set`."""

CLEAR = re.compile(f"{ADDED.pattern}|h[eo]ld", re.IGNORECASE)
"""Columns that mean a part also if they are alone."""

AMBIGUOUS = ("valid", "dev", "tr", "ts")
"""Words that may mean something else: a scan of good quality, a repetition time."""


def with_parts(table: Table, taken: Sequence[str], name: str) -> Table:
    """Return a table with the column `split` in place of its columns of yes and no for parts; the table itself without them.

    A case without yes is for training, or not used if a column marks the cases that train. A single column `test` may be the
    result of an examination, and does not count.

    Parameters
    ----------
    taken : sequence of str
        Columns with another meaning.

    Raises
    ------
    DataError
        If a line has yes in two parts.
    """
    columns = {c: part for c in table.columns if c and c not in taken and (part := _part_of_column(table, c))}
    if len(set(columns.values())) < 2 and not any(CLEAR.search(c) for c in columns):
        return table
    rest = "test" if "train" in columns.values() else "train"
    rows = []
    for line, row in table.rows:
        parts = {part for c, part in columns.items() if row[c].casefold() in YES}
        if len(parts) > 1:
            raise DataError(
                f"{name}: line {line} assigns its case to two parts",
                expected="yes in one of these columns",
                found=", ".join(f"{c}: {row[c]}" for c in columns)[:100],
                remedy="correct the line, or rename the column that should be ignored",
            )
        rows.append((line, row | {"split": next(iter(parts), rest)}))
    if all(row["split"] == "train" for _, row in rows):
        return table
    kept = tuple(c for c in table.columns if c not in columns and c != "split")
    return replace(table, columns=(*kept, "split"), rows=tuple(rows))


def _part_of_column(table: Table, column: str) -> str | None:
    """Return the part of a column of yes and no; None for another column."""
    word = ADDED.sub("", column).casefold()
    cells = {row[column].casefold() for _, row in table.rows}
    return part_of(word) if word not in AMBIGUOUS and cells and cells <= YES | NO else None
