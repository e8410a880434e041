"""Headers of MetaImage and NRRD, looked at before ITK reads them: what would crash it, or lead it elsewhere.

ITK's reader of MetaImage ends the process where NDims is negative or huge. Both formats may name another file that holds the
values; one outside the header's folder is no part of the scan, whoever sent it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import ScanError

MAX_HEADER_BYTES = 1 << 20

MAX_DIMENSIONS = 10

LAST_OF_META = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][^\r\n]*", re.MULTILINE | re.IGNORECASE)

LAST_OF_NRRD = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class ValuesFile:
    """Where the values of a header lie: in the header's own file, or in one beside it."""

    path: Path
    is_compressed: bool


def check_text_header(path: Path) -> ValuesFile:
    """Where the values are; raises `ScanError` where a header says what ITK must not be told."""
    is_meta = path.suffix.lower() in (".mha", ".mhd")
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise ScanError(f"{path.name} cannot be read", found=error.strerror or str(error)) from error
    end = (LAST_OF_META if is_meta else LAST_OF_NRRD).search(head)
    if end is None and (is_meta or len(head) == MAX_HEADER_BYTES):
        raise ScanError(f"{path.name} has an unusable header", found="no end of it", remedy="export it again")
    lines = re.split(rb"\r\n|\n|\r", head if end is None else head[: end.end()])
    fields = [re.split(rb"[=:]", line, maxsplit=1) for line in lines if not line.lstrip().startswith(b"#")]
    said = [
        (f[0].strip().lower().decode("latin-1"), f[1].strip(b" \t=").decode("latin-1")) for f in fields if len(f) == 2
    ]
    values, is_compressed = path, False
    for key, value in said:
        if key in ("ndims", "dimension") and not _is_dimension(value):
            raise ScanError(
                f"{path.name} has an unusable header", expected="3 or 4 axes", found=f"{key} {value[:20]!r}"
            )
        if key in ("elementdatafile", "data file", "datafile"):
            _check_data_file(path, value)
            values = path if value.upper() == "LOCAL" else path.parent / value
        if key == "encoding":
            is_compressed = (
                value.lower() != "raw"
            )  # written as text, a value takes more bytes than it is, or some fewer
        if key == "compresseddata":
            is_compressed = value.lower() == "true"
    return ValuesFile(values, is_compressed)


def _is_dimension(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 2 and 1 <= int(value) <= MAX_DIMENSIONS


def _check_data_file(path: Path, value: str) -> None:
    if any(c in value for c in "/\\%") or value.upper().startswith("LIST"):
        raise ScanError(
            f"{path.name} has its values elsewhere",
            expected="in it, or in one file of the same folder",
            found=value[:80],
            remedy="put both files into one folder and name it in the header without a path",
        )
