"""Names of cases: the one gate that every name passes before it becomes part of a file name.

Names come from tables, JSON files, file names, archives, DICOM headers and model folders. `check_case_name` refuses a name that
a person wrote and that cannot be used. `name_from_path` makes a usable name of a file that was found, whatever it is called.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath, PureWindowsPath

from medhybrid.errors import DataError, is_unsafe

MAX_NAME_BYTES = 180
"""Longest name, in bytes of UTF-8: file systems allow 255 for a file name, and suffixes are added to it."""


def check_case_name(name: object, *, source: str) -> str:
    """Return a case name that can be part of a file name.

    Parameters
    ----------
    name : object
        The name as it was read.
    source : str
        Where it was read, for the message.

    Raises
    ------
    DataError
        If it is empty, is a path, starts with a dot, is too long, or holds characters that cannot be part of a file name.
    """
    problem = _problem_of(name)
    if problem:
        raise DataError(
            f"{source}: a case name cannot be used: {problem}",
            expected=f"a name without / or \\, of at most {MAX_NAME_BYTES} bytes, that does not start with a dot",
            found=ascii(name)[:100],
            remedy="rename the case; folders of patients go into the column `subject`",
        )
    return str(name)


def _problem_of(name: object) -> str:
    """Say why a name cannot be used; empty if it can."""
    if not isinstance(name, str):
        return "it is not text"
    if not name.strip():
        return "it is empty"
    if "/" in name or PureWindowsPath(name).name != name:
        return "it is a path"
    if name.startswith("."):
        return "it starts with a dot"
    if any(is_unsafe(c) for c in name):
        return "it holds control characters, or bytes that are not UTF-8"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it has {len(name.encode())} bytes"
    return ""


def escape_name(text: str) -> str:
    """Return a usable name that stands for any text: unsafe characters become %XX, long names end in a hash."""
    escaped = "".join(_escape(c) if is_unsafe(c) or c in "/\\" else c for c in text)
    if escaped.startswith("."):
        escaped = f"%2E{escaped[1:]}"
    if PureWindowsPath(escaped).name != escaped:  # a drive letter
        escaped = escaped.replace(":", "%3A", 1)
    return shorten_name(escaped) if escaped.strip() else "%20" * len(escaped) or "unnamed"


def _escape(character: str) -> str:
    """Return the bytes of a character as %XX; a byte that is not UTF-8 keeps its value."""
    return "".join(
        f"%{b:02X}" for b in character.encode("utf-8", "surrogateescape" if _is_byte(character) else "replace")
    )


def _is_byte(character: str) -> bool:
    """Whether a character stands for a byte that could not be decoded, as `os.fsdecode` makes them."""
    return "\udc80" <= character <= "\udcff"


def name_from_path(relative: PurePath) -> str:
    """Return the name of a file that was found: the parts of its path joined by two underscores."""
    return escape_name("__".join(relative.parts))


def shorten_name(name: str) -> str:
    """Return a name of at most `MAX_NAME_BYTES`; a long one ends in a hash of the whole."""
    content = name.encode()
    if len(content) <= MAX_NAME_BYTES:
        return name
    return f"{content[: MAX_NAME_BYTES - 13].decode(errors='ignore')}~{hashlib.sha256(content).hexdigest()[:12]}"


def same_file_name(name: str) -> str:
    """Return the form in which names are compared: some file systems ignore case and Unicode forms."""
    return unicodedata.normalize("NFC", name).casefold()


def make_unique(names: Sequence[str], suffixes: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return names of which no two could be one file: those that collide get a suffix, or else a hash of their source.

    Every member of a collision is renamed, so that a name does not depend on the order of the files.

    Parameters
    ----------
    suffixes : sequence of str
        A short addition to each name that may tell it apart, such as the type of its file.
    sources : sequence of str
        Text that is unique for each name, such as its path.
    """
    unique = list(names)
    for additions in ([f"_{s}" for s in suffixes], [f"~{_hash(s)}" for s in sources]):
        counts = Counter(map(same_file_name, unique))
        unique = [
            shorten_name(name + addition) if counts[same_file_name(name)] > 1 else name
            for name, addition in zip(unique, additions, strict=True)
        ]
    return unique


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def printable_path(path: str | Path) -> str:
    """Return a path as text for records and messages: bytes that are not UTF-8, and control characters, as escapes."""
    text = os.fspath(path)
    return "".join(_escape(c) if is_unsafe(c) else c for c in text)
