"""Masks with a file for each label: a folder (`segmentations`), or a pattern (`masks/*/case1.png`, `case1/*_mask.nii.gz`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts.case import Files
from medhybrid.scans.walk import visible_files

OTHER_SUFFIXES = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml")
"""Suffixes of files that describe the masks. Files with other suffixes may be DICOM."""

WILDCARD = "*"

SEPARATOR = ";"
"""Text between the files of a mask in the cell of a table."""


def files_of_mask(path: Path) -> Files:
    """Return the file of a mask, or its files with the names of their labels."""
    found: dict[str, Path] = {}
    if path.is_dir():
        found = _files_in(path)
    elif WILDCARD in str(path) and not path.exists():
        found = _matches(path)
    return Files(tuple(found.values()), names=tuple(found)) if found else Files((path,))


def cell_of(paths: Sequence[Path]) -> str:
    """Return the cell of a table for the files of a mask; `files_of_cell` reads it."""
    return f"{SEPARATOR} ".join(map(str, paths))


def files_of_cell(cell: str, locate: Callable[[str], Path]) -> Files:
    """Return the files of a mask from the cell of a table: a file, a folder, or several of DICOM with `;` between.

    Parameters
    ----------
    locate : callable
        Function that returns the path of a file from its text.
    """
    parts = [locate(text.strip()) for text in cell.split(SEPARATOR) if text.strip()]
    paths = tuple(f for p in parts for f in (visible_files(p) if p.is_dir() else [p]))
    are_files = all(p.is_file() and not IMAGE_SUFFIX.search(p.name) for p in paths)
    is_list = len(parts) > 1 and are_files and not locate(cell).exists()
    return Files(paths) if is_list else files_of_mask(locate(cell))


def _files_in(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by name, without `.seg` of 3D Slicer; empty if it has other files, as of DICOM."""
    files = [p for p in visible_files(folder) if p.is_file() and not p.name.lower().endswith(OTHER_SUFFIXES)]
    if not all(IMAGE_SUFFIX.search(p.name) for p in files):
        return {}
    names = {p: IMAGE_SUFFIX.sub("", p.name).removesuffix(".seg") for p in files}
    return {names[p]: p for p in sorted(files, key=lambda p: (names[p], p.name))}


def _matches(path: Path) -> dict[str, Path]:
    """Return the files that fit a path with `*` by the text in its place, in the name of a folder or file.

    Where a folder has it, the name of the file in it may have another one, for text without digits.
    """
    place = next(i for i, part in enumerate(path.parts) if WILDCARD in part)
    folder, rest = Path(*path.parts[:place]), path.parts[place + 1 :]
    before, _, after = path.parts[place].partition(WILDCARD)
    wanted = re.compile(f"{re.escape(before)}(.*){re.escape(after)}", re.DOTALL)
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = wanted.fullmatch(entry.name)
        name = match[1].strip(" _-.") if match and not entry.name.startswith(".") else ""
        files = _files_below(entry, rest) if name else []
        for file in files:  # several are named, so that they are refused as unknown labels
            found.setdefault(name if len(files) == 1 else f"{name} ({file.name})", file)
    return found


def _files_below(folder: Path, rest: Sequence[str]) -> list[Path]:
    """Return the files below a folder or path that fit names, of which the last may have a `*` for text without digits."""
    file = folder.joinpath(*rest)
    if not rest or WILDCARD not in rest[-1]:
        return [file] if file.is_file() else []
    before, _, after = rest[-1].partition(WILDCARD)
    wanted = re.compile(rf"{re.escape(before)}\D+{re.escape(after)}")  # `P1_2_liver` is of another case than `P1_liver`
    inside = folder.joinpath(*rest[:-1])
    return [p for p in (visible_files(inside) if inside.is_dir() else []) if p.is_file() and wanted.fullmatch(p.name)]
