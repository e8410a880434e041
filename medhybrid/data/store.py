"""Prepared cases on disk, which are read patch by patch.

A case is a folder with these files:

image.b2nd       (C, X, Y, Z) float16, compressed in chunks
labels.b2nd      (X, Y, Z) uint8 with values 0..n on the network's grid, compressed in chunks
mask.b2nd        (X, Y, Z) uint8, the reference with values 0..n on the scan's grid, for validation on this grid
foreground.npy   (N, 4) int32, foreground voxels as x, y, z and label; if most voxels are unknown, also known background (0)
case.json        record of the case, with a checksum of each file, written last

A case is written under a temporary name and then renamed, so that a folder with the final name is complete.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.data.checksums import checksum_of, checksum_of_json
from medhybrid.data.fingerprint import MIN_KNOWN, UNKNOWN
from medhybrid.errors import DataError, reason_of
from medhybrid.files import check_file
from medhybrid.geometry import Grid, Turn
from medhybrid.names import check_case_name, printable_path
from medhybrid.owned import remove_made

CHUNK_VOXELS = 64
"""Edge length of a compressed chunk: reading a patch decompresses few chunks."""

FOREGROUND_PER_LABEL = 4_000
"""Largest number of voxels that are stored for each label, as an even sample."""


CASE_FILES = ("image.b2nd", "labels.b2nd", "mask.b2nd", "foreground.npy", "case.json")
"""Names of the files of a prepared case."""


Stamps = list[tuple[str, int, int] | tuple[str, int, int, int, int]]
"""Stamps of files (see `stamp_files`). Stamps of earlier versions have three values and never compare equal."""


class CaseRecord(BaseModel):
    """Content of `case.json`.

    Attributes
    ----------
    reference_ml, grid_ml : dict
        Volume of each label in the reference mask, and on the network's grid.
    thinnest_mm : dict
        For labels that lose volume on the grid: the smallest extents of their components along the axes of the grid.
    n_outliers : int
        Number of voxels with outliers that were replaced; see `data.outliers`.
    annotated : tuple of str, optional
        Labels or regions that the reference has; None for all. The volumes are of these only.
    known_share : float
        Share of the voxels of the reference whose label is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    subject: str
    sources_hash: str
    preparation_hash: str
    source_shape: tuple[int, int, int]
    source_affine: list[list[float]]
    affine: list[list[float]]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    reference_ml: dict[str, float]
    pictures: tuple[str, ...]
    context: dict[str, float] = {}
    is_labelled: bool = True
    grid_ml: dict[str, float] = {}
    thinnest_mm: dict[str, tuple[float, float, float]] = {}
    n_outliers: int = 0
    annotated: tuple[str, ...] | None = None
    known_share: float = 1.0
    checksums: dict[str, str] = {}
    """File name to checksum; empty for a case that was prepared by a version without checksums."""


def _open_array(path: Path) -> Any:
    """Open a blosc2 array; raise `ValueError` for other content, such as expressions, which blosc2 would evaluate."""
    import blosc2

    try:
        opened = blosc2.open(str(path), mode="r")
    except Exception as error:  # damaged files raise many kinds of errors
        raise ValueError(f"{path.name}: {error}") from error
    if type(opened) is not blosc2.NDArray or opened.dtype.kind not in "biuf":
        raise ValueError(f"{path.name} is not a numeric array")
    return opened


