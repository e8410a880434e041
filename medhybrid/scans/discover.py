"""What is in a folder: image files and DICOM series, from their headers alone."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from medhybrid.errors import ScanError, item_error
from medhybrid.geometry import orientation_code, spacing_mm
from medhybrid.names import escape_name, make_unique, name_from_path, printable_path
from medhybrid.scans import image_files, nifti
from medhybrid.scans.archives import UnpackedFolder, files_of_dicomdir, unpack
from medhybrid.scans.dicom.acquisition import Acquisition
from medhybrid.scans.dicom.headers import SeriesEntry, group_series
from medhybrid.scans.dicom.volumes import Volume
from medhybrid.scans.walk import Walk

BURNED_IN = "the scan's pixels may show the patient's name (BurnedInAnnotation)"

SHOWN = 5

logger = logging.getLogger(__name__)


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
        The file, and that of its values where it is another; or the files of the series.
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
    uid : str
        SeriesInstanceUID, in memory only.
    acquisition : dict
        How a DICOM volume was made: echo time, sequence and the like; nothing that identifies a patient.
    note : str
        How the name was made unique, where another scan would have had the same one.
    shared_name : str
        The name that several scans would have had; empty where the name is its own.
    places : tuple of str
        Signs of where its files are, which stay when they change; those of a scan in an archive are of the archive.
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
    uid: str = field(default="", repr=False)
    acquisition: Acquisition = field(default_factory=dict, hash=False)
    is_burned_in: bool = False
    note: str = ""
    shared_name: str = ""
    places: tuple[str, ...] = field(default=(), repr=False)

    @property
    def file_name(self) -> str:
        """The name as the files have it, which several scans may share."""
        return self.shared_name or self.name

    @property
    def n_channels(self) -> int:
        """Channels in the file: the fourth axis."""
        return self.shape[3] if len(self.shape) == 4 else 1


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found under `root`, and how many files were neither images nor DICOM.

    `unpacked` holds the temporary folders of zip archives: they go when the discovery goes. `passed_over` names the folders
    below `root` that were not searched: hidden ones, and those that medhybrid wrote.
    """

    root: Path
    entries: tuple[ScanEntry, ...]
    n_skipped: int
    unpacked: tuple[UnpackedFolder, ...] = field(default=(), repr=False, compare=False)
    passed_over: tuple[str, ...] = ()

    @property
    def left_out(self) -> str:
        """What was not searched, counted and named; empty if it was all."""
        n = len(self.passed_over)
        more = f" and {n - SHOWN} more" if n > SHOWN else ""
        named = ", ".join(self.passed_over[:SHOWN])
        return f"{n} hidden folders, or folders of results, are not searched: {named}{more}" if n else ""


