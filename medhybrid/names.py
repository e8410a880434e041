"""Validation of case names before they become part of a file name.

Names come from tables, JSON files, file names, archives, DICOM headers and model folders. `check_case_name` refuses an
invalid name that a user wrote. `name_from_path` derives a valid name from any path.
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
"""Longest case name in bytes of UTF-8. File systems allow 255 for a file name, and suffixes are added."""


def check_case_name(name: object, *, source: str) -> str:
    """Return a case name, after checking that it can be part of a file name.

    Parameters
    ----------
    name : object
        The name from the file.
    source : str
        The file or table that has the name, for the message.

    Raises
    ------
    DataError
        If it is empty, a path or too long, starts with a dot, or has characters that are invalid in file names.
    """
    problem = _problem_of(name)
    if problem:
        raise DataError(
            f"{source}: invalid case name: {problem}",
            expected=f"a name without / or \\, of at most {MAX_NAME_BYTES} bytes, that does not start with a dot",
            found=ascii(name)[:100],
            remedy="rename the case; put patient folders into the column `subject`",
        )
    return str(name)


def _problem_of(name: object) -> str:
    """Return why a name is invalid; empty if it is valid."""
    if not isinstance(name, str):
        return "it is not a text"
    if not name.strip():
        return "it is empty"
    if "/" in name or PureWindowsPath(name).name != name:
        return "it is a path"
    if name.startswith("."):
        return "it starts with a dot"
    if any(is_unsafe(c) for c in name):
        return "it has control characters or bytes that are not UTF-8"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it has {len(name.encode())} bytes"
    return ""


def escape_name(text: str) -> str:
    """Return a valid name for any text: unsafe characters become %XX, long names end in a hash."""
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
    """Return whether a character stands for a byte that `os.fsdecode` could not decode."""
    return "\udc80" <= character <= "\udcff"


def name_from_path(relative: PurePath) -> str:
    """Return the case name for a file: the parts of its path joined by two underscores."""
    return escape_name("__".join(relative.parts))


def shorten_name(name: str) -> str:
    """Shorten a name to `MAX_NAME_BYTES`; a shortened name ends in a hash of the full name."""
    content = name.encode()
    if len(content) <= MAX_NAME_BYTES:
        return name
    # 13 bytes for the tilde and the 12 digits of the hash; a cut character is dropped
    return f"{content[: MAX_NAME_BYTES - 13].decode(errors='ignore')}~{hashlib.sha256(content).hexdigest()[:12]}"


def same_file_name(name: str) -> str:
    """Return the form of a name for comparisons: some file systems ignore case and Unicode forms."""
    return unicodedata.normalize("NFC", name).casefold()


def same_text(text: str) -> str:
    """Return the form of a text for comparisons, in which case, Unicode form and kinds of spaces make no difference."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def make_unique(names: Sequence[str], suffixes: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Make names unique as file names: names that collide get a suffix, or else a hash of their source.

    Every member of a collision is renamed, so that a name does not depend on the order of the files.

    Parameters
    ----------
    suffixes : sequence of str
        A short addition for each name, such as the file type.
    sources : sequence of str
        A unique text for each name, such as its path.
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
    """Return a path as text for records and messages, with escapes for control characters and invalid UTF-8."""
    text = os.fspath(path)
    return "".join(_escape(c) if is_unsafe(c) else c for c in text)