class PreparedCase:
    """Prepared case, opened for reading. Arrays are decompressed only when they are read.

    The checksum of each file is compared before its first use, because blosc2 decompresses damaged data without an error.

    Raises
    ------
    DataError
        If a file is damaged. The methods that read values raise it, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked: set[str] = set()
        try:
            text = (folder / "case.json").read_bytes()
            self.record = CaseRecord.model_validate_json(text)
            if self.record.checksums.get("case.json", checksum_of_json(text)) != checksum_of_json(text):
                raise ValueError("the checksum of case.json differs")
            self._check("foreground.npy")
            self._image: Any = _open_array(folder / "image.b2nd")
            self._labels: Any = _open_array(folder / "labels.b2nd")
            self.foreground: NDArray[np.int32] = np.load(folder / "foreground.npy", allow_pickle=False)
        except (OSError, ValidationError, ValueError, RuntimeError) as error:
            raise self._damage(str(error)[:200]) from error

    def _check(self, name: str) -> None:
        """Compare the checksum of a file before its first use; raise `DataError` if it differs."""
        if name in self._checked:
            return
        expected = self.record.checksums.get(name)
        try:
            found = None if expected is None else checksum_of(self.folder / name)
        except OSError as error:
            raise self._damage(str(error)) from error
        if found != expected:
            raise self._damage(f"{name} with checksum {found} instead of {expected}")
        self._checked.add(name)

    def _damage(self, found: str) -> DataError:
        return DataError(
            f"prepared case {self.folder.name} is damaged",
            found=found,
            remedy=f"delete {self.folder} and run medhybrid preprocess",
        )

    @property
    def name(self) -> str:
        """Return the case's name."""
        return self.record.case

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the spatial shape on the network's grid."""
        _, x, y, z = self._image.shape
        return int(x), int(y), int(z)

    @property
    def grid(self) -> Grid:
        """Return the network's grid for this case."""
        return Grid(self.shape, np.array(self.record.affine))

    @property
    def source_grid(self) -> Grid:
        """Return the scan's grid."""
        return Grid(self.record.source_shape, np.array(self.record.source_affine))

    @property
    def turn(self) -> Turn:
        """Return the reordering of the scan's axes to RAS."""
        return Turn(self.record.axes, self.record.flips)

    def context(self, fields: Sequence[str]) -> NDArray[np.float32]:
        """Return the values (F,) of metadata fields; NaN if a value is missing."""
        return np.array([self.record.context.get(field, np.nan) for field in fields], np.float32)

    def image(self) -> NDArray[np.float32]:
        """Read the whole image (C, X, Y, Z)."""
        self._check("image.b2nd")
        return np.asarray(self._image[:]).astype(np.float32)

    def labels(self) -> NDArray[np.uint8]:
        """Read the whole label map (X, Y, Z) on the network's grid; voxels of unknown label are background."""
        labels = self.labels_with_unknown()
        return np.where(labels == UNKNOWN, 0, labels).astype(np.uint8)

    def labels_with_unknown(self) -> NDArray[np.uint8]:
        """Read the whole label map (X, Y, Z) on the network's grid, with `UNKNOWN` voxels."""
        self._check("labels.b2nd")
        return np.asarray(self._labels[:])

    def source_mask(self) -> NDArray[np.uint8]:
        """Read the reference mask (X, Y, Z) on the scan's grid, with values 0..n; unknown voxels are background."""
        mask = self.source_mask_with_unknown()
        return np.where(mask == UNKNOWN, 0, mask).astype(np.uint8)

    def source_mask_with_unknown(self) -> NDArray[np.uint8]:
        """Read the reference mask (X, Y, Z) on the scan's grid, with values 0..n and `UNKNOWN`."""
        self._check("mask.b2nd")
        try:
            return np.asarray(_open_array(self.folder / "mask.b2nd")[:])
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damage(str(error)[:200]) from error

    def read_box(
        self, start: tuple[int, int, int], size: tuple[int, int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Read image (C, *size) and labels (*size) of the box at `start`; values outside the volume are zero.

        In a case with few known voxels, labels outside the volume are `UNKNOWN`: as background, they would outnumber them.
        """
        self._check("image.b2nd")
        self._check("labels.b2nd")
        image = np.zeros((self._image.shape[0], *size), np.float32)
        labels = np.full(size, UNKNOWN if self.record.known_share < MIN_KNOWN else 0, np.uint8)
        source, target = [], []
        for begin, length, full in zip(start, size, self.shape, strict=True):
            low, high = max(begin, 0), min(begin + length, full)
            if low >= high:
                return image, labels
            source.append(slice(low, high))
            target.append(slice(low - begin, high - begin))
        image[(slice(None), *target)] = self._image[(slice(None), *source)]
        labels[tuple(target)] = self._labels[tuple(source)]
        return image, labels


def save_case(
    folder: Path,
    record: CaseRecord,
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    *,
    source_mask: NDArray[np.uint8],
    n_labels: int,
) -> None:
    """Write a prepared case. An existing one of the same name is replaced at the end.

    Raises
    ------
    DataError
        If the case's name cannot be used for a folder.
    OutputError
        If a folder of this name exists and contains other files.
    """
    import blosc2

    check_case_name(record.case, source=printable_path(folder))
    temporary = folder.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{folder.name}")
    temporary.mkdir(parents=True)
    try:
        chunk = tuple(min(n, CHUNK_VOXELS) for n in labels.shape)
        cparams = {"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1}
        with _disk_errors(temporary, image.size * 2):
            blosc2.asarray(
                np.ascontiguousarray(image.astype(np.float16)),
                chunks=(1, *chunk),
                urlpath=str(temporary / "image.b2nd"),
                cparams=cparams,
            )
            for name, array in (("labels", labels), ("mask", source_mask)):
                blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary / f"{name}.b2nd"), cparams=cparams)
        has_few = record.known_share < MIN_KNOWN
        np.save(temporary / "foreground.npy", foreground_index(labels, n_labels, with_background=has_few))
        (temporary / "case.json").write_text(_with_checksums(record, temporary).model_dump_json(indent=1))
        remove_case(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path, n_bytes: int) -> Iterator[None]:
    """Raise the `OSError` of the disk for an error of blosc2, which does not give the reason, if it cannot take `n_bytes`."""
    try:
        yield
    except RuntimeError:
        probe = folder / "probe"
        try:
            probe.write_bytes(bytes(n_bytes))
        finally:
            probe.unlink(missing_ok=True)
        raise


def load_record(folder: Path) -> CaseRecord:
    """Load `case.json` of a prepared case; raise `DataError` if it is damaged."""
    try:
        return CaseRecord.model_validate_json((folder / "case.json").read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise DataError(
            f"prepared case {folder.name} is damaged", found=reason_of(error), remedy="run medhybrid preprocess"
        ) from error


def remove_case(folder: Path) -> None:
    """Remove a prepared case; raise `OutputError` if its folder contains other files."""
    remove_made(folder, CASE_FILES)


def _with_checksums(record: CaseRecord, folder: Path) -> CaseRecord:
    """Add the checksums of the files in `folder`, and of the record itself, to a record."""
    checksums = {path.name: checksum_of(path) for path in sorted(folder.iterdir())}
    checksums["case.json"] = checksum_of_json(record.model_dump_json().encode())
    return record.model_copy(update={"checksums": checksums})


def foreground_index(labels: NDArray[np.uint8], n_labels: int, *, with_background: bool = False) -> NDArray[np.int32]:
    """Return foreground voxels (N, 4) as x, y, z, label; at most `FOREGROUND_PER_LABEL` of each label.

    Parameters
    ----------
    with_background : bool
        Return background voxels as well, with label 0: of scribbles, where few places have anything to learn from.
    """
    flat = labels.ravel()
    where = np.flatnonzero((flat >= (0 if with_background else 1)) & (flat <= n_labels))
    where = where[np.argsort(flat[where], kind="stable")]
    kept = [
        of_label[:: max(1, -(-len(of_label) // FOREGROUND_PER_LABEL))]
        for of_label in np.split(where, np.cumsum(np.bincount(flat[where], minlength=n_labels + 1))[:-1])
    ]
    chosen = np.concatenate(kept)
    return np.column_stack([*np.unravel_index(chosen, labels.shape), flat[chosen]]).astype(np.int32)


def hash_files(paths: Iterable[Path]) -> str:
    """Compute the SHA-256 over names and contents of files, in order; for a folder, over its files."""
    digest = hashlib.sha256()
    for path in _files(paths):
        digest.update(os.fsencode(path.name))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def stamp_files(paths: Iterable[Path]) -> Stamps:
    """Return path, size, modification time, change time and inode of each file, to detect changes without reading files.

    The last two detect files that were swapped by renaming and have the same sizes and modification times.
    """
    stamps: Stamps = []
    for path in _files(paths):
        status = path.stat()
        absolute = printable_path(os.path.abspath(path))
        stamps.append((absolute, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return stamps


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.is_file())
        else:
            check_file(path)
            yield path
