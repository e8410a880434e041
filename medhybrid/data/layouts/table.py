"""A CSV table of cases: columns `case`, `mask`, optionally `subject` and `fold`, and one for each channel."""

from __future__ import annotations

from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.channels import TABLE as CHANNEL_TABLE
from medhybrid.data.layouts.case import Case, Files, Listing, missing_channels, named_case, read_fold
from medhybrid.errors import DataError
from medhybrid.names import check_case_name, printable_path
from medhybrid.owned import contents_of, is_made_here
from medhybrid.scans.context import TABLE as CONTEXT_TABLE
from medhybrid.tables import Table, has_column, read_table

NO_LISTS = (CHANNEL_TABLE, CONTEXT_TABLE)
"""Tables in a dataset's folder that do not list the cases."""


def find_tables(root: Path) -> list[Path]:
    """Return the CSV tables that may list the cases."""
    ours = contents_of(root)
    found = [p for p in root.glob("*.[cC][sS][vV]") if p.name not in NO_LISTS and not p.name.startswith(".")]
    return sorted(p for p in found if not is_made_here(p, ours))


def has_table(root: Path) -> bool:
    """Whether a table in a folder lists cases: it has a column `case`."""
    return any(has_column(path, "case") for path in find_tables(root))


def list_table(config: DataConfig, root: Path) -> Listing:
    """List the cases of a table; a row that cannot be used is a case with its problem.

    Raises
    ------
    DataError
        If there is not exactly one table of cases, or it lacks columns.
    """
    path, table = _only_table(root)
    wanted = ["case", *(["mask"] if config.labelled else []), *(c.name for c in config.channels if not c.optional)]
    if absent := [c for c in wanted if table.column(c) is None]:
        raise DataError(
            f"{printable_path(path.name)} lacks columns: {', '.join(absent)}",
            expected=", ".join(wanted),
            found=", ".join(c for c in table.columns if c),
        )
    return Listing(tuple(_case_of(row, line, table, config, path) for line, row in table.rows))


def _only_table(root: Path) -> tuple[Path, Table]:
    """Return the table of cases; of several, the only one with a column `case`."""
    paths = find_tables(root)
    if len(paths) == 1:
        return paths[0], read_table(paths[0])
    found = [path for path in paths if has_column(path, "case")]
    if len(found) != 1:
        raise DataError(
            f"{printable_path(root)} must hold one CSV table with a column `case`",
            expected="1",
            found=", ".join(printable_path(p.name) for p in found) or "none",
        )
    return found[0], read_table(found[0])


def _case_of(row: dict[str, str], line: int, table: Table, config: DataConfig, path: Path) -> Case:
    def cell(name: str) -> str:
        column = table.column(name)
        return "" if column is None else row.get(column, "")

    where = f"line {line}"
    name, subject, problem = named_case(cell("case"), config, source=printable_path(path.name), where=where)
    images: tuple[Files | None, ...] = tuple(_files(path.parent, cell(c.name)) for c in config.channels)
    mask = _files(path.parent, cell("mask"))
    fold = None
    try:
        if row.get(""):
            raise DataError(
                f"case {name}: {where} has more cells than there are columns",
                found=row[""][:60],
                remedy="quote cells that hold the separator",
            )
        if any("\0" in text for text in row.values()):
            raise DataError(f"case {name}: {where} has a cell with a zero byte", remedy="save the table again")
        if cell("subject"):
            subject = check_case_name(cell("subject"), source=f"{path.name}, {where}, column subject")
        if mask is None and config.labelled:
            raise DataError(f"case {name}: {where} names no mask", remedy="fill the column `mask`, or remove the line")
        if not any(images):
            raise DataError(f"case {name}: {where} names no image", expected=", ".join(c.name for c in config.channels))
        if missing := missing_channels(config, name, images, f"{path.name}, {where}"):
            raise missing
        fold = read_fold(cell("fold"))
    except DataError as error:
        problem = problem or error
    return Case(name, subject, images, mask, problem=problem, is_labelled=mask is not None, fold=fold)


def _files(root: Path, cell: str) -> Files | None:
    """Return the file that a cell names, or the folder with one DICOM series; relative paths start at the table."""
    if not cell or "\0" in cell:
        return None
    if "\\" in cell and not (root / cell).exists():  # as Windows writes paths
        cell = cell.replace("\\", "/")
    return Files((root / cell,))
