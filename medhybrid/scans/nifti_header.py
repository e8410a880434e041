"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5 files: the shape, the type and the file of the values."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medhybrid.errors import ScanError
from medhybrid.scans.claims import MAX_DEFLATE_RATIO, check_claim
from medhybrid.scans.streams import is_gzip, open_plain_or_gzip, report_damage

SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr")

VALUE_SUFFIXES = (".img.gz", ".img")
"""Suffixes of the file of values that belongs to a `.hdr` file."""

MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Factors to mm by the code of the header's spatial unit. Without a unit, millimetres are assumed."""

GEOMETRY_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
"""Fields that determine the affine in any reader, besides `pixdim[0:4]`."""

BYTES_OF_VERSION_1 = 348

BYTES_OF_VERSION_2 = 540

_SILENT = logging.Logger("nibabel headers", level=logging.CRITICAL + 1)


POINTERS = (b"version https://git-lfs", b"/annex/objects/")
"""First bytes of files that stand for large files in a repository of data."""


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """Header of a NIfTI or Analyze file.

    Attributes
    ----------
    stored : nibabel header
        The header as stored in the file.
    checked : nibabel header
        The header after nibabel's repairs.
    values : Path
        The file that holds the values.
    is_analyze : bool
        True for Analyze 7.5, which stores no orientation.
    """

    stored: Any
    checked: Any
    values: Path
    is_analyze: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Return the shape as stored in the file."""
        shape = tuple(int(n) for n in self.checked.get_data_shape())
        return *shape[:3], *(n or 1 for n in shape[3:])  # some programs write 0 for axes that are not used

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape `(X, Y, Z)`, or `(X, Y, Z, C)` if an axis after the third is longer than 1."""
        stored = self.stored_shape
        return *stored[:3], *(1,) * (3 - len(stored)), *(n for n in stored[3:] if n != 1)

    @property
    def mm_per_unit(self) -> float:
        """Return the factor from the header's unit of length to mm."""
        return MM_PER_UNIT.get(self.unit, 1.0)

    @property
    def unit(self) -> int:
        """Return the code of the header's unit of length (0 for Analyze)."""
        return 0 if self.is_analyze else unit_of(self.stored)


def read_header(path: Path) -> NiftiHeader:
    """Read a header, and find the file of its values.

    Raises
    ------
    ScanError
        If the header is not valid, the values are missing, or they are not real numbers.
    """
    if path.name.lower().endswith(VALUE_SUFFIXES):
        raise ScanError(
            f"{path.name} holds values without a header",
            expected=f"{_stem(path)}.hdr in the same folder",
            remedy="copy both files of the pair",
        )
    try:
        content = _read_start(path)
        stored = parse_header(path, content)
        checked = repair(stored)
        header = NiftiHeader(stored, checked, _find_values(path), "magic" not in stored)
        _check(path, header)
    except ScanError:
        raise
    except Exception as error:  # damaged headers raise many kinds of exceptions
        raise _unreadable(path, str(error) or type(error).__name__) from error
    return header


