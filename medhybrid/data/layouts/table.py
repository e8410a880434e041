"""CSV table of cases, with columns `case`, `mask` and one for each channel.

Optional columns are `subject`, `fold`, `split`, and `labels` with the labels that the mask of a case has. Files with several
channels are in a column `image` in place of those of the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.channels import TABLE as CHANNEL_TABLE
from medhybrid.data.layouts.case import Case, Files, Listing, NoMaskError, Note, missing_channels, named_case, read_fold
from medhybrid.data.layouts.case_labels import EVERY_LABEL, CaseLabelsError, read_annotated
from medhybrid.data.layouts.label_files import files_of_cell
from medhybrid.data.layouts.part_columns import with_parts
from medhybrid.data.layouts.parts import SPLIT_NAMES, fold_or_part, part_of
from medhybrid.errors import DataError
from medhybrid.files import find_in_any_form
from medhybrid.names import check_case_name, printable_path, same_file_name
from medhybrid.owned import contents_of, is_made_here
from medhybrid.scans.context import TABLE as CONTEXT_TABLE
from medhybrid.tables import Table, has_column, read_table

EMPTY_WORDS = ("na", "n/a", "n.a.", "nan", "none", "null", "nil", "#n/a", "<na>", "-", "--", "\u2013", "\u2014")
"""Words for an empty cell, in lower case."""

NO_LISTS = (CHANNEL_TABLE, CONTEXT_TABLE)
"""Tables in a dataset's folder that do not list the cases."""


WHOLE = "image"
"""Column of files that hold all channels."""


def find_tables(root: Path) -> list[Path]:
    """Return the CSV tables of a folder that may list the cases."""
    ours = contents_of(root)
    found = [p for p in root.glob("*.[cC][sS][vV]") if p.name not in NO_LISTS and not p.name.startswith(".")]
    return sorted(p for p in found if not is_made_here(p, ours))


def has_table(root: Path, config: DataConfig) -> bool:
    """Return whether a table of a folder lists cases: it has a column `case`, and `mask` or a channel."""
    return any(_lists_cases(path, config) for path in find_tables(root))


def _lists_cases(path: Path, config: DataConfig) -> bool:
    """Return whether a table has columns for files of cases, as opposed to a table of other values, such as their age."""
    names = ("mask", WHOLE, *(c.name for c in config.channels))
    return has_column(path, "case") and any(has_column(path, n) for n in names)


def is_blank(text: str) -> bool:
    """Return whether a cell is empty, or has a word for it."""
    return not text or text.casefold() in EMPTY_WORDS


def list_table(config: DataConfig, root: Path) -> Listing:
    """List the cases of a table. A row that cannot be used is a case with a problem.

    Raises
    ------
    DataError
        If the folder does not have exactly one table of cases, or columns are missing.
    """
    path, table = _only_table(root, config)
    table = with_split(table, [c.name for c in config.channels], printable_path(path.name))
    wanted = ["case", *(["mask"] if config.labelled else []), *_wanted_columns(table, config)]
    if absent := [c for c in wanted if table.column(c) is None]:
        raise DataError(
            f"{printable_path(path.name)} lacks columns: {', '.join(absent)}",
            expected=", ".join(wanted),
            found=", ".join(c for c in table.columns if c),
            remedy="add them; if the table is not a list of cases, set data.layout to nnunet, decathlon or studies",
        )
    split = split_column(table, [c.name for c in config.channels], printable_path(path.name))
    subject = table.column("subject")
    has_subjects = subject is not None and not all(is_blank(row[subject]) for _, row in table.rows)
    cases: list[tuple[Case, str | None]] = []
    testing: list[Case] = []
    rows = _without_repetitions(table, config, split)
    of_labels = _labels_column(table, config)
    for line, row in rows:
        case = _case_of(row, line, table, config, path, has_subjects=has_subjects)
        if of_labels is not None:
            case = _with_labels(case, row[of_labels], config, f"line {line}")
        part = part_of(row[split]) if split else None
        if split and part is None:
            problem = DataError(
                f"case {case.name}: line {line} has no valid `{split}`",
                expected=f"train, val or test in the column `{split}`",
                remedy="fill the cell, or rename the column",
            )
            is_free = case.problem is None or isinstance(case.problem, NoMaskError)
            case = replace(case, problem=problem if is_free else case.problem)
        if part == "test":
            testing.append(case)
        else:
            cases.append((case, part))
    listed, on_folds = fold_or_part(cases, split, printable_path(path.name))
    notes = [*_notes(table, config, split, testing, path.name), *on_folds]
    if n := len(table.rows) - len(rows):
        notes.append(Note(path.name, f"{n} lines are duplicates; each is used once"))
    if unknown := [c for c in testing if has_subjects and c.problem and not isinstance(c.problem, NoMaskError)]:
        message = f"{len(unknown)} cases for testing have errors: others of the same subject or image may train"
        found = "; ".join(str(c.problem) for c in unknown)[:300]
        notes.append(Note(path.name, message, found, "correct the lines"))
    return Listing(tuple(_without_tests(listed, [c.name for c in testing])), tuple(notes), tuple(testing))


