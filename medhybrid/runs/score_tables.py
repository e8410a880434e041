"""Reading of the score tables of `train` and `evaluate`, also after a spreadsheet saved them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from medhybrid.errors import DataError, reason_of
from medhybrid.files import read_cell
from medhybrid.names import printable_path
from medhybrid.tables import read_table


def read_scores(path: Path, columns: Sequence[str] = ("case", "dice")) -> list[dict[str, str]]:
    """Read the rows of a table of scores; raises `DataError` if it is damaged."""
    try:
        table = read_table(path)
    except DataError as error:
        raise DataError(
            f"{printable_path(path)} cannot be read as a table of scores", found=reason_of(error)
        ) from error
    return _with_numbers([row for _, row in table.rows], columns, printable_path(path))


def rows_of_scores(text: str, source: str) -> list[dict[str, str]]:
    """Parse the text of a `validation.csv`; raises `DataError` if it is damaged."""
    return _with_numbers(read_rows(text), ("case", "dice"), source)


def read_rows(text: str) -> list[dict[str, str]]:
    """Parse the text of a table that medhybrid wrote."""
    lines = [[read_cell(cell) for cell in cells] for cells in csv.reader(text.splitlines())]
    return [dict(zip(lines[0], cells, strict=False)) for cells in lines[1:] if cells]


def _with_numbers(rows: list[dict[str, str]], columns: Sequence[str], source: str) -> list[dict[str, str]]:
    """Return rows, after checking that their columns have a case and numbers."""
    for line, row in enumerate(rows, start=2):
        for name in columns:
            if not row.get(name) or (name not in ("case", "label") and not _is_number(row[name])):
                raise DataError(
                    f"{source} is not a table of scores of medhybrid",
                    expected=f"columns {', '.join(columns)}, with numbers",
                    found=f"line {line}: {name} is {row.get(name)!r}",
                    remedy="restore the file, or run medhybrid evaluate or train again",
                )
    if not rows:
        raise DataError(f"{source} has no scores", remedy="run medhybrid evaluate or train again")
    return rows


def _is_number(text: str) -> bool:
    try:
        return bool(isfinite(float(text)))
    except ValueError:
        return False


def dice_by_case(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return the Dice of each case of a `validation.csv`."""
    return {row["case"]: float(row["dice"]) for row in rows}


def references_by_case(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Return the volume in ml of each label in each case's reference of a `validation.csv`, where recorded."""
    start = "reference ml "
    return {
        r["case"]: {
            k.removeprefix(start): float(v) for k, v in r.items() if k and k.startswith(start) and _is_number(v)
        }
        for r in rows
    }
