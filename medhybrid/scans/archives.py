"""Safe unpacking of zip archives, and the files listed in a DICOMDIR."""

from __future__ import annotations

import lzma
import os
import posixpath
import shutil
import stat
import tempfile
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from medhybrid.errors import ScanError
from medhybrid.names import printable_path, same_file_name
from medhybrid.scans.dicom.deflated import find_bomb

MAX_MEMBERS = 200_000
MAX_RATIO = 200
"""Largest ratio of unpacked to packed size. Only a single label map may compress better."""

MIN_CHECKED_BYTES = 256 << 20
"""Archives whose unpacked size, together for a folder, is smaller are not refused by `MAX_RATIO`."""

LOCAL_HEADER_BYTES = 30
"""Length of a member's header, before its name and its content."""

BLOCK = 1 << 20

MAX_LINKS = 40
"""Longest chain of symbolic links that is followed."""

MAX_LINK_BYTES = 4096
"""Longest path that a symbolic link leads to."""


UNPACK_BELOW: ContextVar[Path | None] = ContextVar("UNPACK_BELOW", default=None)
"""Folder for unpacked archives; by default, that of temporary files."""


class UnpackedFolder:
    """Temporary folder that is removed with this object, or when the interpreter exits."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="medhybrid-", dir=UNPACK_BELOW.get()))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def unpack(archive: Path, into: Path, *, n_dense: int = 0, on_link: Callable[[str], None] = lambda _name: None) -> int:
    """Unpack a zip archive into a folder. A symbolic link to another member becomes a copy of this member.

    Parameters
    ----------
    on_link : callable
        Called with the name of each symbolic link that leads to no file of the archive. It is left out.
    n_dense : int
        Unpacked bytes of earlier archives, of the same folder, of a larger ratio than `MAX_RATIO`.

    Returns
    -------
    int
        The same, with this archive.

    Raises
    ------
    ScanError
        If the archive is damaged or encrypted, a member's path is unsafe, or its unpacked size is too large. Members that
        were unpacked before the error stay in the folder.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = _without_copies([m for m in file.infolist() if not m.is_dir()])
            if not members:
                raise _refused(archive, "no files in it")
            sources = _sources(archive, file, members)
            n_dense = _check(archive, members, sources, shutil.disk_usage(into).free, n_dense)
            _refuse_overlaps(archive, file)
            for member, source in sources.items():
                if source is None:
                    on_link(member.filename)
                else:
                    _extract(file, source, into / _relative(archive, member))
            return n_dense
    except (
        zipfile.BadZipFile,
        OSError,
        RuntimeError,
        NotImplementedError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)  # without the temporary path
        raise _refused(archive, reason or type(error).__name__) from error


