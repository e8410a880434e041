"""Search for the scans of a folder of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.data.channels import channel_assignment_of
from medhybrid.data.store import hash_files, stamp_files
from medhybrid.errors import ConfigError
from medhybrid.inference.folder_record import FolderRecord
from medhybrid.inference.kept_names import keep_names
from medhybrid.inference.records import Records
from medhybrid.inference.scan_places import find_scans, group_places
from medhybrid.inference.worklist import WorkItem
from medhybrid.scans.context import context_files
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.image_files import files_beside


@dataclass(frozen=True, slots=True)
class FolderScans:
    """Scans by case; `kept` holds unpacked archives, which are removed with this object."""

    folder: Path
    items: Mapping[str, WorkItem]
    kept: Any = None

    @classmethod
    def find(
        cls, folder: Path, record: FolderRecord, *, scans: Path | None = None, deidentify: Path | None = None
    ) -> FolderScans:
        """Search the places that `predict` searched, or `scans`; returns no scans if they are unknown or absent.

        Raises
        ------
        ConfigError
            If `deidentify` does not exist: a new key would give other names.
        """
        if deidentify is not None and not deidentify.is_file():
            raise ConfigError(f"key file {deidentify} does not exist", remedy="give the key file of the predict call")
        recorded = [Path(place) for place in (record.scans, *record.more_scans) if place]
        places = [place for place in ([scans] if scans is not None else recorded) if place.exists()]
        if not places or not record.model_channels:
            return cls(folder, {})
        found = find_scans(group_places(places), record.model_channels, record.channel_map)
        work = found.work
        key = None if deidentify is None else Deidentifier.from_file(deidentify)
        if key is not None:
            work = work.deidentified(key)
        work = keep_names(work, Records(folder), key, with_new=False)
        return cls(folder, {i.case: i for i in work.items}, found)


def is_unchanged(folder: Path, item: WorkItem) -> bool:
    """Return whether a scan is unchanged since its mask was predicted, by modification times or else by content."""
    made = Records(folder).done(item.case)
    if made is None or (made.channel_assignment and made.channel_assignment != channel_assignment_of(item.entries)):
        return False
    files_of_scan = item.files + tuple(p for f in item.files for p in files_beside(f))
    nearby, upwards = (
        context_files(item.files),
        context_files(item.files, item.root),
    )  # earlier versions searched nearby
    # earlier versions kept no stamps of files beside a scan
    for files in (f + more for f in dict.fromkeys((files_of_scan, item.files)) for more in ((), nearby, upwards)):
        if made.stamps == stamp_files(files) or made.input_hash == hash_files(files):
            return True
    return False
