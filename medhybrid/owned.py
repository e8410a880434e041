"""Output folders with a marker file, so that no file of the user is overwritten or removed.

The marker file names the kind of a folder. A command writes into a folder with the marker of its kind, or into a folder
without files of the names that the command writes. A folder of an earlier version has no marker: it is accepted if its
record is valid and all of its files are known. Folders are removed only below a marked folder, never through a link.
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
    """Kind of an output folder.

    Attributes
    ----------
    name : str
        Name in the marker.
    contents : dict
        Every file and folder that the command writes at the top level. Keys are name patterns. Values are, for a folder, the
        name patterns of its files at any depth, and an empty tuple for a file.
    is_valid : callable
        Returns whether a folder without marker has a valid record of an earlier version.
    scans : tuple of str
        The contents that are scans; a search for scans does not skip them.
    """

    name: str
    contents: dict[str, tuple[str, ...]]
    is_valid: Callable[[Path], bool] = field(default=lambda _: False, repr=False)
    scans: tuple[str, ...] = ()


def claim_folder(folder: Path, kind: FolderKind, *, remedy: str = "choose another folder") -> Path:
    """Create and mark an output folder, or accept one that medhybrid created; returns the folder.

    Raises
    ------
    OutputError
        If it cannot be created, or has links, or other files, under names that the command would write.
    """
    make_folder(folder, remedy=remedy)
    _refuse_links(folder, kind)
    if kind.name in kinds_of(folder):
        return folder
    present = [p for p in _listed(folder) if _patterns_of(p.name, kind) is not None]
    if present:
        foreign = [q for p in present for q in foreign_files(p, kind)]
        if foreign or not kind.is_valid(folder):
            shown = ", ".join(printable_path(p.relative_to(folder)) for p in (foreign or present)[:5])
            raise OutputError(
                f"{printable_path(folder)} has files that medhybrid did not write, under names that it would write",
                expected="a new or empty folder, or an output folder of this command",
                found=shown,
                remedy=remedy,
            )
    _mark(folder, kind)
    return folder


def _refuse_links(folder: Path, kind: FolderKind) -> None:
    """Refuse links under names that the command writes, which lead to files elsewhere; the folder may be somebody else's."""
    links = [
        p for p in _listed(folder) if os.path.islink(p) and (p.name == MARKER or _patterns_of(p.name, kind) is not None)
    ]
    if links:
        raise OutputError(
            f"{printable_path(folder)} has links under names that medhybrid would write",
            expected="files and folders that lie in it",
            found=", ".join(printable_path(p.name) for p in links[:5]),
            remedy="put the folder itself on another disk, and remove the links",
        )


def kinds_of(folder: Path) -> tuple[str, ...]:
    """Return the kinds in a folder's marker, one for each command that wrote into it; empty without a marker."""
    return tuple(_contents_by_kind(folder))


def _contents_by_kind(folder: Path) -> dict[str, list[str]]:
    kinds = _marker_of(folder).get("kinds")
    if not isinstance(kinds, dict):
        return {}
    return {str(k): [str(p) for p in v] for k, v in kinds.items() if isinstance(v, list)}


def foreign_files(path: Path, kind: FolderKind) -> list[Path]:
    """List the files at or below a path that do not belong to a folder of this kind; links never belong to it."""
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
    """Remove a folder below a marked one. An absent folder is ignored; a link is removed, not followed.

    Raises
    ------
    OutputError
        If `owner` has no marker, `path` does not lie below it, or `path` cannot be removed.
    """
    if not kinds_of(owner) or not _lies_below(path, owner):
        raise OutputError(
            f"{printable_path(path)} is not removed",
            expected="a folder inside an output folder of medhybrid",
            found="a path outside of it" if kinds_of(owner) else f"{printable_path(owner)} without {MARKER}",
            remedy="check the folder and remove it yourself",
        )
    try:
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise OutputError(f"{printable_path(path)} cannot be removed", found=error.strerror or str(error)) from error