def discover(
    root: Path,
    *,
    with_archives: bool = True,
    without: Path | None = None,
    converted_in: Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Discovery:
    """Search a file or folder, at any depth; a linked folder is searched once.

    A folder that cannot be listed is an entry with that problem. Outputs of medhybrid are not scans and are left out, but for
    the files of `convert`; so are hidden folders.

    Parameters
    ----------
    with_archives : bool
        Unpack zip archives; their scans can be read as long as the discovery is kept.
    without : Path, optional
        A folder below `root` that is left out: what is written there are no scans.
    converted_in : Path, optional
        A folder in which the files of `convert` are left out, since it is writing there.

    Raises
    ------
    ScanError
        If `root` does not exist.
    """
    if not root.exists():
        raise ScanError(f"{root} does not exist", remedy="check the path")
    base = root.parent if root.is_file() else root
    walked = Walk(without, converted_in)
    paths, entries, holds = _list_files(root, base, with_archives, walked)
    kinds = {p: _kind_of(p) for p in paths}
    images = [p for p in paths if kinds[p] in ("nifti", "itk")]
    others = [p for p in paths if not kinds[p]]
    on_progress(f"{len(paths)} files")
    series, n_skipped = group_series(others, on_progress=lambda n: on_progress(f"{n} of {len(others)} headers"))
    entries += [_image_entry(p, kinds[p], _base_of(p, base, holds)) for p in images]
    names: dict[str, int] = {}
    for s in series:
        name = _series_name(s, _base_of(s.paths[0], base, holds))
        names[name] = names.get(name, 0) + 1
        entries += _series_entries(s, name if names[name] == 1 else f"{name}_{names[name]}")
    entries = _with_places(_with_unique_names(entries, base), base, holds)
    passed_over = tuple(sorted(printable_path(os.path.relpath(p, base)) for p in walked.passed_over))
    found = Discovery(root, tuple(sorted(entries, key=lambda e: e.name)), n_skipped, tuple(holds), passed_over)
    if found.left_out:
        logger.warning("%s", found.left_out)
    return found


def _with_unique_names(entries: Sequence[ScanEntry], base: Path) -> list[ScanEntry]:
    """Rename entries that would have one name: by the type of their file, else by a hash of their path."""
    suffixes = ["dicom" if e.kind == "dicom" else e.paths[0].name[len(_stem(e.paths[0])) + 1 :] for e in entries]
    sources = [f"{os.path.relpath(e.paths[0], base)}|{e.part}" for e in entries]
    names = make_unique([e.name for e in entries], [s.replace(".", "") for s in suffixes], sources)
    renamed = []
    for entry, name in zip(entries, names, strict=True):
        if name != entry.name:
            note = f"named {name}: another scan would be named {entry.name}, too"
            entry = replace(entry, name=name, note=note, shared_name=entry.name)
        renamed.append(entry)
    return renamed


def _with_places(entries: Sequence[ScanEntry], base: Path, holds: Sequence[UnpackedFolder]) -> list[ScanEntry]:
    """Note where the files of each entry are: its first file, and for a series its folder with its UID."""
    real = cache(os.path.realpath)
    found = []
    for entry in entries:
        path, hold = entry.paths[0], _base_of(entry.paths[0], base, holds)
        parent = real(path.parent) if hold == base else os.path.join(real(base), path.parent.relative_to(hold))
        texts = [os.path.join(parent, path.name), *([f"{parent}|{entry.uid}"] if entry.uid else [])]
        found.append(replace(entry, places=tuple(hashlib.sha256(os.fsencode(t)).hexdigest()[:20] for t in texts)))
    return found


def _stem(path: Path) -> str:
    return nifti.strip_suffix(path)


def _list_files(
    root: Path, base: Path, with_archives: bool, walk: Walk
) -> tuple[list[Path], list[ScanEntry], list[UnpackedFolder]]:
    """Every file, those in archives unpacked; an entry for what a folder, a DICOMDIR or an archive fails to give."""
    problems: list[ScanEntry] = []

    def on_error(folder: Path, error: Exception) -> None:
        problem = item_error(error, f"the folder {printable_path(folder.name)} cannot be listed", ScanError)
        problems.append(_broken_entry(folder, base, str(problem)))

    found = [image_files.header_of(root)] if root.is_file() else sorted(walk.files(root, on_error))
    holds: list[UnpackedFolder] = []
    paths: list[Path] = []
    for path in found:
        try:
            if path.suffix.lower() == ".zip" and with_archives:
                holds.append(UnpackedFolder())
                inside = holds[-1].path / name_from_path(path.relative_to(base).with_suffix(""))
                inside.mkdir()
                unpack(path, inside)
                inner = Walk()
                members = sorted(inner.files(inside, on_error))
                hidden = [p.relative_to(inside) for p in inner.passed_over if p.name != "__MACOSX"]
                walk.passed_over += [path / p for p in hidden]
                problems += [_archive_entry(p, holds[-1].path) for p in members if p.suffix.lower() == ".zip"]
                paths += [p for p in members if p.suffix.lower() != ".zip"]
                continue
            if path.name.upper() == "DICOMDIR":
                named, n_absent = files_of_dicomdir(path)
                if root.is_file():
                    paths += named
                if n_absent:
                    raise ScanError(
                        f"{path.name} names {n_absent} files that are not there", remedy="copy the medium again"
                    )
        except Exception as error:
            what = f"{path.name} cannot be opened"
            problems.append(_broken_entry(path, base, str(item_error(error, what, ScanError, remedy="pack it again"))))
        else:
            paths.append(path)
    return paths, problems, holds


def _base_of(path: Path, base: Path, holds: Sequence[UnpackedFolder]) -> Path:
    return next((h.path for h in holds if path.is_relative_to(h.path)), base)


def _broken_entry(path: Path, base: Path, problem: str) -> ScanEntry:
    name = name_from_path(path.relative_to(base).with_suffix(""))
    return ScanEntry(
        name, "dicom", (path,), "", "", str(path.parent), (), (), "", problem, code="encrypted_or_unreadable"
    )


def _archive_entry(path: Path, base: Path) -> ScanEntry:
    """Return the entry of an archive inside another, which is not unpacked."""
    name = name_from_path(path.relative_to(base).with_suffix(""))
    return ScanEntry(
        name, "dicom", (path,), "", "", str(path.parent), (), (), "", "", left_aside="an archive inside an archive"
    )


def _kind_of(path: Path) -> image_files.Kind:
    """Return the reader of a file; one that cannot be looked into is read as an image, whose reader says why not."""
    try:
        return image_files.kind_of(path)
    except Exception:
        return "nifti"


def _image_entry(path: Path, kind: image_files.Kind, base: Path) -> ScanEntry:
    relative = path.relative_to(base)
    name = name_from_path(relative.parent / nifti.strip_suffix(path))
    files: tuple[Path, ...] = (path,)
    try:
        shape, affine = image_files.read_geometry(path)
        files = image_files.files_of(path)
        spacing, orientation, problem = spacing_mm(affine), orientation_code(affine), ""
    except Exception as error:
        shape, spacing, orientation = (), (0.0, 0.0, 0.0), ""
        problem = str(item_error(error, f"{path.name} cannot be read", ScanError, remedy="export it again"))
    return ScanEntry(
        name=name,
        kind=kind,
        paths=files,
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
    return name_from_path(common.relative_to(base)) if common != base else "series"


def _series_entries(series: SeriesEntry, name: str) -> list[ScanEntry]:
    """One entry a volume; one for a series that has none."""
    rest = ScanEntry(
        name=name,
        kind="dicom",
        paths=series.paths,
        modality=series.modality,
        description=series.description,
        study=series.study_uid or str(series.paths[0].parent),
        shape=(),
        spacing_mm=(),
        orientation="",
        problem=str(series.problem or ""),
        left_aside=series.left_aside,
        code=series.problem.code if series.problem else "",
        uid=series.uid,
        acquisition=series.acquisitions[0],
        is_burned_in=series.is_burned_in,
    )
    made = zip(series.volumes, series.acquisitions, strict=False)
    return [_volume_entry(rest, v, acquisition) for v, acquisition in made] or [rest]


def _volume_entry(rest: ScanEntry, volume: Volume, acquisition: Acquisition) -> ScanEntry:
    frames, affine = volume.stack.frames, volume.stack.affine
    return replace(
        rest,
        name=escape_name(f"{rest.name}__{volume.name}") if volume.name else rest.name,
        paths=tuple(dict.fromkeys(f.path for f in frames)),
        part=volume.name,
        description=str(acquisition.get("description", "")),
        acquisition=acquisition,
        shape=(frames[0].columns, frames[0].rows, len(frames)),
        spacing_mm=spacing_mm(affine),
        orientation=orientation_code(affine),
    )