def _without_copies(members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return members without repeated entries of the same name, checksum and size."""
    return list({(m.filename, m.CRC, m.file_size): m for m in reversed(members)}.values())[::-1]


def _sources(
    archive: Path, file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]
) -> dict[zipfile.ZipInfo, zipfile.ZipInfo | None]:
    """Return the member that has the content of each member: itself, or the one that a link leads to, or None."""
    if len(members) > MAX_MEMBERS:
        raise _refused(archive, f"{len(members)} members")
    links = {m for m in members if stat.S_ISLNK(m.external_attr >> 16)}
    by_path = {_relative(archive, m).as_posix(): m for m in members}
    return {m: _behind_link(archive, file, m, by_path, links) if m in links else m for m in members}


def _behind_link(
    archive: Path,
    file: zipfile.ZipFile,
    link: zipfile.ZipInfo,
    members: Mapping[str, zipfile.ZipInfo],
    links: set[zipfile.ZipInfo],
) -> zipfile.ZipInfo | None:
    """Return the member that a symbolic link leads to, in several steps if need be; None if it is not in the archive."""
    found: zipfile.ZipInfo | None = link
    for _ in range(MAX_LINKS):
        if found is None or found not in links:
            return found
        if found.file_size > MAX_LINK_BYTES:
            return None
        text = os.fsdecode(file.read(found))
        folder = _relative(archive, found).parent
        found = (
            None if text.startswith("/") else members.get(posixpath.normpath(posixpath.join(folder.as_posix(), text)))
        )
    return None


def _check(
    archive: Path,
    members: list[zipfile.ZipInfo],
    sources: Mapping[zipfile.ZipInfo, zipfile.ZipInfo | None],
    free_bytes: int,
    n_dense: int,
) -> int:
    total = sum(m.file_size for m in sources.values() if m is not None)
    packed = min(sum(m.compress_size for m in members), archive.stat().st_size)
    if total > free_bytes // 2:
        raise _refused(archive, "it unpacks to more than half of the free disk space")
    is_dense = total > MAX_RATIO * max(packed, 1)
    if is_dense and n_dense + total > MIN_CHECKED_BYTES:
        others = f", after {n_dense / 2**20:.0f} MiB of other archives like it" if n_dense else ""
        raise _refused(archive, f"it unpacks to {total / 2**20:.0f} MiB, far more than images of this size{others}")
    places = [str(_relative(archive, m)) for m in members]
    if len(set(places)) < len(places):
        doubled = next(m.filename for m, p in zip(members, places, strict=True) if places.count(p) > 1)
        raise _refused(archive, f"two members with the same name: {printable_path(doubled)[:100]}")
    return n_dense + total if is_dense else n_dense


def _refuse_overlaps(archive: Path, file: zipfile.ZipFile) -> None:
    """Refuse members that share bytes of the archive (zip bomb)."""
    begins = sorted((m.header_offset, m.header_offset + LOCAL_HEADER_BYTES + m.compress_size) for m in file.infolist())
    ends = [end for _, end in begins]
    following = [begin for begin, _ in begins[1:]] + [file.start_dir]
    if any(end > begin for end, begin in zip(ends, following, strict=True)):
        raise _refused(archive, "members that overlap")


def _relative(archive: Path, member: zipfile.ZipInfo) -> Path:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    has_drive = any(PureWindowsPath(p).drive for p in path.parts)
    if path.is_absolute() or ".." in path.parts or has_drive or not path.parts:
        raise _refused(archive, "a member whose path is absolute, has a drive letter, or leads upwards")
    return Path(*path.parts)


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    """Write one member to a new file, and at most as many bytes as its header states."""
    to.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with file.open(member) as source, to.open("xb") as target:
        while block := source.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                raise zipfile.BadZipFile("a member is longer than its header states")
            target.write(block)


def _refused(archive: Path, found: str) -> ScanError:
    return ScanError(
        f"{archive.name} cannot be unpacked", found=found, remedy="unpack it with another program, or create it again"
    )


def files_of_dicomdir(path: Path) -> tuple[list[Path], int]:
    """Return the existing files that a DICOMDIR lists, and the number of missing ones.

    Raises
    ------
    ScanError
        If the DICOMDIR cannot be read, or lists a file outside its folder.
    """
    import pydicom

    try:
        if bomb := find_bomb(path):
            raise ScanError(f"{path.name} cannot be read as DICOMDIR", found=bomb)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # non-standard file names; the files are checked below
            records = pydicom.dcmread(path).DirectoryRecordSequence
            named = [r.ReferencedFileID for r in records if "ReferencedFileID" in r]
            parts = [[str(n)] if isinstance(n, str) else [str(p) for p in n] for n in named]
    except ScanError:
        raise
    except Exception as error:  # damaged files raise many kinds of exceptions
        raise ScanError(f"{path.name} cannot be read as DICOMDIR", found=type(error).__name__) from error
    named_files = [path.parent.joinpath(*p) for p in parts]
    is_inside = all(f.resolve().is_relative_to(path.parent.resolve()) for f in named_files)
    files = [_without_case(path.parent, p) for p in parts] if is_inside else []
    if not is_inside or any(not f.resolve().is_relative_to(path.parent.resolve()) for f in files):
        raise ScanError(f"{path.name} lists files outside its folder", remedy="copy the medium again")
    _names_in.cache_clear()  # files may be added before the next call
    present = sorted({f for f in files if f.is_file()})
    return present, len(set(files)) - len(present)


def _without_case(folder: Path, parts: Sequence[str]) -> Path:
    """Return a path below a folder, matched without regard to upper and lower case and Unicode form.

    Some systems change the case of file names on a CD. A name is replaced only if exactly one file matches.
    """
    at = folder
    for part in parts:
        exact = at / part
        alike = [] if exact.exists() else [n for n in _names_in(at) if same_file_name(n) == same_file_name(part)]
        at = at / alike[0] if len(alike) == 1 else exact
    return at


@lru_cache(maxsize=64)
def _names_in(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(os.listdir(folder))
    except OSError:
        return ()
