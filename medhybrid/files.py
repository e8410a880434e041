"""Atomic writing of text and CSV files, locks, permissions, and checks of files to read."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import stat
import unicodedata
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
"""Start of a text that a spreadsheet would run as a formula, also with the apostrophes that prevent this."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def check_file(path: Path) -> None:
    """Raise `OSError` if a path is not a regular file: reading from a pipe, a socket or a device may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS if is_kind(mode)), "a special file")
        raise OSError(errno.EINVAL, f"{path.name} is {kind}, not a regular file")


def check_present(path: Path) -> None:
    """Raise `FileNotFoundError` with the name of an absent file, and the target of its link."""
    if not path.exists():
        is_link = path.is_symlink()
        what = f"is a link to {os.readlink(path)}, which does not exist" if is_link else "does not exist"
        raise FileNotFoundError(errno.ENOENT, f"{path.name} {what}")


def find_in_any_form(path: Path) -> Path:
    """Return the existing path whose names differ only in the Unicode form, as after a copy from macOS; else `path` itself."""
    if str(path).isascii() or os.path.lexists(path) or path.parent == path:
        return path
    parent, name = find_in_any_form(path.parent), unicodedata.normalize("NFC", path.name)
    try:
        alike = [n for n in os.listdir(parent) if unicodedata.normalize("NFC", n) == name]
    except OSError:
        return path
    return parent / alike[0] if len(alike) == 1 else path


def make_folder(path: Path, *, remedy: str = "choose another folder") -> Path:
    """Create a folder for results and its parents; raises `OutputError` if it cannot be created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be created", found=error.strerror or str(error), remedy=remedy) from error
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: under another name, then renamed. Creates its folder; raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_name(
        f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}"
    )  # process ids are not unique across containers
    try:
        pending.write_text(text, encoding="utf-8", errors="backslashreplace")
        pending.replace(path)
    except BaseException:
        pending.unlink(missing_ok=True)
        raise


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV with `write_atomically`; the first row has the column names."""
    write_atomically(path, text_of_csv(rows))


def text_of_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV text, with an apostrophe before texts that a spreadsheet would run; see `read_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_as_text(cell) for cell in row] for row in rows)
    return text.getvalue()


def _as_text(cell: Any) -> Any:
    """Return a cell, with an apostrophe before a text that a spreadsheet would run as a formula."""
    text = os.fspath(cell) if isinstance(cell, os.PathLike) else cell
    return f"'{text}" if isinstance(text, str) and FORMULA.match(text) and not NUMBER.fullmatch(text) else cell


def read_cell(text: str) -> str:
    """Return the text of a cell without the apostrophe that `text_of_csv` added."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


@contextmanager
def held(path: Path, *, is_shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Lock a file, which is created if absent, and yield whether the lock is held.

    The lock ends with the process. On systems and disks without file locks, the result is True.

    Parameters
    ----------
    is_shared : bool
        Take a shared lock; it excludes only exclusive locks.
    wait : bool
        Wait for the lock; otherwise yield False if it is taken.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX system
        yield True
        return
    with path.open("a+") as file:  # NFS grants a shared lock only on a file opened for reading
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
    """Set the permissions of files and folders created within the context; folders also get execute permission.

    Parameters
    ----------
    mode : int
        For example 0o600. Processes started within the context inherit it.
    """
    before = os.umask(0o777 & ~(mode | (mode & 0o444) >> 2))
    try:
        yield
    finally:
        os.umask(before)


def read_mode(text: str) -> int:
    """Parse permissions such as `0640`; raises `ValueError`."""
    if not re.fullmatch("0?[0-7]{3}", text) or not int(text, 8) & 0o600 == 0o600:
        raise ValueError(
            f"invalid file mode {text!r}: expected octal digits with 6 for the owner, such as 0600 or 0640"
        )
    return int(text, 8)
