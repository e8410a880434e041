"""Folders that medhybrid owns: marked when they are made, so that nothing of the user's is overwritten or removed.

A marker file names the kind of a folder. A command writes into a folder only if it carries the marker of its kind, or holds
nothing of the names that the command writes. A folder of an earlier version has no marker: it is adopted if its record is
valid and it holds known files only. Trees are removed below an owned folder only, never through a link.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from itertools import chain
from pathlib import Path

from medhybrid.errors import OutputError
from medhybrid.files import make_folder, write_atomically
from medhybrid.names import printable_path

MARKER = ".medhybrid.json"


@dataclass(frozen=True, slots=True)
class FolderKind:
    """A kind of folder that a command writes.

    Attributes
    ----------
    name : str
        Written into the marker.
    contents : dict
        Every file and folder that the command makes at the top: its name as a pattern, and for a folder the patterns of the
        files in it, at any depth. An empty tuple stands for a file.
    is_valid : callable
        Whether a folder without marker has a valid record of an earlier version.
    scans : tuple of str
        The contents that are scans, where others look for scans.
    """

    name: str
    contents: dict[str, tuple[str, ...]]
    is_valid: Callable[[Path], bool] = field(default=lambda _: False, repr=False)
    scans: tuple[str, ...] = ()


def claim_folder(folder: Path, kind: FolderKind, *, remedy: str = "choose another folder") -> Path:
    """Make a folder of a kind and mark it, or take one that this program made; returns it.

    Raises
    ------
    OutputError
        If it cannot be made, or holds files of the names that would be written and that this program did not make.
    """
    make_folder(folder, remedy=remedy)
    if kind.name in kinds_of(folder):
        return folder
    present = [p for p in _listed(folder) if _patterns_of(p.name, kind) is not None]
    if present:
        foreign = [q for p in present for q in foreign_files(p, kind)]
        if foreign or not kind.is_valid(folder):
            shown = ", ".join(printable_path(p.relative_to(folder)) for p in (foreign or present)[:5])
            raise OutputError(
                f"{printable_path(folder)} holds files that medhybrid did not make, under names that it would write",
                expected="an empty or new folder, or one that this command made",
                found=shown,
                remedy=remedy,
            )
    _mark(folder, kind)
    return folder


def kinds_of(folder: Path) -> tuple[str, ...]:
    """Return the kinds in a folder's marker: several commands may write into one folder. None for other folders."""
    return tuple(_contents_by_kind(folder))


def _contents_by_kind(folder: Path) -> dict[str, list[str]]:
    kinds = _marker_of(folder).get("kinds")
    if not isinstance(kinds, dict):
        return {}
    return {str(k): [str(p) for p in v] for k, v in kinds.items() if isinstance(v, list)}


def foreign_files(path: Path, kind: FolderKind) -> list[Path]:
    """List the files at or below a path that a folder of this kind does not hold; links are among them."""
    patterns = _patterns_of(path.name, kind)
    if patterns is None or path.is_symlink():
        return [path]
    if not path.is_dir():
        return [] if not patterns else [path]
    if not patterns:
        return [path]
    inside = sorted(path.rglob("*"))
    return [p for p in inside if p.is_symlink() or (p.is_file() and not any(fnmatchcase(p.name, q) for q in patterns))]


def remove_tree(path: Path, *, owner: Path) -> None:
    """Remove a folder below an owned one; one that is absent is no error, a link is removed and not followed.

    Raises
    ------
    OutputError
        If `owner` carries no marker, `path` does not lie below it, or it cannot be removed.
    """
    if not kinds_of(owner) or not _lies_below(path, owner):
        raise OutputError(
            f"{printable_path(path)} is not removed",
            expected="a folder below one that medhybrid made",
            found="a path outside it" if kinds_of(owner) else f"{printable_path(owner)} without {MARKER}",
            remedy="remove it yourself",
        )
    try:
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise OutputError(f"{printable_path(path)} cannot be removed", found=error.strerror or str(error)) from error


def remove_made(folder: Path, patterns: Sequence[str]) -> None:
    """Remove the files of a folder that have names among patterns, and the folder itself if nothing else is in it.

    Raises
    ------
    OutputError
        If other files are in it, it is a link, or it cannot be removed: nothing else is touched.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    others = [folder] if folder.is_symlink() or not folder.is_dir() else _others_in(folder, patterns)
    if others:
        raise OutputError(
            f"{printable_path(folder)} is not replaced: medhybrid did not make all of it",
            found=", ".join(printable_path(p.name) for p in others[:5]),
            remedy="move these files elsewhere",
        )
    try:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    except OSError as error:
        raise OutputError(f"{printable_path(folder)} cannot be removed", found=error.strerror or str(error)) from error


def _others_in(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_symlink() or not p.is_file() or not is_made_here(p, patterns))


def _lies_below(path: Path, owner: Path) -> bool:
    """Whether a path lies below a folder without a link on the way."""
    if ".." in path.parts or path == owner or not path.is_relative_to(owner):
        return False
    between = [p for p in path.parents if p != owner and p.is_relative_to(owner)]
    return not any(p.is_symlink() for p in between)


def _patterns_of(name: str, kind: FolderKind) -> tuple[str, ...] | None:
    return next((inside for pattern, inside in kind.contents.items() if fnmatchcase(name, pattern)), None)


def _listed(folder: Path) -> Sequence[Path]:
    return sorted(folder.iterdir())


def _mark(folder: Path, kind: FolderKind) -> None:
    """Add a kind to a folder's marker."""
    kinds = _contents_by_kind(folder) | {kind.name: sorted(set(kind.contents) - set(kind.scans))}
    try:
        _write_marker(folder, {"kinds": kinds})
    except OSError as error:
        raise OutputError(
            f"{printable_path(folder)} cannot be written to", found=error.strerror or str(error)
        ) from error


