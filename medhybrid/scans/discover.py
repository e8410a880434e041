"""What is in a folder: image files and DICOM series, from their headers alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from medhybrid.errors import MedHybridError, ScanError
from medhybrid.geometry import orientation_code, spacing_mm
from medhybrid.scans import itk, nifti
from medhybrid.scans.dicom.headers import SeriesEntry, group_series
from medhybrid.scans.dicom.volumes import Volume

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
        Why it cannot be read, else empty.
    left_aside : str
        What it is, if it is DICOM but no scan (a localizer, a report), else empty.
    part : str
        Which volume of the files, for a series that holds several.
    code : str
        Code of the problem, for tables; see `SeriesError`.
    acquisition : dict
        How a DICOM series was made: echo time, sequence and the like; nothing that identifies a patient.
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
    left_aside: str = ""
    part: str = ""
    code: str = ""
    acquisition: dict[str, str | float] = field(default_factory=dict, hash=False)
    is_burned_in: bool = False

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
    series, n_skipped = group_series(others, on_progress=lambda n: on_progress(f"{n} of {len(others)} headers"))
    entries = [_image_entry(p, base) for p in images]
    names: dict[str, int] = {}
    for s in series:
        name = _series_name(s, base)
        names[name] = names.get(name, 0) + 1
        entries += _series_entries(s, name if names[name] == 1 else f"{name}_{names[name]}")
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


def _series_entries(series: SeriesEntry, name: str) -> list[ScanEntry]:
    """One entry a volume; one for a series that has none."""
    rest = ScanEntry(
        name=name,
        kind="dicom",
        paths=series.paths,
        modality=series.modality,
        description=series.description,
        study=series.study_uid,
        shape=(),
        spacing_mm=(),
        orientation="",
        problem=str(series.problem or ""),
        left_aside=series.left_aside,
        code=series.problem.code if series.problem else "",
        acquisition=series.acquisition,
        is_burned_in=series.is_burned_in,
    )
    return [_volume_entry(rest, v) for v in series.volumes] or [rest]


def _volume_entry(rest: ScanEntry, volume: Volume) -> ScanEntry:
    frames, affine = volume.stack.frames, volume.stack.affine
    return replace(
        rest,
        name=f"{rest.name}__{volume.name}" if volume.name else rest.name,
        paths=tuple(dict.fromkeys(f.path for f in frames)),
        part=volume.name,
        shape=(frames[0].columns, frames[0].rows, len(frames)),
        spacing_mm=spacing_mm(affine),
        orientation=orientation_code(affine),
    )
