"""Cases of a dataset as files: images, reference mask, subject."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.errors import DataError, reason_of
from medhybrid.files import check_file, find_in_any_form
from medhybrid.names import check_case_name, escape_name, printable_path

Paths = tuple[Path, ...]

NO_FOLD = -1
"""Fold number of a case that trains in every fold."""


NAMED_FOLD = re.compile(r"^fold[\s_\-]*(?=\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Files:
    """Files of a scan, with the name of its volume if they contain several.

    Attributes
    ----------
    names : tuple of str
        Label of each file of a mask that has one for each label; empty otherwise.
    """

    paths: Paths
    part: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """Scan and reference mask, as files.

    Attributes
    ----------
    images : tuple of Files or None
        One entry per channel, None for a missing one; or a single entry for a file with all channels.
    mask : Files, optional
        Reference mask.
    subject : str
        Patient. All cases of a subject are on the same side of a fold.
    problem : DataError, optional
        Reason why the case cannot be used and is skipped.
    is_labelled : bool
        Whether the dataset has a mask for the case, also if masks are not read. Only such cases can validate.
    fold : int, optional
        Fold in which the case validates, if the dataset specifies it; -1 trains in every fold.
    annotated : tuple of str, optional
        Labels or regions that the reference mask has; None for all.
    """

    name: str
    subject: str
    images: tuple[Files | None, ...]
    mask: Files | None
    problem: DataError | None = None
    is_labelled: bool = True
    fold: int | None = None
    annotated: tuple[str, ...] | None = None

    @property
    def files(self) -> Paths:
        """Return all files of the case, in order."""
        return tuple(p for files in (*self.images, self.mask) if files for p in files.paths)


class NoMaskError(DataError):
    """A case without reference mask that could be used with one."""


@dataclass(frozen=True, slots=True)
class Note:
    """Note on a part of the dataset that is not used, with the reason.

    Attributes
    ----------
    where : str
        Case or file.
    """

    where: str
    message: str
    found: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Cases of a dataset, notes on unused files, and cases for testing.

    Attributes
    ----------
    testing : tuple of Case
        Cases for testing, and cases excluded because of them. They are not in `cases`. An empty subject is unknown.
    """

    cases: tuple[Case, ...]
    notes: tuple[Note, ...] = ()
    testing: tuple[Case, ...] = ()


def read_fold(value: object) -> int | None:
    """Parse the number of a fold in a table or list (0, "0", 0.0 or "fold_0"); return None for an empty value.

    Raises
    ------
    DataError
        If the value is not an integer.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        value = NAMED_FOLD.sub("", value.strip())
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise DataError("a fold is not a number", expected="an integer from 0", found=ascii(value)[:60])
    return int(number)


def subject_of(config: DataConfig, case: str) -> str:
    """Return the subject of a case by `data.subject_pattern`; raise `DataError` if the pattern does not match."""
    if config.subject_pattern is None:
        return case
    match = re.search(unicodedata.normalize("NFC", config.subject_pattern), unicodedata.normalize("NFC", case))
    if match is None:
        raise DataError(f"case {case}: data.subject_pattern does not match", expected=config.subject_pattern)
    subject: str | None = match.group(1) if match.groups() else match.group(0)
    if not subject or not subject.strip():
        raise DataError(
            f"case {case}: data.subject_pattern yields an empty subject",
            expected=f"text for {'the first group of ' * bool(match.groups())}{config.subject_pattern}",
            found="no text",
            remedy="change the pattern so that it matches every case name",
        )
    return subject


def missing_channels(config: DataConfig, case: str, images: Sequence[Files | None], where: str) -> DataError | None:
    """Return the error for a case without a required channel, which would otherwise be trained on as zeros.

    Parameters
    ----------
    images : sequence of Files or None
        One entry per channel, or a single entry for a file with all channels.
    where : str
        Place of the search, for the message.
    """
    if len(images) != len(config.channels):
        return None
    absent = [c.name for c, files in zip(config.channels, images, strict=True) if files is None and not c.optional]
    if not absent:
        return None
    return DataError(
        f"case {case}: channel {', '.join(absent)} is missing in {where}",
        expected=", ".join(c.name for c in config.channels if not c.optional),
        found=", ".join(c.name for c, files in zip(config.channels, images, strict=True) if files) or "none",
        remedy="add the file, or make the channel optional (data.channels)",
    )


def strip_suffix(name: str) -> str:
    """Remove an image suffix from a file name."""
    return IMAGE_SUFFIX.sub("", name)


def named_case(name: object, config: DataConfig, *, source: str, where: str) -> tuple[str, str, DataError | None]:
    """Return name, subject and problem of a case from a name in a table, list or folder.

    An invalid name is escaped, so that the case can be reported as skipped.

    Parameters
    ----------
    source : str
        File that contains the name.
    where : str
        Position in the file, which replaces an empty name.
    """
    try:
        good = check_case_name(name, source=f"{source}, {where}")
        return good, subject_of(config, good), None
    except DataError as error:
        text = name if isinstance(name, str) and name.strip() else where
        return escape_name(text), escape_name(text), error


def path_inside(root: Path, relative: object) -> Path:
    """Return the path of a file in a dataset's folder. Links in the folder may lead outside.

    Raises
    ------
    DataError
        If the path is not text, or is outside the folder.
    """
    if not isinstance(relative, str) or not relative or "\0" in relative:
        raise DataError(
            "a file path is missing or invalid", expected="a path in the dataset's folder", found=ascii(relative)[:100]
        )
    relative = relative if "\\" not in relative or (root / relative).exists() else relative.replace("\\", "/")
    path = Path(*(p for p in (root / relative).parts if p != "."))
    whole = Path(os.path.abspath(path))
    if ".." in path.parts or not any(whole.is_relative_to(r) for r in (Path(os.path.abspath(root)), root.resolve())):
        raise DataError(
            f"{printable_path(relative)} is outside the dataset's folder",
            expected=f"a path in {printable_path(root)}",
            remedy="list the files in a table (layout csv), which accepts any path",
        )
    return find_in_any_form(path)


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32; raise `DataError` if it cannot be read, or has a key twice."""
    try:
        check_file(path)
        content = path.read_bytes()
        return json.loads(content.decode(json.detect_encoding(content)), object_pairs_hook=_without_doubled_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{printable_path(path)} cannot be read as JSON", found=reason_of(error)) from error


def _without_doubled_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raise `ValueError` for a key that it has twice, of which Python would drop the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [k for k, _ in pairs]
        doubled = sorted({k for k in names if names.count(k) > 1})
        raise ValueError(f"a key that stands twice in one object: {ascii(', '.join(doubled))[:100]}")
    return found
