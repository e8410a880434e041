"""The scans that a folder of masks was made of, found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medhybrid.data.store import hash_files, stamp_files
from medhybrid.errors import ConfigError
from medhybrid.inference.folder_record import FolderRecord
from medhybrid.inference.kept_names import keep_names
from medhybrid.inference.records import Records
from medhybrid.inference.worklist import WorkItem, make_worklist
from medhybrid.scans import discover
from medhybrid.scans.context import context_files
from medhybrid.scans.dicom.deidentify import Deidentifier


@dataclass(frozen=True, slots=True)
class FolderScans:
    """Scans by case; `kept` holds unpacked archives, which go with it."""

    folder: Path
    items: Mapping[str, WorkItem]
    kept: Any = None

    @classmethod
    def find(
        cls, folder: Path, record: FolderRecord, *, scans: Path | None = None, deidentify: Path | None = None
    ) -> FolderScans:
        """Search where `predict` did, or in `scans`; none where that is unknown or gone.

        Raises
        ------
        ConfigError
            If `deidentify` is no file: a key made now would give other names.
        """
        if deidentify is not None and not deidentify.is_file():
            raise ConfigError(
                f"key file {deidentify} does not exist", remedy="give the one that predict was called with"
            )
        place = scans if scans is not None else Path(record.scans) if record.scans else None
        if place is None or not place.exists() or not record.model_channels:
            return cls(folder, {})
        found = discover(place)
        work = make_worklist(found, record.model_channels, record.channel_map)
        key = None if deidentify is None else Deidentifier.from_file(deidentify)
        if key is not None:
            work = work.deidentified(key)
        work = keep_names(work, Records(folder), key, with_new=False)
        return cls(folder, {i.case: i for i in work.items}, found)


def is_unchanged(folder: Path, item: WorkItem) -> bool:
    """Whether the files are those that the mask on disk was made of, by time of change or else by content."""
    made = Records(folder).done(item.case)
    if made is None:
        return False
    nearby, upwards = context_files(item.files), context_files(item.files, item.root)  # earlier versions looked nearby
    for files in (item.files, item.files + nearby, item.files + upwards):
        if made.stamps == stamp_files(files) or made.input_hash == hash_files(files):
            return True
    return False