def _has_whole(table: Table, config: DataConfig) -> bool:
    """Return whether a table has one column of files with all channels."""
    return (
        len(config.channels) > 1
        and table.column(WHOLE) is not None
        and all(table.column(c.name) is None for c in config.channels)
    )


def _wanted_columns(table: Table, config: DataConfig) -> list[str]:
    return [WHOLE] if _has_whole(table, config) else [c.name for c in config.channels if not c.optional]


def _cell(row: dict[str, str], table: Table, name: str) -> str:
    column = table.column(name)
    return "" if column is None else row.get(column, "")


def _without_repetitions(table: Table, config: DataConfig, split: str) -> list[tuple[int, dict[str, str]]]:
    """Return the rows without duplicates in the columns that are used."""
    names = ["case", "mask", "subject", "fold", "labels", split, "", WHOLE, *(c.name for c in config.channels)]
    first: dict[tuple[str, ...], tuple[int, dict[str, str]]] = {}
    for line, row in table.rows:
        first.setdefault(tuple(_cell(row, table, n) if n else row.get("", "") for n in names), (line, row))
    return list(first.values())


def with_split(table: Table, channels: Sequence[str], name: str) -> Table:
    """Return a table with its columns of yes and no for parts (`is_test`) as one column `split`, if it has no such column."""
    if split_column(table, channels, name):
        return table
    taken = {table.column(n) for n in ("case", "mask", "subject", "fold", "labels", *channels)}
    return with_parts(table, [c for c in taken if c], name)


def split_column(table: Table, channels: Sequence[str], name: str) -> str:
    """Return the column that assigns cases to training, validation and testing; empty without such a column.

    Without a column of `SPLIT_NAMES`, another one counts if all of its cells are words for parts, and one is for testing.

    Raises
    ------
    DataError
        If a cell has another word, or a second such column contradicts it.
    """
    taken = {c.casefold() for c in channels}
    columns = [c for name in SPLIT_NAMES if name not in taken and (c := table.column(name)) is not None]
    found = [c for c in columns if any(part_of(row[c]) for _, row in table.rows)]
    if coded := [c for c in columns if c not in found and _has_codes(table, c)]:
        raise DataError(
            f"{name}: the column `{coded[0]}` has numbers, which do not show what is for testing",
            expected="train, val or test",
            found=", ".join(sorted({row[coded[0]] for _, row in table.rows} - {""})[:5]),
            remedy="write these words in their place; if the numbers are folds, name the column `fold`; otherwise rename it",
        )
    if not found:
        others = {table.column(n) for n in ("case", "mask", "subject", "fold")}
        unnamed = [c for c in table.columns if c and c not in others and c.casefold() not in taken]
        found = [c for c in unnamed if _has_parts_alone(table, c)]
    for line, row in table.rows:
        if found and not is_blank(row[found[0]]) and part_of(row[found[0]]) is None:
            raise DataError(
                f"{name}: line {line} has no valid `{found[0]}`",
                expected=f"train, val or test in the column `{found[0]}`, as in other lines",
                found=ascii(row[found[0]])[:60],
                remedy="use one of these words, or rename the column",
            )
        if len({part for c in found if (part := part_of(row[c]))}) > 1:
            raise DataError(
                f"{name}: line {line} assigns its case to two parts",
                expected="the same part in all of these columns",
                found=", ".join(f"{c}: {row[c]}" for c in found)[:100],
                remedy="correct the line, or rename the column that should be ignored",
            )
    return found[0] if found else ""


def _has_codes(table: Table, column: str) -> bool:
    """Return whether a column has several different numbers and nothing else."""
    values = {row[column] for _, row in table.rows if not is_blank(row[column])}
    return len(values) > 1 and all(v.isdecimal() for v in values)


def _has_parts_alone(table: Table, column: str) -> bool:
    """Return whether a column assigns lines to training or validation and to testing, and has no other words."""
    words = [row[column] for _, row in table.rows if not is_blank(row[column])]
    parts = {part_of(w) for w in words}
    return None not in parts and "test" in parts and len(parts) > 1


def _labels_column(table: Table, config: DataConfig) -> str | None:
    """Return the column with the labels of each case; None if it is absent or empty, or it is a channel's."""
    column = table.column("labels")
    if column is None or column in {table.column(c.name) for c in config.channels}:
        return None
    return None if all(is_blank(row[column]) for _, row in table.rows) else column


