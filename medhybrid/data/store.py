"""Prepared cases on disk, read patch by patch.

A case is a folder: `image.b2nd` (C, X, Y, Z) float16 and `labels.b2nd` (X, Y, Z) uint8, compressed in chunks;
`mask.b2nd` (X, Y, Z) uint8, the reference on the scan's own grid (inside values), for validation where users will look;
`foreground.npy` (N, 4) int32 with voxels x, y, z and their label; `case.json`, written last, with a checksum of each file. A
case is written under a temporary name and renamed, so that what has its final name is whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.data.checksums import checksum_of, checksum_of_json
from medhybrid.errors import DataError
from medhybrid.files import check_file
from medhybrid.geometry import Grid, Turn
from medhybrid.names import check_case_name, printable_path
from medhybrid.owned import remove_made

CHUNK_VOXELS = 64
"""Edge of a compressed chunk; a patch touches few."""

FOREGROUND_PER_LABEL = 4_000
"""Voxels remembered of each label, evenly spread over all of them."""


CASE_FILES = ("image.b2nd", "labels.b2nd", "mask.b2nd", "foreground.npy", "case.json")
"""Names of the files of a prepared case."""


Stamps = list[tuple[str, int, int] | tuple[str, int, int, int, int]]
"""See `stamp_files`; earlier versions kept the first three values, which no longer count as a sign."""


class CaseRecord(BaseModel):
    """The content of `case.json`.

    Attributes
    ----------
    reference_ml, grid_ml : dict
        Volume of each label in the reference mask, and on the network's grid.
    thinnest_mm : dict
        For labels that lose a part on the grid: the smallest extents of their components along the axes of the grid.
    n_outliers : int
        Voxels whose values were replaced; see `data.outliers`.
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
    checksums: dict[str, str] = {}
    """By file; empty for a case that was prepared before files had checksums."""


def _open_array(path: Path) -> Any:
    """Open an array of numbers; raises `ValueError` for anything else that such a file can hold, as expressions to be run."""
    import blosc2

    try:
        opened = blosc2.open(str(path), mode="r")
    except Exception as error:  # damaged files raise many kinds
        raise ValueError(f"{path.name}: {error}") from error
    if type(opened) is not blosc2.NDArray or opened.dtype.kind not in "biuf":
        raise ValueError(f"{path.name} is no array of numbers")
    return opened


