"""Tables that people write: CSV as spreadsheets save it, whatever the encoding and the separator."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from medhybrid.errors import DataError
from medhybrid.files import check_file, read_cell

SEPARATORS = (",", ";", "\t")

NAMED_SEPARATOR = re.compile(r"\s*sep=([,;\t])\r?\n")

WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of spreadsheets' own files, which people rename to .csv."""

QUOTED = re.compile(r'"[^"]*"')

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Table:
    """Column names and rows of a table, as text without surrounding spaces.

    Attributes
    ----------
    columns : tuple of str
        From the first line.
    rows : tuple of (int, dict)
        The number of the line in the file, and column to cell. Cells beyond the columns stand under an empty name.
    separator : str
        What stands between the cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    separator: str = ","

    def column(self, name: str) -> str | None:
        """Return the column of a name, its case ignored if only one fits; None if there is none."""
        if name in self.columns:
            return name
        alike = [c for c in self.columns if c.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None


def read_table(path: Path) -> Table:
    """Read a CSV table: UTF-8, UTF-16 or Latin-1; commas, semicolons or tabs.

    The apostrophe before what would be a formula is left out, as this program writes it and spreadsheets do.

    Raises
    ------
    DataError
        If it cannot be read, has no column names, or two of one name.
    """
    text, separator, first = _open(path)
    lines = _split(text, separator, path.name, first)
    numbered = [(n, cells) for n, cells in lines if any(c.strip() for c in cells)]
    if not numbered:
        raise DataError(f"{path.name} is an empty table", expected="a line of column names, and a line for each case")
    columns = tuple(read_cell(c.strip()) for c in numbered[0][1])
    _refuse_swallowed(numbered, separator, path.name)
    named = [c for c in columns if c]
    if doubled := sorted({c for c in named if named.count(c) > 1}):
        raise DataError(f"{path.name} has two columns of one name", found=", ".join(doubled), remedy="rename one")
    rows = []
    for n, cells in numbered[1:]:
        padded = [*cells, *[""] * (len(columns) - len(cells))]
        row = {c: read_cell(cell.strip()) for c, cell in zip(columns, padded, strict=False) if c}
        beyond = " ".join(cell.strip() for cell in cells[len(columns) :]).strip()
        rows.append((n, row | ({"": beyond} if beyond else {})))
    return Table(columns, tuple(rows), separator)


def has_column(path: Path, name: str) -> bool:
    """Whether the first line of a table names a column, whatever is wrong with the others; its case is ignored."""
    try:
        text, separator, _ = _open(path)
    except DataError:
        return False
    line = next((line for line in text.splitlines() if line.strip()), "")
    return name.casefold() in (cell.strip().strip('"').casefold() for cell in line.split(separator))


def _open(path: Path) -> tuple[str, str, int]:
    """Return the text of a table from its columns on, its separator, and the number of its first line."""
    try:
        check_file(path)
        content = path.read_bytes()
        if content.startswith(WORKBOOKS):
            raise DataError(
                f"{path.name} is a workbook, and no CSV table",
                expected="text",
                found="an Excel or OpenDocument file, or an archive",
                remedy="save it as UTF-8 CSV",
            )
        text = decode_text(content)
    except (OSError, UnicodeDecodeError) as error:
        found = str(error.strerror if isinstance(error, OSError) else error)
        raise DataError(f"{path.name} cannot be read as a table", found=found, remedy="save it as UTF-8 CSV") from error
    prefix = NAMED_SEPARATOR.match(text)  # as Excel writes it before the columns
    text = text[prefix.end() :] if prefix else text
    columns_line: str = QUOTED.sub("", next((line for line in text.splitlines() if line.strip()), ""))
    return text, prefix[1] if prefix else max(SEPARATORS, key=columns_line.count), 2 if prefix else 1


def _split(text: str, separator: str, name: str, first: int) -> list[tuple[int, list[str]]]:
    """Return the cells of each row, with the number of the line that it begins in; `first` is that of the text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found, begin = [], 0
    try:
        for cells in reader:
            found.append((first + begin, cells))
            begin = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{name}: line {first + begin} cannot be read",
            expected="cells that begin with a quotation mark to end with one, before the next separator",
            found=str(error),
            remedy="close the quotation mark, or remove it",
        ) from error
    return found


def _refuse_swallowed(rows: Sequence[tuple[int, list[str]]], separator: str, name: str) -> None:
    """Raise `DataError` for a cell with the separators of a whole row in several lines: its quotation mark stayed open.

    Where the row has its number of cells, separators with a space after them, as in prose, do not count, unless rows of
    the table are written so.
    """
    single = [cells for _, cells in rows if not any(len(cell.splitlines()) > 1 for cell in cells)]
    n_in_row = min(len(rows[0][1]), median_low([len(c) for c in single]) if single else len(rows[0][1])) - 1
    is_spaced = any(cell.startswith(" ") and cell.strip() for cells in single for cell in cells[1:])
    for line, cells in rows:
        may_be_prose = len(cells) == len(rows[0][1]) and not is_spaced
        for cell in cells:
            n = cell.count(separator) - (cell.count(f"{separator} ") if may_be_prose else 0)
            if len(cell.splitlines()) > 1 and n >= max(n_in_row, 1):
                raise DataError(
                    f"{name}: line {line} has a cell that holds the next line",
                    found=cell.splitlines()[1][:60],
                    remedy="close the quotation mark at its end, or remove the one at its beginning; in a remark of several "
                    f"lines, write a space after each {separator!r}",
                )


def decode_text(content: bytes) -> str:
    """Return the text of a file by its byte-order mark, else as UTF-8, as UTF-16 without a mark, or as Latin-1."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    if content[1:2] == b"\0" or content[:1] == b"\0":
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace") if b"\x81" not in content else content.decode("latin-1")
