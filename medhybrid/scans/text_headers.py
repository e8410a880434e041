"""Parsing of MetaImage and NRRD text headers, with refusal of unsafe ones.

ITK's MetaImage reader crashes the process if NDims is negative or huge. Both formats may refer to a separate file of the
values. A file outside the header's folder is refused, because a header from elsewhere could point to any file of the host.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import ScanError
from medhybrid.files import check_file

MAX_HEADER_BYTES = 1 << 24
"""Largest header: that of a sequence has fields for each frame."""

USUAL_HEADER_BYTES = 1 << 16

MAX_DIMENSIONS = 10

LAST_OF_META = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][^\r\n]*\r?\n?", re.MULTILINE | re.IGNORECASE)

LAST_OF_NRRD = re.compile(rb"\r?\n\r?\n")

DATA_FILE_FIELDS = ("elementdatafile", "data file", "datafile")


@dataclass(frozen=True, slots=True)
class TextHeader:
    """Fields of a MetaImage or NRRD header.

    Attributes
    ----------
    path : Path
        The header's file.
    fields : dict of str to str
        Values by field name in lower case. If a MetaImage field is repeated, the last value is used.
    values_path : Path
        The file that holds the values: `path`, or another file in its folder.
    end : int
        Length of the header in bytes.
    pairs : dict of str to str
        Key/value pairs of NRRD (`key:=value`), which are separate from its fields.
    """

    path: Path
    fields: dict[str, str]
    values_path: Path
    end: int
    pairs: dict[str, str]

    def get(self, *names: str) -> str | None:
        """Return the value of the first of these fields that exists, or None."""
        return next((self.fields[n] for n in names if n in self.fields), None)

    def refuse(self, field: str, expected: str = "") -> ScanError:
        """Return the error for a field with an unusable value."""
        return ScanError(
            f"{self.path.name} has an unusable header",
            expected=expected,
            found=f"{field[:40]}: {(self.fields.get(field) or 'nothing')[:80]}",
            remedy="export it again",
        )


def is_meta(path: Path) -> bool:
    """Return True if a file is MetaImage by its suffix, False for NRRD."""
    return path.suffix.lower() in (".mha", ".mhd")


def read_text_header(path: Path) -> TextHeader:
    """Read the fields of a header; raises `ScanError` if it is incomplete, unsafe or refers to another folder."""
    last = LAST_OF_META if is_meta(path) else LAST_OF_NRRD
    try:
        check_file(path)
        with path.open("rb") as file:
            head = file.read(USUAL_HEADER_BYTES)
            end = last.search(head)
            if len(head) == USUAL_HEADER_BYTES and (end is None or end.end() == len(head)):  # the last line may go on
                head += file.read(MAX_HEADER_BYTES - len(head))
                end = last.search(head)
    except OSError as error:
        raise ScanError(f"{path.name} cannot be read", found=error.strerror or str(error)) from error
    if end is None and (is_meta(path) or len(head) == MAX_HEADER_BYTES):
        raise ScanError(f"{path.name} has an unusable header", found="no end of the header", remedy="export it again")
    length = len(head) if end is None else end.end()
    lines = re.split(rb"\r\n|\n|\r", head[:length])
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    values_path = path
    for line in lines:
        parts = re.split(rb"[=:]" if is_meta(path) else rb":", line, maxsplit=1)
        if len(parts) < 2 or line.lstrip().startswith(b"#"):
            continue
        if not is_meta(path) and parts[1].startswith(b"="):
            pairs[_text(parts[0])] = _text(parts[1][1:])
            continue
        key = _decode(parts[0].strip()).lower()
        value = _decode(parts[1].strip(b" \t="))
        if key in ("ndims", "dimension") and not _is_dimension(value):
            raise ScanError(
                f"{path.name} has an unusable header", expected="3 or 4 axes", found=f"{key} {value[:20]!r}"
            )
        if key in fields and not is_meta(path):  # in MetaImage, the last value is used, as in ITK
            raise ScanError(
                f"{path.name} has an unusable header",
                expected=f"one field {key}",
                found=f"{fields[key][:40]!r} and {value[:40]!r}",
                remedy="export it again",
            )
        if key in DATA_FILE_FIELDS:
            name = _check_data_file(path, value)
            values_path = path if name.upper() == "LOCAL" else _found(path.parent / name)
        fields[key] = value
    return TextHeader(path, fields, values_path, length, pairs)


def _found(path: Path) -> Path:
    """Return a path, or that of the only file beside it whose name differs in upper and lower case only."""
    if os.path.lexists(path) or not path.parent.is_dir():
        return path
    alike = [p for p in path.parent.iterdir() if p.name.casefold() == path.name.casefold()]
    return alike[0] if len(alike) == 1 else path


def _decode(content: bytes) -> str:
    """Decode bytes as UTF-8, or as Latin-1 if they are not valid UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _text(content: bytes) -> str:
    """Decode a key or value of NRRD and unescape backslashes and line ends."""
    return re.sub(r"\\(n|\\)", lambda match: "\n" if match[1] == "n" else "\\", _decode(content))


def _is_dimension(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 2 and 1 <= int(value) <= MAX_DIMENSIONS


def _check_data_file(path: Path, value: str) -> str:
    """Return the name of the values' file; raises `ScanError` unless it is a single file in the header's folder."""
    quoted = re.fullmatch(r"""(["'])(.*)\1""", value.strip())
    name = (quoted[2] if quoted else value).removeprefix("./")
    if not name.strip():
        raise ScanError(
            f"{path.name} does not name the file of its values",
            expected="LOCAL, or a file in the same folder",
            found="an empty name",
            remedy="export it again",
        )
    is_list = re.fullmatch(r"LIST(\s+\w+)?", name.strip(), re.IGNORECASE)
    if is_list or re.search(r"%[-+ 0-9.]*[di]", name):
        raise ScanError(
            f"{path.name} has its values in several files",
            expected="values in this file, or in one file in the same folder",
            found=value[:80],
            remedy="open it in 3D Slicer or SimpleITK, and save it as one file",
        )
    if any(c in name for c in "/\\") or name == "..":
        raise ScanError(
            f"{path.name} has its values in another folder",
            expected="values in this file, or in one file in the same folder",
            found=value[:80],
            remedy="put both files into one folder and name it in the header without a path",
        )
    return name