class PreparedCase:
    """A prepared case opened for reading; nothing is decompressed until asked for.

    Each file's checksum is compared once, before its values are used: blosc2 decompresses damaged bytes to other values.

    Raises
    ------
    DataError
        If a file is damaged; from the methods that read values, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked: set[str] = set()
        try:
            text = (folder / "case.json").read_bytes()
            self.record = CaseRecord.model_validate_json(text)
            if self.record.checksums.get("case.json", checksum_of_json(text)) != checksum_of_json(text):
                raise ValueError("case.json has another checksum")
            self._check("foreground.npy")
            self._image: Any = _open_array(folder / "image.b2nd")
            self._labels: Any = _open_array(folder / "labels.b2nd")
            self.foreground: NDArray[np.int32] = np.load(folder / "foreground.npy", allow_pickle=False)
        except (OSError, ValidationError, ValueError, RuntimeError) as error:
            raise self._damage(str(error)[:200]) from error

    def _check(self, name: str) -> None:
        """Compare the checksum of a file, the first time that it is asked for; raises `DataError`."""
        if name in self._checked:
            return
        expected = self.record.checksums.get(name)
        try:
            found = None if expected is None else checksum_of(self.folder / name)
        except OSError as error:
            raise self._damage(str(error)) from error
        if found != expected:
            raise self._damage(f"{name} with another checksum ({found}, when it was written {expected})")
        self._checked.add(name)

    def _damage(self, found: str) -> DataError:
        return DataError(
            f"prepared case {self.folder.name} is damaged",
            found=found,
            remedy=f"delete {self.folder} and run medhybrid preprocess",
        )

    @property
    def name(self) -> str:
        """Case name."""
        return self.record.case

    @property
    def shape(self) -> tuple[int, int, int]:
        """Spatial shape on the network's grid."""
        _, x, y, z = self._image.shape
        return int(x), int(y), int(z)

    @property
    def grid(self) -> Grid:
        """The network's grid of this case."""
        return Grid(self.shape, np.array(self.record.affine))

    @property
    def source_grid(self) -> Grid:
        """The scan's own grid."""
        return Grid(self.record.source_shape, np.array(self.record.source_affine))

    @property
    def turn(self) -> Turn:
        """From the scan's axes to RAS."""
        return Turn(self.record.axes, self.record.flips)

    def context(self, fields: Sequence[str]) -> NDArray[np.float32]:
        """Values (F,) of `data.context`; NaN where one is absent."""
        return np.array([self.record.context.get(field, np.nan) for field in fields], np.float32)

    def image(self) -> NDArray[np.float32]:
        """The whole image (C, X, Y, Z)."""
        self._check("image.b2nd")
        return np.asarray(self._image[:]).astype(np.float32)

    def labels(self) -> NDArray[np.uint8]:
        """The whole label map (X, Y, Z)."""
        self._check("labels.b2nd")
        return np.asarray(self._labels[:])

    def source_mask(self) -> NDArray[np.uint8]:
        """The reference (X, Y, Z) on the scan's own grid, inside values."""
        self._check("mask.b2nd")
        try:
            return np.asarray(_open_array(self.folder / "mask.b2nd")[:])
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damage(str(error)[:200]) from error

    def read_box(
        self, start: tuple[int, int, int], size: tuple[int, int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Image (C, *size) and labels (*size) of the box at `start`; zero outside the volume."""
        self._check("image.b2nd")
        self._check("labels.b2nd")
        image = np.zeros((self._image.shape[0], *size), np.float32)
        labels = np.zeros(size, np.uint8)
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
    """Write a prepared case; an older one of that name is replaced at the end.

    Raises
    ------
    DataError
        If its name cannot be that of a folder.
    OutputError
        If a folder of that name is there and holds other files than a prepared case.
    """
    import blosc2

    check_case_name(record.case, source=printable_path(folder))
    temporary = folder.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{folder.name}")
    temporary.mkdir(parents=True)
    try:
        chunk = tuple(min(n, CHUNK_VOXELS) for n in labels.shape)
        cparams = {"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1}
        blosc2.asarray(
            np.ascontiguousarray(image.astype(np.float16)),
            chunks=(1, *chunk),
            urlpath=str(temporary / "image.b2nd"),
            cparams=cparams,
        )
        for name, array in (("labels", labels), ("mask", source_mask)):
            blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary / f"{name}.b2nd"), cparams=cparams)
        np.save(temporary / "foreground.npy", foreground_index(labels, n_labels))
        (temporary / "case.json").write_text(_with_checksums(record, temporary).model_dump_json(indent=1))
        remove_case(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_record(folder: Path) -> CaseRecord:
    """Read `case.json` of a prepared case; raises `DataError`."""
    try:
        return CaseRecord.model_validate_json((folder / "case.json").read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise DataError(
            f"prepared case {folder.name} is damaged", found=str(error)[:200], remedy="run medhybrid preprocess"
        ) from error


def remove_case(folder: Path) -> None:
    """Remove a prepared case; raises `OutputError` if its folder holds anything else."""
    remove_made(folder, CASE_FILES)


def _with_checksums(record: CaseRecord, folder: Path) -> CaseRecord:
    """Return a record with the checksums of the files in `folder`, and its own."""
    checksums = {path.name: checksum_of(path) for path in sorted(folder.iterdir())}
    checksums["case.json"] = checksum_of_json(record.model_dump_json().encode())
    return record.model_copy(update={"checksums": checksums})


def foreground_index(labels: NDArray[np.uint8], n_labels: int) -> NDArray[np.int32]:
    """Voxels (N, 4) as x, y, z, label; at most `FOREGROUND_PER_LABEL` of each label."""
    rows = []
    for value in range(1, n_labels + 1):
        where = np.argwhere(labels == value)
        step = max(1, -(-len(where) // FOREGROUND_PER_LABEL))
        kept = where[::step]
        rows.append(np.column_stack([kept, np.full(len(kept), value)]))
    return np.concatenate(rows).astype(np.int32)


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of files in order; a folder stands for its files."""
    digest = hashlib.sha256()
    for path in _files(paths):
        digest.update(os.fsencode(path.name))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def stamp_files(paths: Iterable[Path]) -> Stamps:
    """Return path, size, time of the content, and time of change and inode of each file: a cheap sign that nothing changed.

    Files that were exchanged by renaming, and whose sizes and times agree, differ in the last two.
    """
    stamps: Stamps = []
    for path in _files(paths):
        status = path.stat()
        stamps.append((printable_path(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return stamps


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.is_file())
        else:
            check_file(path)
            yield path
