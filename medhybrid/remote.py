"""Folders that are elsewhere (S3 and whatever else fsspec knows), worked on through a copy here.

A `Mirror` is a URL and a local folder. `fetch` brings what is new or changed, `send` puts a file back, whole or not at all
where the store writes objects so (S3 does). Credentials and endpoints are those that fsspec and its drivers read from the
environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...); none is written anywhere. The driver for S3 comes with the extra
`[scale]`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medhybrid.addresses import hide_password
from medhybrid.errors import ConfigError, DataError
from medhybrid.files import held, write_atomically

INDEX = ".mirror.json"
"""In the local folder: by file, what original and copy were when they were the same."""

PART = ".part"
"""Ending of a file that is being fetched."""

FILES_AT_ONCE = 64
"""Fetched together, and on record together: what a kill costs."""

OTHERS = ("dicomweb", "dimse", "sqlite", "http", "https")
"""Schemes that are no folders of files, or mean something else here."""


def is_remote(place: str | Path) -> bool:
    """Whether a place is a URL that a mirror is needed for."""
    scheme, separator, _ = str(place).partition("://")
    return bool(separator) and scheme.isalnum() and scheme not in OTHERS


class Mirror:
    """A remote folder and its copy.

    Parameters
    ----------
    url : str
        As `s3://bucket/folder`.
    folder : Path, optional
        Where the copy is; by default below `~/.cache/medhybrid` (or `XDG_CACHE_HOME`), by the URL's hash.

    Raises
    ------
    ConfigError
        If no driver for the URL is installed.
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
                f"{url} cannot be reached", found=str(error).splitlines()[0], remedy="pip install 'medhybrid[scale]'"
            ) from error
        self.folder = folder or _cache() / hashlib.sha256(self.url.encode()).hexdigest()[:24]
        self._index_path = self.folder / INDEX
        self._index = _read_index(self._index_path)

    def fetch(self, *, restores: bool = False) -> Path:
        """Bring what is new or changed, forget what is gone; returns the local folder.

        Parameters
        ----------
        restores : bool
            Files that changed here are fetched again; otherwise they are taken for results that are still to be sent.

        Raises
        ------
        DataError
            If the store does not answer, or a name leads out of the folder.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with held(self.folder.with_name(f"{self.folder.name}.lock")):  # processes of one training fetch together
            self._index = _read_index(self._index_path)
            try:
                self._fs.invalidate_cache()
                listed: dict[str, Any] = self._fs.find(self._root, detail=True)
            except Exception as error:  # each driver has errors of its own
                raise _unreachable(self.url, error) from error
            # some tools keep a folder as an empty file whose name ends in a slash
            found = {p: i for p, i in listed.items() if not p.endswith("/") and i.get("type") != "directory"}
            wanted = {self._name_of(path): _mark(info) for path, info in found.items()}
            new = [n for n, m in wanted.items() if not self._is_here(n, m, restores)]
            for begin in range(0, len(new), FILES_AT_ONCE):
                self._fetch(new[begin : begin + FILES_AT_ONCE], wanted)
            for name in self._index.keys() - wanted.keys():
                (self.folder / name).unlink(missing_ok=True)
                del self._index[name]
            self.save()
        return self.folder

    def _is_here(self, name: str, mark: str, restores: bool) -> bool:
        """Whether the copy of a file is of its original as it is now, and, to restore, unchanged since."""
        local, (of, stamp) = self.folder / name, self._index.get(name, ("", ""))
        return of == mark and local.is_file() and not (restores and _stamp(local) != stamp)

    def send(self, names: Iterable[str]) -> None:
        """Put local files in place of their originals, in this order; those that are absent here are taken away there.

        Raises
        ------
        DataError
            If the store does not answer.
        """
        try:
            for name in names:
                remote, local = f"{self._root}/{name}", self.folder / name
                if local.is_file():
                    stamp = _stamp(local)
                    self._fs.put_file(str(local), remote)
                    self._fs.invalidate_cache(self._fs._parent(remote))
                    self._index[name] = _mark(self._fs.info(remote)), stamp
                elif name in self._index:
                    self._fs.rm_file(remote)
                    del self._index[name]
        except Exception as error:
            raise _unreachable(self.url, error) from error

    def send_changes(self, folders: Sequence[str]) -> None:
        """Send what is new or other than its original in these folders below the copy, as after a store was away."""
        files = [p for f in folders for p in sorted((self.folder / f).glob("*")) if not p.name.startswith(".")]
        self.send(self._changed(files))
        self.save()

    def changes(self) -> list[str]:
        """Files anywhere below the copy that are new or other than their originals, and those that are gone from it."""
        files = [p for p in sorted(self.folder.rglob("*")) if not _is_ours(p.relative_to(self.folder))]
        gone = [n for n in self._index if not (self.folder / n).is_file()]
        return [*self._changed(files), *gone]

    def withdraw(self, names: Iterable[str]) -> None:
        """Take originals away that are to be sent again; raises `DataError` if the store does not answer."""
        try:
            for name in names:
                if self._index.pop(name, None) is not None:
                    self._fs.rm_file(f"{self._root}/{name}")
        except Exception as error:
            raise _unreachable(self.url, error) from error

    def save(self) -> None:
        """Remember what is the same here and there."""
        write_atomically(self._index_path, json.dumps(self._index))

    def _changed(self, files: Iterable[Path]) -> list[str]:
        names = [p.relative_to(self.folder).as_posix() for p in files if p.is_file()]
        return [n for n in names if self._index.get(n, ("", ""))[1] != _stamp(self.folder / n)]

    def _fetch(self, names: Sequence[str], marks: dict[str, str]) -> None:
        pending = [self.folder / f"{name}{PART}" for name in names]
        try:
            for path in pending:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get([f"{self._root}/{n}" for n in names], [str(p) for p in pending])
            for name, path in zip(names, pending, strict=True):
                path.replace(self.folder / name)
                self._index[name] = marks[name], _stamp(self.folder / name)
        except Exception as error:  # the driver's; or a name that is a file here and a folder there
            raise _unreachable(self.url, error) from error
        self.save()

    def _name_of(self, path: str) -> str:
        """Below the folder; raises `DataError` for a key that would lead elsewhere."""
        name = path[len(self._root) :].lstrip("/") if path.startswith(self._root) else path
        if not name:
            raise DataError(
                f"{self.url} is a file", expected="the URL of a folder", remedy="give that of the folder it is in"
            )
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\0" in name or "\\" in name:
            raise DataError(f"{self.url} has a file whose name leads elsewhere", found=name[:80])
        return name


def local_copy(place: str | Path) -> Path:
    """A folder or file that is here: itself, or a fetched copy."""
    return Mirror(str(place)).fetch(restores=True) if is_remote(place) else Path(place)


def place_of_copy(place: str | Path) -> Path:
    """A folder that is here: itself, or where its copy is, as it was fetched last."""
    return Mirror(str(place)).folder if is_remote(place) else Path(place)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medhybrid" / "remote"


def _read_index(path: Path) -> dict[str, tuple[str, str]]:
    try:
        found = json.loads(path.read_text())
        return {str(name): (str(mark), str(stamp)) for name, (mark, stamp) in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _is_ours(name: Path) -> bool:
    """Hidden, or not yet whole."""
    return name.suffix == PART or any(part.startswith(".") for part in name.parts)


def _stamp(path: Path) -> str:
    """What changes when a local file does."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _mark(info: dict[str, Any]) -> str:
    """What changes when a remote file does."""
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info.get('size')} {stamp}"


def _unreachable(url: str, error: Exception) -> DataError:
    text = f"{type(error).__name__}: {str(error)[:200]}"
    return DataError(f"{url} does not answer as it should", found=text, remedy="check the address and the credentials")
