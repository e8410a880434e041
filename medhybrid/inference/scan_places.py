"""Search for scans at several places: files and folders that are given together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.data.channels import Rules
from medhybrid.errors import MedHybridError, ScanError, item_error
from medhybrid.inference.worklist import WorkList, join_worklists, make_worklist
from medhybrid.names import printable_path
from medhybrid.scans import Discovery, discover


@dataclass(frozen=True, slots=True)
class ScanPlace:
    """File or folder to search; with `files`, only these files of the folder."""

    root: Path
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundScans:
    """Scans of several places.

    Attributes
    ----------
    found : tuple of Discovery
        One for each place; unpacked archives are removed with them.
    problems : tuple of (str, str)
        Places that cannot be searched, with the reason.
    """

    work: WorkList
    found: tuple[Discovery, ...]
    problems: tuple[tuple[str, str], ...] = ()


def group_places(paths: Sequence[Path]) -> list[ScanPlace]:
    """Group files of one folder, since they may be channels of one scan; files inside a given folder are part of it."""
    folders = {p.resolve() for p in paths if p.is_dir()}
    places: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        if path.is_dir():
            places.setdefault(path, [])
        elif folders.isdisjoint(path.resolve().parents):
            places.setdefault(path.parent, []).append(path)
    return [ScanPlace(files[0]) if len(files) == 1 else ScanPlace(root, tuple(files)) for root, files in places.items()]


def find_scans(
    places: Sequence[ScanPlace],
    channels: Sequence[tuple[str, bool]],
    channel_map: Rules,
    *,
    without: Path | None = None,
) -> FoundScans:
    """Search places and group what is found into scans for a model with these channels (name, whether optional).

    Scans with the same name get numbers, in the order of the places. A scan that is found twice is listed once.

    Parameters
    ----------
    without : Path, optional
        An output folder that is not searched.

    Raises
    ------
    ScanError, DataError
        If no place can be searched.
    """
    lists: list[WorkList] = []
    found: list[Discovery] = []
    problems: list[tuple[str, str]] = []
    first: MedHybridError | None = None
    for place in places:
        try:
            searched = discover(place.root, only=place.files, without=without)
            lists.append(make_worklist(searched, channels, channel_map))
            found.append(searched)
        except Exception as error:  # another place may be searched
            name = printable_path(place.root)
            problem = item_error(error, f"{name} cannot be searched", ScanError)
            first = first or problem
            problems.append((name, str(problem)))
    if not lists and first is not None:
        raise first
    return FoundScans(join_worklists(lists), tuple(found), tuple(problems))
