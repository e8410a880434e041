"""Text files that are whole or not there: written under another name, then renamed; and what is no file to be read."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medhybrid.errors import OutputError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a text begins that a spreadsheet runs, and one that was written so that it does not."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def check_file(path: Path) -> None:
    """Raise `OSError` with its kind for what is no file: reading from a pipe, a socket or a device may wait for ever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "no plain file")
        raise OSError(errno.EINVAL, f"{path.name} is {kind}, and no file")


def check_present(path: Path) -> None:
    """Raise `OSError` that names a file which is not there, with the target of its link."""
    if not path.exists():
        is_link = path.is_symlink()
        what = f"is a link to {os.readlink(path)}, which is not there" if is_link else "is not there"
        raise FileNotFoundError(errno.ENOENT, f"{path.name} {what}")


def make_folder(path: Path, *, remedy: str = "choose another folder") -> Path:
    """A folder for results, and those above it; raises `OutputError` where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be made", found=error.strerror or str(error), remedy=remedy) from error
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write text, and its folder where there is none; raises `OSError`, and leaves no part of a file then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_name(
        f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}"
    )  # processes of containers share numbers
    try:
        pending.write_text(text, encoding="utf-8", errors="backslashreplace")
        pending.replace(path)
    except BaseException:
        pending.unlink(missing_ok=True)
        raise


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, the first of them the names of the columns, as `write_atomically` does."""
    write_atomically(path, text_of_csv(rows))


def text_of_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as the text of a CSV file, in which no text is a formula of a spreadsheet; `read_cell` undoes that."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_as_text(cell) for cell in row] for row in rows)
    return text.getvalue()


def _as_text(cell: Any) -> Any:
    """Return a cell; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = os.fspath(cell) if isinstance(cell, os.PathLike) else cell
    return f"'{text}" if isinstance(text, str) and FORMULA.match(text) and not NUMBER.fullmatch(text) else cell


def read_cell(text: str) -> str:
    """Return the text of a cell that `text_of_csv` wrote."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


@contextmanager
def held(path: Path, *, is_shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file, made where it is absent, that ends with the process; yields whether it is held.

    Where the system or the disk knows no such locks, it is taken as held.

    Parameters
    ----------
    is_shared : bool
        Others may share it, and nobody may hold it alone.
    wait : bool
        Wait until it is free, else give up at once.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield True
        return
    with path.open("a+") as file:  # on NFS a shared lock is one for reading
        kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
            has_it = True
        except BlockingIOError:
            has_it = False
        except OSError:
            has_it = True
        yield has_it


@contextmanager
def file_mode(mode: int) -> Iterator[None]:
    """Make files with permissions of `mode` in this process meanwhile, and folders with those to enter them, too.

    Parameters
    ----------
    mode : int
        As 0o600; processes that are started meanwhile inherit it.
    """
    before = os.umask(0o777 & ~(mode | (mode & 0o444) >> 2))
    try:
        yield
    finally:
        os.umask(before)


def read_mode(text: str) -> int:
    """Return the permissions that a text such as `0640` names; raises `ValueError`."""
    if not re.fullmatch("0?[0-7]{3}", text) or not int(text, 8) & 0o600 == 0o600:
        raise ValueError(f"{text!r} is no mode of files: expected three octal digits from 600 on, such as 0600 or 0640")
    return int(text, 8)
