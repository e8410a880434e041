"""What is in a folder: image files and DICOM series, from their headers alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import MedHybridError, ScanError
from medhybrid.geometry import orientation_code, spacing_mm
from medhybrid.scans import itk, nifti
from medhybrid.scans.dicom.headers import SeriesEntry, group_series

FILE_SUFFIXES = (*nifti.SUFFIXES, *itk.SUFFIXES)


@dataclass(frozen=True, slots=True)
class ScanEntry:
    """One thing that could be a scan.

    Attributes
    ----------
    name : str
        Pseudonymous name, unique within a discovery: the path under the folder that was searched.
    kind : str
        ``nifti``, ``itk`` or ``dicom``.
    paths : tuple of Path
        The file, or the files of the series.
    description : str
        DICOM series description, for matching channels.
    study : str
        What belongs to one study: the folder of a file, the StudyInstanceUID of a series.
    shape : tuple of int
        As far as the headers tell; a DICOM series counts its frames as slices.
    problem : str
        Why it is left aside, else empty.
    """

    name: str
    kind: str
    paths: tuple[Path, ...]
    modality: str
    description: str
    study: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    problem: str

    @property
    def n_channels(self) -> int:
        """Channels in the file: the fourth axis."""
        return self.shape[3] if len(self.shape) == 4 else 1


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found under `root`, and how many files were neither images nor DICOM."""

    root: Path
    entries: tuple[ScanEntry, ...]
    n_skipped: int


def discover(root: Path, *, on_progress: Callable[[str], None] = lambda _: None) -> Discovery:
    """Search a file or folder, at any depth, links not followed.

    Raises
    ------
    ScanError
        If `root` does not exist.
    """
    if not root.exists():
        raise ScanError(f"{root} does not exist", remedy="check the path")
    paths = [root] if root.is_file() else sorted(_walk(root))
    base = root.parent if root.is_file() else root
    images = [p for p in paths if p.name.lower().endswith(FILE_SUFFIXES)]
    others = [p for p in paths if p not in set(images)]
    on_progress(f"{len(paths)} files")
    series, n_skipped = group_series(others)
    entries = [_image_entry(p, base) for p in images]
    names: dict[str, int] = {}
    for s in series:
        name = _series_name(s, base)
        names[name] = names.get(name, 0) + 1
        entries.append(_series_entry(s, name if names[name] == 1 else f"{name}_{names[name]}"))
    return Discovery(root, tuple(sorted(entries, key=lambda e: e.name)), n_skipped)


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, _, files in os.walk(root):
        found += [Path(folder) / f for f in files if not f.startswith(".")]
    return found


def _flat(relative: Path) -> str:
    return "__".join(relative.parts)


def _image_entry(path: Path, base: Path) -> ScanEntry:
    relative = path.relative_to(base)
    is_nifti = path.name.lower().endswith(nifti.SUFFIXES)
    name = _flat(relative.parent / nifti.strip_suffix(path))
    try:
        shape, affine = nifti.nifti_header(path) if is_nifti else itk.itk_header(path)
        spacing, orientation, problem = spacing_mm(affine), orientation_code(affine), ""
    except (MedHybridError, ValueError) as error:
        shape, spacing, orientation, problem = (), (0.0, 0.0, 0.0), "", str(error)
    return ScanEntry(
        name=name,
        kind="nifti" if is_nifti else "itk",
        paths=(path,),
        modality="",
        description="",
        study=str(path.parent),
        shape=shape,
        spacing_mm=spacing,
        orientation=orientation,
        problem=problem,
    )


def _series_name(series: SeriesEntry, base: Path) -> str:
    """The folder of the series under the root; the descriptions in headers may identify, so they are not used."""
    folders = {p.parent for p in series.paths}
    common = Path(os.path.commonpath([str(f) for f in folders]))
    return _flat(common.relative_to(base)) or "series"


def _series_entry(series: SeriesEntry, name: str) -> ScanEntry:
    return ScanEntry(
        name=name,
        kind="dicom",
        paths=series.paths,
        modality=series.modality,
        description=series.description,
        study=series.study_uid,
        shape=(series.columns, series.rows, series.n_frames),
        spacing_mm=(),
        orientation="",
        problem=series.left_aside,
    )