def _write_marker(folder: Path, changes: dict[str, object]) -> None:
    values = _marker_of(folder) | {"made_by": "medhybrid"} | changes
    write_atomically(folder / MARKER, json.dumps(values, indent=1))


def contents_of(folder: Path, *, with_written: bool = True) -> tuple[str, ...]:
    """Return the patterns of all files and folders that a marked folder's command made; none for other folders.

    Parameters
    ----------
    with_written : bool
        Whether those of `WrittenFiles` are among them, which are scans.
    """
    patterns = [p for listed in _contents_by_kind(folder).values() for p in listed]
    return (*patterns, *(escape(name) for name in (files_of(folder) if with_written else ())))


class WrittenFiles:
    """The files that a command wrote into a folder which may hold files of the user's beside them.

    Their names and hashes are kept in the marker: a later call may replace a file that is as it was written, and no other.
    Use it as a context manager, which saves the marker at the end.
    """

    SAVED_EVERY = 100

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes = _hashes_of(folder)
        self._places = _places_of(folder)
        self._n_unsaved = 0
        self._taken: set[str] = set()
        self._by_base: dict[str, list[str]] = {}
        for name in sorted({n.removesuffix(".nii.gz") for n in self._hashes if n.endswith(".nii.gz")}):
            self._by_base.setdefault(_base(name), []).append(name)

    def __enter__(self) -> WrittenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def name_for(
        self,
        name: str,
        suffixes: Sequence[str],
        places: Sequence[str],
        *,
        is_same: Callable[[Path], bool],
        others: Collection[str],
    ) -> str:
        """Return the name under which something was written before, else one under which nothing is: with a number if need be.

        Parameters
        ----------
        suffixes : sequence of str
            Of its files, of which the first is the main one, a `.nii.gz`.
        places : sequence of str
            Signs of where it is from; see `ScanEntry.places`.
        is_same : callable
            Whether a main file that was written before has its content.
        others : collection of str
            Names that others want.
        """
        known = [name, *(n for n in self._by_base.get(_base(name), ()) if n != name)]
        ours = [n for n in known if n not in self._taken and all(self._is_free(f"{n}{s}") for s in suffixes)]
        paths = {n: self.folder / f"{n}{suffixes[0]}" for n in ours}
        there = (n for n in ours if not set(places).isdisjoint(self._places.get(paths[n].name, ())))
        alike = (n for n in ours if paths[n].is_file() and is_same(paths[n]))
        new = (n for n in (name, *(f"{name}_{k}" for k in range(2, 10_000))) if n == name or n not in others)
        free = (n for n in new if not any(os.path.lexists(self.folder / f"{n}{s}") for s in suffixes))
        found = next(chain(there, alike, free), "")
        if not found:
            raise OutputError(f"{printable_path(self.folder)} has too many files named {name}")
        self._taken.add(found)
        return found

    def is_ours(self, name: str) -> bool:
        """Whether a file is there as it was written."""
        return self._is_free(name) and (self.folder / name).is_file()

    def _is_free(self, name: str) -> bool:
        path = self.folder / name
        if not os.path.lexists(path):
            return True
        return name in self._hashes and path.is_file() and _hash_file(path) == self._hashes[name]

    def add(self, name: str, places: Sequence[str] = ()) -> None:
        """Note that a file was written, and where its content is from."""
        self._hashes[name] = _hash_file(self.folder / name)
        if places:
            self._places[name] = list(places)
        self._n_unsaved += 1
        if self._n_unsaved >= self.SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Write the names and hashes into the marker."""
        listed = {"files": dict(sorted(self._hashes.items())), "places": dict(sorted(self._places.items()))}
        _write_marker(self.folder, listed)
        self._n_unsaved = 0


def _base(name: str) -> str:
    """Return a name without the number that told it from another."""
    return re.sub(r"_\d+$", "", name)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes_of(folder: Path) -> dict[str, str]:
    listed = _marker_of(folder).get("files")
    return {str(k): str(v) for k, v in listed.items()} if isinstance(listed, dict) else {}


def _places_of(folder: Path) -> dict[str, list[str]]:
    listed = _marker_of(folder).get("places")
    pairs = listed.items() if isinstance(listed, dict) else ()
    return {str(k): [str(p) for p in v] for k, v in pairs if isinstance(v, list)}


def files_of(folder: Path) -> tuple[str, ...]:
    """Return the names in a marker of files that were written among others; none for other folders."""
    return tuple(_hashes_of(folder))


def _marker_of(folder: Path) -> dict[str, object]:
    try:
        values = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_earlier_conversion(folder: Path) -> bool:
    """Whether a folder without marker was written by `convert`, by the columns of its table."""
    try:
        with (folder / "table.csv").open() as file:
            return file.readline().strip() == "volume,state,code,shape,reason"
    except (OSError, UnicodeDecodeError):
        return False


CONVERTED = FolderKind("convert", {"table.csv": ()}, _is_earlier_conversion)
"""The output folder of `convert`, whose volumes may lie beside files of the user's."""


def is_made_here(path: Path, patterns: Iterable[str]) -> bool:
    """Whether a file or folder has a name among patterns."""
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)
