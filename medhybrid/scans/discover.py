"""Discovery of image files and DICOM series in a folder, from their headers only."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath

from medhybrid.errors import ScanError, item_error
from medhybrid.geometry import orientation_code, spacing_mm
from medhybrid.names import escape_name, make_unique, name_from_path, printable_path
from medhybrid.scans import image_files, nifti
from medhybrid.scans.archives import UnpackedFolder, files_of_dicomdir, unpack
from medhybrid.scans.dicom.acquisition import Acquisition
from medhybrid.scans.dicom.series import SeriesEntry, group_series, without_parts
from medhybrid.scans.dicom.volumes import Volume
from medhybrid.scans.walk import Walk

BURNED_IN = "the scan's pixels may show the patient's name (BurnedInAnnotation)"

SHOWN = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScanEntry:
    """Candidate scan found in a folder.

    Attributes
    ----------
    name : str
        Pseudonymous name, unique within a discovery: the path relative to the searched folder.
    kind : str
        ``nifti``, ``itk``, ``raster`` or ``dicom``; empty for a skipped file of another format.
    paths : tuple of Path
        The file, and the separate file of its values if it has one; or the files of the series.
    description : str
        DICOM series description, for matching channels.
    study : str
        Identifier of the study: the folder of a file, or the StudyInstanceUID of a series.
    shape : tuple of int
        Shape as in the headers. In a DICOM series, each frame counts as a slice.
    problem : str
        Reason why the scan cannot be read, or empty.
    skip_reason : str
        Reason why a DICOM series is skipped (localizer, report), or empty.
    part : str
        Name of the volume, for a series with several volumes.
    code : str
        Code of the problem, for tables; see `SeriesError`.
    uid : str
        SeriesInstanceUID, in memory only.
    patient : tuple of str
        Identifiers of the patient in a DICOM header, in memory only; empty for other files.
    acquisition : dict
        Acquisition parameters of a DICOM volume (echo time, sequence, ...). None of them identifies a patient.
    note : str
        Files of the series that were left out, and why the name was changed, if another scan had the same one.
    shared_name : str
        Name before it was made unique; empty if it was unique.
    places : tuple of str
        Hashes of the files' paths. They stay the same if the content changes. For scans in an archive, the path of the
        archive is used.
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
    skip_reason: str = ""
    part: str = ""
    code: str = ""
    uid: str = field(default="", repr=False)
    acquisition: Acquisition = field(default_factory=dict, hash=False)
    is_burned_in: bool = False
    note: str = ""
    shared_name: str = ""
    places: tuple[str, ...] = field(default=(), repr=False)
    patient: tuple[str, ...] = field(default=(), repr=False)

    @property
    def file_name(self) -> str:
        """Return the name given by the files, which several scans may share."""
        return self.shared_name or self.name

    @property
    def n_channels(self) -> int:
        """Return the number of channels in the file (length of the fourth axis)."""
        return self.shape[3] if len(self.shape) == 4 else 1


@dataclass(frozen=True, slots=True)
class Discovery:
    """Result of searching `root` for scans.

    Attributes
    ----------
    entries : tuple of ScanEntry
        The candidate scans, sorted by name.
    n_skipped : int
        Number of files that are neither images nor DICOM.
    unpacked : tuple of UnpackedFolder
        Temporary folders of zip archives. They are removed with this object.
    passed_over : tuple of str
        Folders below `root` that were not searched: hidden folders, and folders written by medhybrid.
    previews : tuple of str
        PNG, JPEG, TIFF, BMP, GIF, PGM and PPM files that are not read, because there are other scans.
    preview_files : tuple of Path
        Their paths, in the same order.
    """

    root: Path
    entries: tuple[ScanEntry, ...]
    n_skipped: int
    unpacked: tuple[UnpackedFolder, ...] = field(default=(), repr=False, compare=False)
    passed_over: tuple[str, ...] = ()
    previews: tuple[str, ...] = ()
    preview_files: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def left_out(self) -> str:
        """Return a message on folders that were not searched and images that count as previews, or an empty string."""
        messages = [
            ("hidden folders or result folders are not searched", self.passed_over),
            (
                "PNG, JPEG, TIFF, BMP, GIF, PGM or PPM files beside other scans count as previews and are not read",
                self.previews,
            ),
        ]
        return "; ".join(_counted(message, names) for message, names in messages if names)


