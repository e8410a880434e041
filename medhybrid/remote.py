"""Local copies of remote folders: S3 and the other stores of fsspec.

A `Mirror` is a URL and a local folder. `fetch` downloads new and changed files; `send` uploads files. Uploads are atomic on
stores with atomic writes, such as S3. fsspec and its drivers read credentials and endpoints from the environment
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...); medhybrid stores none. The extra `[scale]` has the driver for S3.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError, DataError
from medhybrid.files import held, write_atomically

logger = logging.getLogger(__name__)

INDEX = ".mirror.json"
"""File in the local folder: state of the remote file and of its copy at the last transfer, by file name."""

PART = ".part"
"""Suffix of a file during its download."""

FILES_AT_ONCE = 64
"""Files in one download and one update of the index; a killed process loses at most these."""

OTHERS = ("dicomweb", "dimse", "sqlite", "http", "https")
"""Schemes that do not stand for remote folders here."""


def is_remote(place: str | Path) -> bool:
    """Return whether a place is a URL that needs a mirror."""
    scheme, separator, _ = str(place).partition("://")
    return bool(separator) and scheme.isalnum() and scheme not in OTHERS


class Mirror:
    """Remote folder and its local copy.

    Parameters
    ----------
    url : str
        For example `s3://bucket/folder`.
    folder : Path, optional
        The local copy; by default a folder named by the URL's hash in `~/.cache/medhybrid` (or below `XDG_CACHE_HOME`).

    Raises
    ------
    ConfigError
        If the driver for the URL is not installed.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        import fsspec

        self.url = url.rstrip("/")
        if hide_password(self.url) != self.url:
            raise ConfigError(
                f"{self.url} holds a user or a password",
                expected="an address without them: it is stored and shown",
                remedy="put them into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)",
            )
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{url} cannot be opened", found=str(error).splitlines()[0], remedy="pip install 'medhybrid[scale]'"
            ) from error
        self.folder = folder or _cache() / hashlib.sha256(self.url.encode()).hexdigest()[:24]
        self._index_path = self.folder / INDEX
        self._index = _read_index(self._index_path)

    def fetch(self, *, restores: bool = False) -> Path:
        """Download new and changed files, remove deleted ones, and return the local folder.

        Parameters
        ----------
        restores : bool
            Download files that changed locally again; otherwise they count as results that are still to be sent.

        Raises
        ------
        DataError
            If the store does not respond, or a name points outside the folder.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with held(
            self.folder.with_name(f"{self.folder.name}.lock")
        ):  # processes of one training fetch at the same time
            self._index = _read_index(self._index_path)
            try:
                self._fs.invalidate_cache()
                listed: dict[str, Any] = self._fs.find(self._root, detail=True)
            except Exception as error:  # each driver raises different exceptions
                raise _unreachable(self.url, error) from error
            # some tools store a folder as an empty file whose name ends in a slash
            found = {p: i for p, i in listed.items() if not p.endswith("/") and i.get("type") != "directory"}
            marks = {self._name_of(path): _mark(info) for path, info in found.items()}
            wanted = {name: mark for name, mark in marks.items() if not self._is_index(name)}
            new = [n for n, m in wanted.items() if not self._is_here(n, m, restores)]
            for begin in range(0, len(new), FILES_AT_ONCE):
                self._fetch(new[begin : begin + FILES_AT_ONCE], wanted)
            for name in self._index.keys() - wanted.keys():
                self._place_of(name).unlink(missing_ok=True)
                del self._index[name]
            self.save()
        return self.folder

    def _is_here(self, name: str, mark: str, restores: bool) -> bool:
        """Return whether the copy of a file is current; to restore, it must also be unchanged."""
        local, (of, stamp) = self.folder / name, self._index.get(name, ("", ""))
        return of == mark and local.is_file() and not (restores and not _is_untouched(local, stamp))

    def send(self, names: Iterable[str]) -> None:
        """Upload local files in this order; files that are absent locally are deleted remotely.

        Raises
        ------
        DataError
            If the store does not respond.
        """
        try:
            for name in names:
                remote, local = f"{self._root}/{name}", self.folder / name
                if local.is_file():
                    stamp = _stamp(local)
                    self._fs.put_file(str(local), remote)
                    # fsspec caches listings, which would give the state before the upload
                    self._fs.invalidate_cache(self._fs._parent(remote))
                    self._index[name] = _mark(self._fs.info(remote)), stamp
                elif name in self._index:
                    self._fs.rm_file(remote)
                    del self._index[name]
        except Exception as error:
            raise _unreachable(self.url, error) from error

    def send_changes(self, folders: Sequence[str]) -> None:
        """Send new and changed files in these subfolders, for example after the store was unavailable."""
        files = [p for f in folders for p in sorted((self.folder / f).glob("*")) if not p.name.startswith(".")]
        self.send(self._changed(files))
        self.save()

    def changes(self) -> list[str]:
        """Return the names of new, changed and removed files in the local copy."""
        files = [p for p in sorted(self.folder.rglob("*")) if not _is_ours(p.relative_to(self.folder))]
        gone = [n for n in self._index if not (self.folder / n).is_file()]
        return [*self._changed(files), *gone]

    def withdraw(self, names: Iterable[str]) -> None:
        """Delete remote files before they are sent again; raises `DataError` if the store does not respond."""
        try:
            for name in names:
                if self._index.pop(name, None) is not None:
                    self._fs.rm_file(f"{self._root}/{name}")
        except Exception as error:
            raise _unreachable(self.url, error) from error

    def save(self) -> None:
        """Save the index."""
        write_atomically(self._index_path, json.dumps(self._index))

    def _changed(self, files: Iterable[Path]) -> list[str]:
        names = [p.relative_to(self.folder).as_posix() for p in files if p.is_file()]
        return [
            n for n in names if _content_of(self._index.get(n, ("", ""))[1]) != _content_of(_stamp(self.folder / n))
        ]

    def _fetch(self, names: Sequence[str], marks: dict[str, str]) -> None:
        pending = [self._place_of(f"{name}{PART}") for name in names]
        try:
            for path in pending:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get([f"{self._root}/{n}" for n in names], [str(p) for p in pending])
            for name, path in zip(names, pending, strict=True):
                path.replace(self.folder / name)
                self._index[name] = marks[name], _stamp(self.folder / name)
        except Exception as error:  # of the driver, or where a name is a file locally and a folder remotely
            raise _unreachable(self.url, error) from error
        self.save()

    def _name_of(self, path: str) -> str:
        """Return a key relative to the folder; raises `DataError` for a key that points outside it."""
        name = path[len(self._root) :].lstrip("/") if path.startswith(self._root) else path
        if not name:
            raise DataError(
                f"{self.url} is a file", expected="the URL of a folder", remedy="give the URL of its folder"
            )
        if not _is_inside(name):
            raise DataError(f"{self.url} has a file whose name points outside the folder", found=name[:80])
        return name

    def _is_index(self, name: str) -> bool:
        """Return whether a key would be written over the index; such a key is skipped."""
        first = "".join(c for c in unicodedata.normalize("NFKC", PurePosixPath(name).parts[0]) if c.isprintable())
        if is_taken := first.casefold().startswith(INDEX):
            logger.warning("%s has a file that is skipped: the local copy needs its name (%s)", self.url, INDEX)
        return is_taken

    def _place_of(self, name: str) -> Path:
        """Return the local path of a key; raises `DataError` if a link in the local folder leads it elsewhere."""
        path = self.folder / name
        if not path.parent.resolve().is_relative_to(self.folder.resolve()):
            raise DataError(
                f"the local copy of {self.url} has a link to another folder",
                expected="files and folders that medhybrid fetched",
                found=str(path.parent),
                remedy="remove the link",
            )
        return path


def local_copy(place: str | Path) -> Path:
    """Return a local path: the path itself, or a copy that is fetched now."""
    return Mirror(str(place)).fetch(restores=True) if is_remote(place) else Path(place)


def place_of_copy(place: str | Path) -> Path:
    """Return a local path: the path itself, or the folder of its last copy."""
    return Mirror(str(place)).folder if is_remote(place) else Path(place)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medhybrid" / "remote"


def _read_index(path: Path) -> dict[str, tuple[str, str]]:
    try:
        found = json.loads(path.read_text())
        return {str(name): (str(mark), str(stamp)) for name, (mark, stamp) in found.items() if _is_inside(name)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _is_inside(name: str) -> bool:
    """Return whether a file name of a store or of the index stays in the local folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not Path(name).anchor and "\0" not in name and "\\" not in name


def _is_ours(name: Path) -> bool:
    """Return whether a local file is hidden or incomplete, so that it is not sent."""
    return name.suffix == PART or any(part.startswith(".") for part in name.parts)


def _stamp(path: Path) -> str:
    """Return size, time of the content, and time of the last change of a local file; nobody can set back the last one."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _content_of(stamp: str) -> list[str]:
    """Return size and time of the content from a stamp; a file that was only copied or moved has the same."""
    return stamp.split()[:2]


def _is_untouched(path: Path, stamp: str) -> bool:
    """Return whether a file has its stamp; stamps of earlier versions had no time of the last change."""
    return _stamp(path).split()[: max(2, len(stamp.split()))] == stamp.split()


def _mark(info: dict[str, Any]) -> str:
    """Return size and ETag or time of a remote file, which change with its content."""
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info.get('size')} {stamp}"


def _unreachable(url: str, error: Exception) -> DataError:
    text = f"{type(error).__name__}: {str(error)[:200]}"
    return DataError(f"{url} cannot be read or written", found=text, remedy="check the address and the credentials")