def _with_labels(case: Case, cell: str, config: DataConfig, where: str) -> Case:
    """Set the labels that a case has; add a problem if its cell is empty while others are not, or has unknown names."""
    if case.mask is None:
        return case
    try:
        if is_blank(cell):
            raise CaseLabelsError(
                f"case {case.name}: {where} has no labels, while other lines have",
                expected=f"the labels that its mask has, or `{EVERY_LABEL}`",
                remedy="fill the cell in the column `labels`",
            )
        return replace(case, annotated=read_annotated(cell, config, where=f"case {case.name}, {where}, column labels"))
    except CaseLabelsError as error:
        return replace(case, problem=case.problem or error) if config.labelled else case


def _without_tests(cases: Sequence[Case], testing: Sequence[str]) -> list[Case]:
    """Add a problem to cases that are also listed for testing, and must not train."""
    tests = {same_file_name(name) for name in testing}
    return [
        replace(
            c,
            problem=c.problem
            or DataError(f"case {c.name}: another line lists it for testing", remedy="remove one of the lines"),
        )
        if same_file_name(c.name) in tests
        else c
        for c in cases
    ]


def _notes(table: Table, config: DataConfig, split: str, testing: Sequence[Case], name: str) -> list[Note]:
    """Return notes on cases for testing, and on columns that are not used."""
    notes = [Note(name, f"{len(testing)} cases for testing are skipped")] if testing else []
    whole = [WHOLE] if _has_whole(table, config) else []
    columns = ("case", "mask", "subject", "fold", "labels", *whole, *(c.name for c in config.channels))
    used = {table.column(c) for c in columns}
    if unused := [c for c in table.columns if c and c not in used and c != split]:
        absent = [] if whole else [c.name for c in config.channels if table.column(c.name) is None]
        remedy = f"the table has no column {', '.join(absent)}; this channel is missing in every case" if absent else ""
        notes.append(Note(name, f"{len(unused)} columns are not used", ", ".join(unused)[:200], remedy))
    return notes


def _only_table(root: Path, config: DataConfig) -> tuple[Path, Table]:
    """Return the table of cases. Of several tables, exactly one must have a column `case` and columns of files."""
    paths = find_tables(root)
    if len(paths) == 1:
        return paths[0], read_table(paths[0])
    found = [path for path in paths if _lists_cases(path, config)]
    if len(found) != 1:
        raise DataError(
            f"{printable_path(root)} does not contain exactly one table of cases",
            expected="one CSV table with the columns `case`, and `mask` or a channel",
            found=", ".join(printable_path(p.name) for p in found) or "none",
        )
    return found[0], read_table(found[0])


def _case_of(
    row: dict[str, str], line: int, table: Table, config: DataConfig, path: Path, *, has_subjects: bool
) -> Case:
    def cell(name: str) -> str:
        text = _cell(row, table, name)
        if name == "case" or not is_blank(text):
            return text
        return text if name not in ("subject", "fold") and (path.parent / text).is_file() else ""

    where = f"line {line}"
    name, subject, problem = named_case(cell("case"), config, source=printable_path(path.name), where=where)
    columns = [WHOLE] if _has_whole(table, config) else [c.name for c in config.channels]
    images: tuple[Files | None, ...] = tuple(_files(path.parent, cell(c)) for c in columns)
    mask = files_of_cell(text, lambda t: _path(path.parent, t)) if (text := cell("mask")) and "\0" not in text else None
    fold = None
    try:
        fold = read_fold(cell("fold"))
        if cell("subject") and "\0" not in cell("subject"):
            subject = check_case_name(cell("subject"), source=f"{path.name}, {where}, column subject")
        elif has_subjects:
            raise DataError(
                f"case {name}: {where} has no subject, while other lines have one",
                expected="a subject in each line, or in none",
                remedy="fill the cell: of merged cells, a spreadsheet saves the text only in the first line",
            )
        if row.get(""):
            raise DataError(
                f"case {name}: {where} has more cells than columns",
                found=row[""][:60],
                remedy="quote cells that contain the separator",
            )
        if any("\0" in text for text in row.values()):
            raise DataError(f"case {name}: {where} has a cell with a zero byte", remedy="save the table again")
        if not any(images):
            raise DataError(f"case {name}: {where} has no image", expected=", ".join(c.name for c in config.channels))
        if missing := missing_channels(config, name, images, f"{path.name}, {where}"):
            raise missing
        if mask is None and config.labelled:
            raise NoMaskError(f"case {name}: {where} has no mask", remedy="fill the column `mask`, or remove the line")
    except DataError as error:
        problem = problem or error
    return Case(name, subject, images, mask, problem=problem, is_labelled=mask is not None, fold=fold)


def _files(root: Path, cell: str) -> Files | None:
    """Return the file of a cell, or the folder with one DICOM series. Relative paths are relative to the table's folder."""
    if not cell or "\0" in cell:
        return None
    return Files((_path(root, cell),))


def _path(root: Path, cell: str) -> Path:
    if "\\" in cell and not (root / cell).exists():  # Windows paths
        cell = cell.replace("\\", "/")
    return find_in_any_form(root / cell)
