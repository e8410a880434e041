"""A case of a dataset as files: images, reference mask, subject."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.errors import DataError
from medhybrid.files import check_file
from medhybrid.names import check_case_name, escape_name, printable_path

Paths = tuple[Path, ...]

NO_FOLD = -1
"""The fold of a case that trains in every fold."""

FLAT_SUFFIX = re.compile(r"\.(png|tif|tiff|jpg|jpeg|bmp)$", re.IGNORECASE)
"""Two-dimensional images, which cannot be read."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one scan, and which volume of them where they hold several."""

    paths: Paths
    part: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One scan and its reference mask, as files.

    Attributes
    ----------
    images : tuple of Files or None
        One entry a channel, None where it is missing; or a single entry for a file that holds all channels.
    mask : Files, optional
        The reference mask.
    subject : str
        Cases of one subject never stand on both sides of a split.
    problem : DataError, optional
        Why the case cannot be used: it is skipped, with this reason.
    is_labelled : bool
        Whether the dataset has a mask of it, also where masks are not asked for: only such cases can validate.
    fold : int, optional
        The fold in which it validates, if the dataset says so; -1 trains in every fold.
    """

    name: str
    subject: str
    images: tuple[Files | None, ...]
    mask: Files | None
    problem: DataError | None = None
    is_labelled: bool = True
    fold: int | None = None

    @property
    def files(self) -> Paths:
        """Every file of the case, in order."""
        return tuple(p for files in (*self.images, self.mask) if files for p in files.paths)


class NoMaskError(DataError):
    """A case lacks nothing but a reference mask: with one, it can be used."""


@dataclass(frozen=True, slots=True)
class Note:
    """A thing in the dataset that was not taken, and why.

    Attributes
    ----------
    where : str
        The case, or the file.
    """

    where: str
    message: str
    found: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The cases of a dataset, the files that belong to none, and the cases that are kept for testing.

    Attributes
    ----------
    testing : tuple of Case
        They are no cases of the dataset, nor are those that do not train for their sake; an empty subject is unknown.
    """

    cases: tuple[Case, ...]
    notes: tuple[Note, ...] = ()
    testing: tuple[Case, ...] = ()


def read_fold(value: object) -> int | None:
    """Return the number of a fold as tables and lists write it: 0, "0" or 0.0; None for an empty one.

    Raises
    ------
    DataError
        If it is not a whole number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise DataError("a fold is not a number", expected="a whole number from 0", found=ascii(value)[:60])
    return int(number)


def subject_of(config: DataConfig, case: str) -> str:
    """Return the subject of a case, by `data.subject_pattern`; raises `DataError` if that does not match."""
    if config.subject_pattern is None:
        return case
    match = re.search(config.subject_pattern, case)
    if match is None:
        raise DataError(f"case {case}: data.subject_pattern does not match", expected=config.subject_pattern)
    subject: str | None = match.group(1) if match.groups() else match.group(0)
    if not subject or not subject.strip():
        raise DataError(
            f"case {case}: data.subject_pattern finds no subject",
            expected=f"text for {'the first group of ' * bool(match.groups())}{config.subject_pattern}",
            found="nothing",
            remedy="make the pattern fit every case name",
        )
    return subject


def missing_channels(config: DataConfig, case: str, images: Sequence[Files | None], where: str) -> DataError | None:
    """Return the error of a case without a channel that is not optional, which would be learnt as zeros.

    Parameters
    ----------
    images : sequence of Files or None
        One entry a channel; a single one may hold them all.
    where : str
        Where the channels were looked for.
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
        remedy="add the file, or mark the channel optional",
    )


def strip_suffix(name: str) -> str:
    """Return a file's name without the suffix of an image."""
    return IMAGE_SUFFIX.sub("", name)


def named_case(name: object, config: DataConfig, *, source: str, where: str) -> tuple[str, str, DataError | None]:
    """Return name, subject and problem of a case whose name somebody wrote.

    A name that cannot be used is escaped, so that the case can be skipped with its reason.

    Parameters
    ----------
    source : str
        The file that holds the name.
    where : str
        The place in it, which stands for an empty name.
    """
    try:
        good = check_case_name(name, source=f"{source}, {where}")
        return good, subject_of(config, good), None
    except DataError as error:
        text = name if isinstance(name, str) and name.strip() else where
        return escape_name(text), escape_name(text), error


def path_inside(root: Path, relative: object) -> Path:
    """Return a path below a dataset's folder; links in it may lead elsewhere.

    Raises
    ------
    DataError
        If it is not text, or its name leads out of the folder.
    """
    if not isinstance(relative, str) or not relative or "\0" in relative:
        raise DataError("a file is not named", expected="a path below the dataset", found=ascii(relative)[:100])
    relative = relative if "\\" not in relative or (root / relative).exists() else relative.replace("\\", "/")
    path = Path(*(p for p in (root / relative).parts if p != "."))
    whole = Path(os.path.abspath(path))
    if ".." in path.parts or not any(whole.is_relative_to(r) for r in (Path(os.path.abspath(root)), root.resolve())):
        raise DataError(
            f"{printable_path(relative)} lies outside the dataset",
            expected=f"a path below {printable_path(root)}",
            remedy="name the files in a table (layout csv), which may name any path",
        )
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file, in UTF-8, UTF-16 or UTF-32; raises `DataError`."""
    try:
        check_file(path)
        content = path.read_bytes()
        return json.loads(content.decode(json.detect_encoding(content)))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{printable_path(path)} cannot be read as JSON", found=str(error)) from error
