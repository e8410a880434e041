"""Reading of CSV tables as spreadsheets save them, in any common encoding and with any common separator."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from medhybrid.errors import DataError, reason_of
from medhybrid.files import check_file, read_cell

SEPARATORS = (",", ";", "\t")

NAMED_SEPARATOR = re.compile(r"\s*sep=([,;\t])\r?\n")

WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of Excel and OpenDocument files, which users sometimes rename to .csv."""

QUOTED = re.compile(r'"[^"]*"')

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Table:
    """Column names and rows of a table, as texts without surrounding spaces.

    Attributes
    ----------
    columns : tuple of str
        Names from the first line.
    rows : tuple of (int, dict)
        Line number in the file, and cells by column. Cells beyond the columns have an empty column name.
    separator : str
        Separator of the cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    separator: str = ","

    def column(self, name: str) -> str | None:
        """Return the column with a name, ignoring case and Unicode form if only one column matches; None without a match."""
        if name in self.columns:
            return name
        alike = [c for c in self.columns if _form_of(c) == _form_of(name)]
        return alike[0] if len(alike) == 1 else None


def read_table(path: Path) -> Table:
    """Read a CSV table: UTF-8, UTF-16 or Latin-1; commas, semicolons or tabs.

    The apostrophe before a text that would be a formula is removed; medhybrid and spreadsheets write it.

    Raises
    ------
    DataError
        If it cannot be read, has no column names, or has two columns with the same name.
    """
    text, separator, first = _open(path)
    lines = _split(text, separator, path.name, first)
    numbered = [(n, cells) for n, cells in lines if any(c.strip() for c in cells)]
    if not numbered:
        raise DataError(f"{path.name} is an empty table", expected="a line with column names and a line for each case")
    columns = tuple(read_cell(c.strip()) for c in numbered[0][1])
    _refuse_swallowed(numbered, separator, path.name)
    named = [c for c in columns if c]
    if doubled := sorted({c for c in named if named.count(c) > 1}):
        raise DataError(
            f"{path.name} has two columns with the same name", found=", ".join(doubled), remedy="rename one"
        )
    rows = []
    for n, cells in numbered[1:]:
        padded = [*cells, *[""] * (len(columns) - len(cells))]
        row = {c: read_cell(cell.strip()) for c, cell in zip(columns, padded, strict=False) if c}
        beyond = " ".join(cell.strip() for cell in cells[len(columns) :]).strip()
        rows.append((n, row | ({"": beyond} if beyond else {})))
    return Table(columns, tuple(rows), separator)


def has_column(path: Path, name: str) -> bool:
    """Return whether the first line of a table has a column, ignoring case and errors in the other lines."""
    try:
        text, separator, _ = _open(path)
    except DataError:
        return False
    line = next((line for line in text.splitlines() if line.strip()), "")
    return _form_of(name) in (_form_of(cell.strip().strip('"')) for cell in line.split(separator))


def _form_of(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _open(path: Path) -> tuple[str, str, int]:
    """Return the text of a table from the line of column names, its separator, and the number of that line."""
    try:
        check_file(path)
        content = path.read_bytes()
        if content.startswith(WORKBOOKS):
            raise DataError(
                f"{path.name} is a workbook, not a CSV table",
                expected="a text file",
                found="an Excel or OpenDocument file, or an archive",
                remedy="save it as UTF-8 CSV",
            )
        text = decode_text(content)
    except (OSError, UnicodeDecodeError) as error:
        found = str(error.strerror if isinstance(error, OSError) else error)
        raise DataError(f"{path.name} cannot be read as a table", found=found, remedy="save it as UTF-8 CSV") from error
    prefix = NAMED_SEPARATOR.match(text)  # Excel writes it before the line of column names
    text = text[prefix.end() :] if prefix else text
    columns_line: str = QUOTED.sub("", next((line for line in text.splitlines() if line.strip()), ""))
    return text, prefix[1] if prefix else max(SEPARATORS, key=columns_line.count), 2 if prefix else 1


def _split(text: str, separator: str, name: str, first: int) -> list[tuple[int, list[str]]]:
    """Return the cells of each row with the number of its first line; `first` is the number of the text's first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found, begin = [], 0
    try:
        for cells in reader:
            found.append((first + begin, cells))
            begin = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"{name}: line {first + begin} cannot be read",
            expected="a closing quotation mark before the next separator, in each cell that starts with one",
            found=reason_of(error),
            remedy="close the quotation mark, or remove it",
        ) from error
    return found


def _refuse_swallowed(rows: Sequence[tuple[int, list[str]]], separator: str, name: str) -> None:
    """Raise `DataError` for a cell of several lines with the separators of a whole row: its quotation mark is not closed.

    In rows with the right number of cells, separators before a space do not count, since prose has them. They count if
    other rows of the table have them.
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
                    f"{name}: line {line} has a cell that contains the next line",
                    found=cell.splitlines()[1][:60],
                    remedy="close the quotation mark at its end, or remove the one at its start; in a remark of several "
                    f"lines, write a space after each {separator!r}",
                )


def decode_text(content: bytes) -> str:
    """Decode a text file by its byte-order mark, else as UTF-8, UTF-16 without a mark, or Latin-1."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    if content[1:2] == b"\0" or content[:1] == b"\0":
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace") if b"\x81" not in content else content.decode("latin-1")
