"""Recursive listing of a folder's files, without hidden folders and outputs of medhybrid."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.owned import contents_of, is_made_here

HIDDEN = ("$recycle.bin", "system volume information", "#recycle", "#snapshot", "@eadir", "lost+found", "__macosx")
"""System folders for deleted files, copies and thumbnails, in lower case. Other hidden folders begin with a dot."""

EARLIER_OUTPUT = ("masks", "probabilities", "seg", "sr", "corrected", "fetched")
"""Output folders of `medhybrid predict` in earlier versions, which wrote no marker files."""

RUN_OUTPUT = ("validation", "pictures", "plots", "model", "checkpoint", "stages")
"""Folders inside a run folder."""


PLAN_KEYS = {"version", "study", "spacing_mm", "patch_size", "strides", "normalisation"}
RECORD_KEYS = {"medhybrid", "made_by", "n_done"}
"""Keys that identify plan.json in a run folder, and run.json in an output folder."""


@dataclass
class Walk:
    """Recursive search for files.

    Attributes
    ----------
    without : Path, optional
        A folder that is not searched.
    converted_in : Path, optional
        The output folder of a running `medhybrid convert`, in which its files are skipped.
    passed_over : list of Path
        Folders that were not searched: hidden folders, and folders written by medhybrid.
    """

    without: Path | None = None
    converted_in: Path | None = None
    passed_over: list[Path] = field(default_factory=list)

    def files(self, root: Path, on_error: Callable[[Path, Exception], None]) -> list[Path]:
        """List all files below `root`.

        Broken links are listed, so that their reader reports them. Pipes and devices are skipped, because reading them
        could block forever. Each folder is searched once, even if several links lead to it. Hidden folders and outputs of
        medhybrid are skipped.
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
    """List the files of a folder, not recursively and without hidden files such as the `._` files of macOS."""
    with os.scandir(folder) as entries:
        return sorted(folder / e.name for e in entries if not _is_hidden(e) and not e.is_dir())


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or (entry.name.lower() in HIDDEN and entry.is_dir())


def _outputs_in(folder: Path, converted_in: Path | None) -> tuple[str, ...]:
    """Return patterns for the names of medhybrid's outputs in a folder that are not scans."""
    is_target = converted_in is not None and folder.resolve() == converted_in.resolve()
    if marked := contents_of(folder, with_written=is_target):
        return marked
    if (folder / "config.yaml").is_file() and _keys_of(folder / "plan.json") >= PLAN_KEYS:
        return RUN_OUTPUT
    return EARLIER_OUTPUT if _keys_of(folder / "run.json") >= RECORD_KEYS else ()


def _keys_of(path: Path) -> set[str]:
    """Return the keys of a JSON file, or an empty set if it is not a JSON object."""
    try:
        record = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return set()
    return set(record) if isinstance(record, dict) else set()


def _leads_to_folder(link: Path) -> bool:
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except Exception:
        return False  # broken link: listed as a file, so that its reader reports it


def _may_be_read(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except Exception:
        return True  # listed, so that its reader reports the reason
