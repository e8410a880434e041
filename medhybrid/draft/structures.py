"""Folders of masks with a file for each label, as `segmentations/liver.nii.gz` beside each scan."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medhybrid.draft.words import is_mask_path, stem_of, words_of

MIN_SHARE = 0.5
"""Share of the folders that have most of the names: labels are the same in each case, and names of cases are not."""

OBSERVERS = frozenset(
    {
        "rater",
        "raters",
        "expert",
        "experts",
        "observer",
        "reader",
        "annotator",
        "radiologist",
        "manual",
        "auto",
        "consensus",
    }
)
"""Words for several masks of one label."""


def structure_folders(paths: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return the folders that contain a mask file for each label of a case, with these files.

    Such folders have several files each, whose names are the same in most of the folders, and no image.

    Parameters
    ----------
    paths : sequence of Path
        Image and mask files, relative to the dataset's folder.
    """
    inside: dict[Path, list[Path]] = {}
    for path in paths:
        inside.setdefault(path.parent, []).append(path)
    found = {f: files for f, files in inside.items() if f != Path() and is_mask_path(f / "x") and _have_words(files)}
    found = {f: files for f, files in found.items() if _kind(f) and not any(o != f and f in o.parents for o in inside)}
    by_kind: dict[tuple[str, ...], dict[Path, list[Path]]] = {}
    for folder, files in found.items():
        by_kind.setdefault(_kind(folder), {})[folder] = files
    images = {stem_of(p).casefold() for p in paths if p.parent not in found}
    chosen: dict[Path, list[Path]] = {}
    for folders in by_kind.values():
        counts = Counter(n for files in folders.values() for n in {stem_of(p).casefold() for p in files})
        usual = {n for n, c in counts.items() if c >= max(2, MIN_SHARE * len(folders))}
        if (
            len(usual) >= 2
            and sum(c for n, c in counts.items() if n in usual) >= MIN_SHARE * counts.total()
            and not usual & images
        ):
            chosen |= folders
    return chosen


def _kind(folder: Path) -> tuple[str, ...]:
    """Return the words of a folder's own name, without numbers."""
    return tuple(w for w in (re.sub(r"\d+", "", w) for w in words_of(folder.name)) if w)


def _have_words(files: Sequence[Path]) -> bool:
    """Return whether files differ in more than numbers, and none names an observer."""
    names = {re.sub(r"[\d\W_]+", "", stem_of(p)) for p in files}
    return len(names - {""}) > 1 and not any(OBSERVERS & set(words_of(stem_of(p))) for p in files)