def remove_made(folder: Path, patterns: Sequence[str]) -> None:
    """Remove a folder if the names of all its files match patterns.

    Raises
    ------
    OutputError
        If it has other files, is a link, or cannot be removed. Other files stay untouched.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    others = [folder] if folder.is_symlink() or not folder.is_dir() else _others_in(folder, patterns)
    if others:
        raise OutputError(
            f"{printable_path(folder)} is not replaced: it has files that medhybrid did not write",
            found=", ".join(printable_path(p.name) for p in others[:5]),
            remedy="move these files to another folder",
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
    """Return whether a path lies below a folder, with no link between them."""
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
    """Return the name patterns of the files and folders in a folder's marker; empty without a marker.

    Parameters
    ----------
    with_written : bool
        Include the files of `WrittenFiles`, which are scans.
    """
    patterns = [p for listed in _contents_by_kind(folder).values() for p in listed]
    return (*patterns, *(escape(name) for name in (files_of(folder) if with_written else ())))


class WrittenFiles:
    """Files that a command wrote into a folder that may also have files of the user.

    The marker has their names and hashes: a later call replaces only files that are unchanged since they were written.
    As a context manager, it saves the marker at the end.
    """

    SAVED_EVERY = 100

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes = _hashes_of(folder)
        self._places = _places_of(folder)
        self._n_unsaved = 0
        self._taken: set[str] = set()
        self._by_base: dict[str, list[str]] = {}
        for name in self.names:
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
        """Return the name under which a scan was written before, else a free name, with a number if necessary.

        Parameters
        ----------
        suffixes : sequence of str
            Suffixes of its files; the first, `.nii.gz`, is the main file.
        places : sequence of str
            Identifiers of its source; see `ScanEntry.places`.
        is_same : callable
            Returns whether an existing main file has the same content.
        others : collection of str
            Names of other scans.
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
            raise OutputError(f"{printable_path(self.folder)} has too many files with the name {name}")
        self._taken.add(found)
        return found

    @property
    def names(self) -> list[str]:
        """Return the names of all main files, without `.nii.gz`, in order."""
        return sorted(n.removesuffix(".nii.gz") for n in self._hashes if n.endswith(".nii.gz"))

    def is_ours(self, name: str) -> bool:
        """Return whether a file exists and is unchanged since it was written."""
        return self._is_free(name) and (self.folder / name).is_file()

    def _is_free(self, name: str) -> bool:
        path = self.folder / name
        if not os.path.lexists(path):
            return True
        return name in self._hashes and path.is_file() and _hash_file(path) == self._hashes[name]

    def add(self, name: str, places: Sequence[str] = ()) -> None:
        """Record a written file and its source."""
        self._hashes[name] = _hash_file(self.folder / name)
        if places:
            self._places[name] = list(places)
        self._n_unsaved += 1
        if self._n_unsaved >= self.SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Save the names and hashes in the marker."""
        listed = {"files": dict(sorted(self._hashes.items())), "places": dict(sorted(self._places.items()))}
        _write_marker(self.folder, listed)
        self._n_unsaved = 0


def _base(name: str) -> str:
    """Return a name without the number that `name_for` added."""
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
    """Return the names of `WrittenFiles` in a folder's marker; empty without a marker."""
    return tuple(_hashes_of(folder))


def _marker_of(folder: Path) -> dict[str, object]:
    try:
        values = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_earlier_conversion(folder: Path) -> bool:
    """Return whether an earlier version of `convert` wrote a folder without marker, by the columns of its table."""
    try:
        with (folder / "table.csv").open() as file:
            return file.readline().strip() == "volume,state,code,shape,reason"
    except (OSError, UnicodeDecodeError):
        return False


CONVERTED = FolderKind("convert", {"table.csv": ()}, _is_earlier_conversion)
"""Output folder of `convert`; it may also have files of the user."""


def is_made_here(path: Path, patterns: Iterable[str]) -> bool:
    """Return whether the name of a file or folder matches a pattern."""
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)