def discover(
    root: Path,
    *,
    only: Sequence[Path] = (),
    with_archives: bool = True,
    without: Path | None = None,
    converted_in: Path | None = None,
    warns: bool = True,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Discovery:
    """Search a file or folder recursively for scans. A linked folder is searched once.

    A folder that cannot be listed becomes an entry with this problem. Hidden folders and outputs of medhybrid are skipped,
    except the files written by `medhybrid convert`. PNG, JPEG, TIFF, BMP, GIF, PGM and PPM files are scans where there are
    no others, or if they are named.

    Parameters
    ----------
    only : sequence of Path
        Files of the folder `root` to search, instead of all files below it.
    with_archives : bool
        Unpack zip archives. Their scans can be read while the returned object exists.
    without : Path, optional
        An output folder below `root` that is skipped.
    converted_in : Path, optional
        The output folder of a running `medhybrid convert`, in which its files are skipped.
    warns : bool
        Log a warning on folders and images that are left out.

    Raises
    ------
    ScanError
        If `root` does not exist.
    """
    if not root.exists():
        raise ScanError(f"{root} does not exist", remedy="check the path")
    base = root.parent if root.is_file() else root
    walked = Walk(without, converted_in)
    paths, entries, holds = _list_files(root, only, base, with_archives, walked)
    kinds = {p: _kind_of(p) for p in paths}
    images = [p for p in paths if kinds[p] in ("nifti", "itk")]
    unread = {p: reason for p in paths if not kinds[p] and (reason := image_files.why_unread(p))}
    others = [p for p in paths if not kinds[p] and p not in unread]
    on_progress(f"{len(paths)} files")
    series, n_skipped = group_series(others, on_progress=lambda n: on_progress(f"{n} of {len(others)} headers"))
    series = without_parts(series) if only or root.is_file() else series
    rasters = [p for p in paths if kinds[p] == "raster"]
    previews: list[Path] = []
    if not only and root.is_dir() and (images or any(not s.skip_reason for s in series)):
        previews = rasters
        n_skipped += len(previews)
    else:
        images += rasters
        unread_images = {p: reason for p in others if (reason := image_files.why_unread_image(p))}
        n_skipped -= len(unread_images)
        unread |= unread_images
    entries += [_unread_entry(p, _base_of(p, base, holds), reason) for p, reason in unread.items()]
    entries += [_image_entry(p, kinds[p], _base_of(p, base, holds)) for p in images]
    names: dict[str, int] = {}
    singles = Counter(s.paths[0].parent for s in series if _is_single_image(s))
    for s in series:
        name = _series_name(s, _base_of(s.paths[0], base, holds), singles)
        names[name] = names.get(name, 0) + 1
        entries += _series_entries(s, name if names[name] == 1 else f"{name}_{names[name]}")
    entries = _with_places(_with_unique_names(entries, base), base, holds)
    shown = {p: printable_path(os.path.relpath(p, _base_of(p, base, holds))) for p in previews}
    found = Discovery(
        root,
        tuple(sorted(entries, key=lambda e: e.name)),
        n_skipped,
        tuple(holds),
        passed_over=tuple(sorted(printable_path(os.path.relpath(p, base)) for p in walked.passed_over)),
        previews=tuple(sorted(shown.values())),
        preview_files=tuple(sorted(shown, key=lambda p: shown[p])),
    )
    if warns and found.left_out:
        logger.warning("%s", found.left_out)
    return found


def _counted(message: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {message}: {', '.join(names[:SHOWN])}{more}"


def _with_unique_names(entries: Sequence[ScanEntry], base: Path) -> list[ScanEntry]:
    """Make equal names unique by appending the file type, or else a hash of the path."""
    suffixes = ["dicom" if e.kind == "dicom" else e.paths[0].name[len(_stem(e.paths[0])) + 1 :] for e in entries]
    sources = [f"{os.path.relpath(e.paths[0], base)}|{e.part}" for e in entries]
    names = make_unique([e.name for e in entries], [s.replace(".", "") for s in suffixes], sources)
    renamed = []
    for entry, name in zip(entries, names, strict=True):
        if name != entry.name:
            note = f"named {name}: another scan would be named {entry.name}, too"
            note = "; ".join(filter(None, (entry.note, note)))
            entry = replace(entry, name=name, note=note, shared_name=entry.name)
        renamed.append(entry)
    return renamed


def _with_places(entries: Sequence[ScanEntry], base: Path, holds: Sequence[UnpackedFolder]) -> list[ScanEntry]:
    """Add path hashes to entries: of the first file, and for a series of its folder and UID."""
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
    root: Path, only: Sequence[Path], base: Path, with_archives: bool, walk: Walk
) -> tuple[list[Path], list[ScanEntry], list[UnpackedFolder]]:
    """List all files, including those of unpacked archives.

    Returns
    -------
    paths : list of Path
        The files.
    problems : list of ScanEntry
        Entries for folders, DICOMDIRs and archives that cannot be read completely.
    holds : list of UnpackedFolder
        Temporary folders of the archives.
    """
    problems: list[ScanEntry] = []

    def on_error(folder: Path, error: Exception) -> None:
        problem = item_error(error, f"the folder {printable_path(folder.name)} cannot be listed", ScanError)
        problems.append(_broken_entry(folder, base, str(problem)))

    named = [root] if root.is_file() else only
    found = sorted({image_files.header_of(p) for p in named}) if named else sorted(walk.files(root, on_error))
    holds: list[UnpackedFolder] = []
    paths: list[Path] = []
    n_dense = 0
    for path in found:
        try:
            if _is_zip(path) and with_archives:
                hold = UnpackedFolder()
                inside = hold.path / name_from_path(path.relative_to(base).with_suffix(""))
                inside.mkdir()
                links: list[str] = []
                n_dense = unpack(path, inside, n_dense=n_dense, on_link=links.append)
                problems += [_link_entry(path, base, name) for name in links]
                holds.append(hold)  # that of an archive with an error is removed, with what was unpacked of it
                inner = Walk()
                members = sorted(inner.files(inside, on_error))
                hidden = [p.relative_to(inside) for p in inner.passed_over if p.name != "__MACOSX"]
                walk.passed_over += [path / p for p in hidden]
                problems += [_archive_entry(p, holds[-1].path) for p in members if _is_zip(p)]
                paths += [p for p in members if not _is_zip(p)]
                continue
            if path.name.upper() == "DICOMDIR":
                listed, n_absent = files_of_dicomdir(path)
                if named:
                    paths += listed
                if n_absent:
                    raise ScanError(
                        f"{path.name} lists {n_absent} files that do not exist", remedy="copy the medium again"
                    )
        except Exception as error:
            what = f"{path.name} cannot be opened"
            problems.append(_broken_entry(path, base, str(item_error(error, what, ScanError, remedy="pack it again"))))
        else:
            paths.append(path)
    return paths, problems, holds


def _is_zip(path: Path) -> bool:
    """Return whether a file is an archive by its name, and not DICOM under such a name."""
    return path.suffix.lower() == ".zip" and not image_files.is_marked_as_dicom(path)


def _base_of(path: Path, base: Path, holds: Sequence[UnpackedFolder]) -> Path:
    return next((h.path for h in holds if path.is_relative_to(h.path)), base)


def _broken_entry(path: Path, base: Path, problem: str) -> ScanEntry:
    name = name_from_path(path.relative_to(base).with_suffix(""))
    return ScanEntry(
        name, "dicom", (path,), "", "", str(path.parent), (), (), "", problem, code="encrypted_or_unreadable"
    )


def _archive_entry(path: Path, base: Path) -> ScanEntry:
    """Return the entry of an archive inside another archive. It is not unpacked."""
    name = name_from_path(path.relative_to(base).with_suffix(""))
    return ScanEntry(
        name, "dicom", (path,), "", "", str(path.parent), (), (), "", "", skip_reason="an archive inside an archive"
    )


def _link_entry(archive: Path, base: Path, name: str) -> ScanEntry:
    """Return the entry of a symbolic link in an archive that leads to no file of it."""
    problem = ScanError(
        f"{printable_path(name)} in {archive.name} is a symbolic link to a file that is not in the archive",
        remedy="pack the file itself",
    )
    return _broken_entry(archive.with_suffix("") / PurePosixPath(name), base, str(problem))


def _unread_entry(path: Path, base: Path, reason: str) -> ScanEntry:
    """Return the entry of an image in a format that is not read. With its suffix, it takes no other scan's name."""
    name = name_from_path(path.relative_to(base))
    return ScanEntry(name, "", (path,), "", "", str(path.parent), (), (), "", "", skip_reason=reason)


def _kind_of(path: Path) -> image_files.Kind:
    """Return the reader for a file. An unreadable file counts as NIfTI, so that its reader reports the reason."""
    try:
        return image_files.kind_of(path)
    except Exception:
        return "nifti"


def _image_entry(path: Path, kind: image_files.Kind, base: Path) -> ScanEntry:
    relative = path.relative_to(base)
    name = name_from_path(relative.parent / nifti.strip_suffix(path))
    files: tuple[Path, ...] = (path,)
    try:
        if path.is_symlink() and not path.exists():
            raise ScanError(
                f"{path.name} is a link to a file that does not exist",
                remedy="fetch the file, for example with datalad get, or correct the link",
            )
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


def _is_single_image(series: SeriesEntry) -> bool:
    """Return whether a series is a single file with a radiograph or one slice."""
    return len(series.paths) == 1 and any(len(v.stack.frames) == 1 for v in series.volumes)


def _series_name(series: SeriesEntry, base: Path, singles: Mapping[Path, int]) -> str:
    """Return the name of a series: its folder relative to the root. Header descriptions may identify a patient.

    Radiographs and single slices that share a folder have the names of their files.
    """
    path = series.paths[0]
    if _is_single_image(series) and (path.parent == base or singles[path.parent] > 1):
        below = path.relative_to(base) if path.is_relative_to(base) else Path(path.name)
        return name_from_path(below.with_suffix("") if path.suffix else below)
    used = {f.path.parent for v in series.volumes for f in v.stack.frames}  # without copies elsewhere
    folders = used or {p.parent for p in series.paths}
    common = Path(os.path.commonpath([str(f) for f in folders]))
    if not common.is_relative_to(base):  # some of its files are from an archive, unpacked elsewhere
        common = next((f for f in sorted(folders) if f.is_relative_to(base)), base)
    return name_from_path(common.relative_to(base)) if common != base else "series"


def _series_entries(series: SeriesEntry, name: str) -> list[ScanEntry]:
    """Return one entry per volume, or one entry for a series without volumes."""
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
        skip_reason=series.skip_reason,
        code=series.problem.code if series.problem else "",
        uid=series.uid,
        acquisition=series.acquisitions[0],
        is_burned_in=series.is_burned_in,
        patient=series.patient,
        note=series.note,
    )
    own = [dict.fromkeys(f.path for f in v.stack.frames) for v in series.volumes]
    files = tuple(dict.fromkeys(path for paths in own for path in paths))
    is_shared = sum(map(len, own)) > len(files) or series.is_concatenation
    files = files if is_shared and len(own) > 1 else ()
    made = zip(series.volumes, series.acquisitions, strict=False)
    return [_volume_entry(rest, v, acquisition, files) for v, acquisition in made] or [rest]


def _volume_entry(rest: ScanEntry, volume: Volume, acquisition: Acquisition, files: Sequence[Path]) -> ScanEntry:
    """Return the entry of a volume.

    Parameters
    ----------
    files : sequence of Path
        All files of a series with frames of several volumes in a file, or none: the names of its volumes hold for all of them.
    """
    frames, affine = volume.stack.frames, volume.stack.affine
    return replace(
        rest,
        name=escape_name(f"{rest.name}__{volume.name}") if volume.name else rest.name,
        paths=tuple(files) or tuple(dict.fromkeys(f.path for f in frames)),
        part=volume.name,
        description=str(acquisition.get("description", "")),
        acquisition=acquisition,
        shape=(frames[0].columns, frames[0].rows, len(frames)),
        spacing_mm=spacing_mm(affine),
        orientation=orientation_code(affine),
    )
