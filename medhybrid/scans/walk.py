"""The files of a folder, at any depth, but for those in hidden folders and those that medhybrid wrote."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.owned import contents_of, is_made_here

HIDDEN = ("$recycle.bin", "system volume information", "#recycle", "#snapshot", "@eadir", "lost+found", "__macosx")
"""Folders of systems and disks that hold deleted files, copies and thumbnails, in lower case; others begin with a dot."""

EARLIER_OUTPUT = ("masks", "probabilities", "seg", "sr", "corrected", "fetched")
"""Folders that `predict` of versions without markers made in its output folder."""

RUN_OUTPUT = ("validation", "pictures", "plots", "model", "checkpoint", "stages")
"""Folders in the folder of a training."""


PLAN_KEYS = {"version", "study", "spacing_mm", "patch_size", "strides", "normalisation"}
RECORD_KEYS = {"medhybrid", "made_by", "n_done"}
"""What the records in the folder of a training, and in an output folder, have."""


@dataclass
class Walk:
    """A search of folders for files.

    Attributes
    ----------
    passed_over : list of Path
        Folders that were not searched: hidden ones, and those that medhybrid wrote.
    """

    without: Path | None = None
    converted_in: Path | None = None
    passed_over: list[Path] = field(default_factory=list)

    def files(self, root: Path, on_error: Callable[[Path, Exception], None]) -> list[Path]:
        """List files, and links to files that may be gone; pipes and devices, on which reading waits forever, are left out.

        Each folder is searched once, whatever links lead to it; hidden folders and those that medhybrid wrote are left out.
        """
        found: list[Path] = []
        seen: set[tuple[int, int]] = set()
        left_out = None if self.without is None else self.without.resolve()
        folders: list[Path] = [root]
        links: list[Path] = []
        while folders or links:
            folder = folders.pop() if folders else links.pop(0)
            try:
                status = folder.stat()
                is_left_out = folder != root and left_out is not None and folder.resolve() == left_out
                if (status.st_dev, status.st_ino) in seen or is_left_out:
                    continue
                seen.add((status.st_dev, status.st_ino))
                entries = sorted(os.scandir(folder), key=lambda e: os.fsencode(e.name))
                ours = _outputs_in(folder, self.converted_in)
            except Exception as error:
                on_error(folder, error)
                continue
            for entry in entries:
                path = folder / entry.name
                is_ours, is_hidden = is_made_here(path, ours), _is_hidden(entry)
                if is_ours or is_hidden:
                    self.passed_over += [path] if _leads_to_folder(path) else []
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_symlink() and _leads_to_folder(path):
                    links.append(path)
                elif _may_be_read(path):
                    found.append(path)
        return found


def visible_files(folder: Path) -> list[Path]:
    """List what lies in a folder itself, but for folders and what is hidden, such as the `._` files of macOS."""
    with os.scandir(folder) as entries:
        return sorted(folder / e.name for e in entries if not _is_hidden(e) and not e.is_dir())


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or (entry.name.lower() in HIDDEN and entry.is_dir())


def _outputs_in(folder: Path, converted_in: Path | None) -> tuple[str, ...]:
    """Names of files and folders in a folder that medhybrid wrote and that are no scans, as patterns."""
    is_target = converted_in is not None and folder.resolve() == converted_in.resolve()
    if marked := contents_of(folder, with_written=is_target):
        return marked
    if (folder / "config.yaml").is_file() and _keys_of(folder / "plan.json") >= PLAN_KEYS:
        return RUN_OUTPUT
    return EARLIER_OUTPUT if _keys_of(folder / "run.json") >= RECORD_KEYS else ()


def _keys_of(path: Path) -> set[str]:
    """Return the keys of a JSON file; none if it is no such file."""
    try:
        record = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return set()
    return set(record) if isinstance(record, dict) else set()


def _leads_to_folder(link: Path) -> bool:
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except Exception:
        return False  # its reader will say where it leads


def _may_be_read(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except Exception:
        return True  # its reader will say why not