def _read_start(path: Path) -> bytes:
    """Read the bytes of a header of either version; raises `ScanError` if they are damaged, or `OSError`."""
    try:
        with open_plain_or_gzip(path) as stream:
            content = stream.read(BYTES_OF_VERSION_1)
            if content[4:7] in (b"n+2", b"ni2"):
                content += stream.read(BYTES_OF_VERSION_2 - BYTES_OF_VERSION_1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise report_damage(path, error) from error
    return content


def is_pair_header(path: Path) -> bool:
    """Return True if a `.hdr` file is the header of a NIfTI or Analyze pair. Other formats also use this suffix."""
    try:
        with open_plain_or_gzip(path) as stream:
            start = stream.read(4)
    except (OSError, EOFError, zlib.error):
        start = b""
    is_header = any(
        int.from_bytes(start, order) in (BYTES_OF_VERSION_1, BYTES_OF_VERSION_2) for order in ("little", "big")
    )
    return is_header or _beside(path, VALUE_SUFFIXES) is not None


def header_beside(path: Path) -> Path | None:
    """Return the `.hdr` file of an `.img` file, or None if it does not exist."""
    return _beside(path, (".hdr", ".hdr.gz"))


def parse_header(path: Path, content: bytes) -> Any:
    """Parse a header with nibabel, without repairs; raises `ScanError` if its format is unknown."""
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
    from nibabel.spm2analyze import Spm2AnalyzeHeader

    is_pair = path.name.lower().endswith((".hdr", ".hdr.gz"))
    magic = content[344:347] if content[344:347] in (b"ni1", b"n+1") else content[4:7]
    if magic in (b"ni1", b"ni2") and not is_pair:
        raise _unreadable(path, "the header of a .hdr and .img pair", "rename it to .hdr, in the folder of its .img")
    kinds = {b"n+1": Nifti1Header, b"ni1": Nifti1PairHeader, b"n+2": Nifti2Header, b"ni2": Nifti2PairHeader}
    if magic in kinds:
        kind = kinds[magic]
    elif is_pair and any(int.from_bytes(content[:4], order) == BYTES_OF_VERSION_1 for order in ("little", "big")):
        kind = Spm2AnalyzeHeader
    elif content.startswith(POINTERS):
        raise _unreadable(
            path, "a pointer of Git LFS or git-annex", "fetch the file itself: git lfs pull, or git annex get"
        )
    else:
        raise _unreadable(path, "not a NIfTI header" if content else "an empty file")
    size = kind.template_dtype.itemsize
    if len(content) < size:
        raise _unreadable(path, f"{len(content)} bytes, but a header has {size}")
    return kind(content[:size], check=False)


def unit_of(stored: Any) -> int:
    """Return the code of a NIfTI header's unit of length."""
    return int(stored["xyzt_units"]) & 7


def repair(stored: Any) -> Any:
    """Return a copy of a header with nibabel's repairs.

    nibabel's log lines are suppressed: relevant faults become notes of the scan.

    Raises
    ------
    nibabel.spatialimages.HeaderDataError
        If the header cannot be repaired.
    """
    checked = stored.copy()
    checked.check_fix(logger=_SILENT)
    return checked


def _check(path: Path, header: NiftiHeader) -> None:
    """Raise `ScanError` unless the header describes a volume of real numbers that fits in its file."""
    shape = header.shape
    if len(header.stored_shape) < 2 or len(shape) > 4 or min(shape) < 1:
        raise ScanError(
            f"{path.name} is not a volume",
            expected="2 or 3 axes of voxels, and 1 of channels",
            found=f"shape {header.stored_shape}",
            remedy="split time series into volumes",
        )
    dtype = header.checked.get_data_dtype()
    if dtype.fields is not None:
        raise ScanError(
            f"{path.name} holds colours",
            expected="one number for each voxel",
            found=str(dtype),
            remedy="convert it to greyscale",
        )
    if dtype.kind not in "iuf":
        raise ScanError(
            f"{path.name} does not hold real numbers",
            expected="integers or floats",
            found=str(dtype),
            remedy="save only magnitude or phase" if dtype.kind == "c" else "export it again",
        )
    max_ratio = MAX_DEFLATE_RATIO if is_gzip(header.values) else 1
    check_claim(path, shape, dtype.itemsize, data=header.values, max_ratio=max_ratio)


def _find_values(path: Path) -> Path:
    """Return the file of a header's values; raises `ScanError` if it is missing."""
    if not path.name.lower().endswith((".hdr", ".hdr.gz")):
        return path
    values = _beside(path, VALUE_SUFFIXES)
    if values is None:
        raise ScanError(
            f"{path.name} is a header without its values",
            expected=f"{_stem(path)}.img in the same folder",
            remedy="copy both files of the pair",
        )
    return values


def _beside(path: Path, suffixes: tuple[str, ...]) -> Path | None:
    """Return the file with the same stem and one of `suffixes`, in upper or lower case, or None."""
    stem = _stem(path)
    for suffix in suffixes:
        for other in (path.with_name(stem + suffix), path.with_name(stem + suffix.upper())):
            if other.is_file():
                return other
    with suppress(OSError):
        names = _names_in(path.parent, path.parent.stat().st_mtime_ns)
        wanted = {(stem + suffix).lower() for suffix in suffixes}
        alike = [n for n in names if n.lower() in wanted]
        has_partner = any(n != path.name and _stem(Path(n)) == _stem(Path(a)) for a in alike for n in names if n != a)
        return path.with_name(alike[0]) if len(alike) == 1 and not has_partner else None
    return None


@lru_cache(maxsize=16)
def _names_in(folder: Path, _changed: int) -> tuple[str, ...]:
    """Return the names in a folder that may be files of a pair."""
    return tuple(n for n in os.listdir(folder) if n.lower().endswith((".hdr", ".hdr.gz", *VALUE_SUFFIXES)))


def _stem(path: Path) -> str:
    for suffix in (*SUFFIXES, *VALUE_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _unreadable(path: Path, found: str, remedy: str = "export it again") -> ScanError:
    return ScanError(f"{path.name} cannot be read as NIfTI", found=found, remedy=remedy)
