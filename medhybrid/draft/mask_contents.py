"""Masks whose names have no word for a mask (`laendo.nrrd` beside `lgemri.nrrd`), recognised by their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.draft.words import DERIVED_WORDS, path_words, stem_of
from medhybrid.errors import MedHybridError
from medhybrid.scans.reader import read_scan

MIN_SHARE = 0.5
"""Words of kinds are in more files than this share of those of the most frequent one; words of cases are in fewer."""

MAX_SAMPLED = 3
MAX_VALUES = 256
MIN_ALIKE = 0.7
"""Share of labelled voxels whose next voxel along an axis has the same value: labels are areas, and images vary."""

MAX_LABELLED = 0.95

OTHER_WORDS = frozenset({"brain", "bet", "skull", "fov", "head", "body", "foreground", "background", "valid"})
"""Words of masks from preprocessing, which are left out beside others."""


def kinds_of(paths: Sequence[Path], *, min_share: float = MIN_SHARE) -> dict[tuple[str, ...], list[Path]]:
    """Return files by the words that many of them have in their names and folders, without numbers.

    There are more cases than kinds of files, so that a word of a kind, such as `flair`, is in more files than one of a case.
    """
    words = {p: [re.sub(r"\d+", "", w) for w in path_words(p)] for p in paths}
    counts = Counter(w for found in words.values() for w in set(found))
    most = max((n for w, n in counts.items() if w and n < len(paths)), default=0)
    kinds: dict[tuple[str, ...], list[Path]] = {}
    for path, found in words.items():
        kind = tuple(w for w in found if w and min_share * most < counts[w] < len(paths))
        kinds.setdefault((*kind, path.suffix.lower()), []).append(path)
    return kinds


def masks_by_contents(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Return the files of the only kind whose sampled files are all label maps; none if there is no such kind, or several.

    A kind of preprocessing, such as `fov`, does not count beside another one.

    Parameters
    ----------
    paths : sequence of Path
        Files relative to `root`, none of which has the name of a mask.
    """
    kinds = {k: sorted(found) for k, found in kinds_of(paths).items()}
    if len(kinds) < 2:
        return []
    masks = {k: found for k, found in kinds.items() if DERIVED_WORDS.isdisjoint(k) and _are_label_maps(root, found)}
    if len(masks) > 1:
        masks = {k: found for k, found in masks.items() if OTHER_WORDS.isdisjoint(k)}
    return next(iter(masks.values())) if len(masks) == 1 else []


def remarks_on_label_maps(root: Path, images: Sequence[Path], n_cases: int) -> list[str]:
    """Return a remark on images of the same name in many cases that are label maps: they may be the masks to learn."""
    by_name: dict[str, list[Path]] = {}
    for path in images:
        by_name.setdefault(stem_of(path).lower(), []).append(path)
    many = [sorted(found) for found in by_name.values() if 2 * len(found) > n_cases > 1]
    return [
        f"files such as {found[0]} are label maps, too: list them in a table cases.csv if they are the masks to learn"
        for found in many
        if _are_label_maps(root, found)
    ]


def _are_label_maps(root: Path, paths: Sequence[Path]) -> bool:
    step = max(1, len(paths) // MAX_SAMPLED)
    n_read = 0
    for path in paths[::step][:MAX_SAMPLED]:
        with suppress(MedHybridError, OSError, ValueError):
            array = read_scan(root / path).array
            if len(array) != 1 or not is_label_map(array[0]):
                return False
            n_read += 1
    return n_read > 0


def is_label_map(array: NDArray[Any]) -> bool:
    """Return whether an array (X, Y, Z) has few whole values in areas on a background of 0."""
    labelled = array > 0
    if not labelled.any() or array.min() < 0 or labelled.mean() > MAX_LABELLED:
        return False
    values = np.unique(array)
    if len(values) > MAX_VALUES or not np.isfinite(values).all() or (values != np.rint(values)).any():
        return False
    inside = labelled[1:] & labelled[:-1]
    return bool((array[1:] == array[:-1])[inside].sum() >= MIN_ALIKE * inside.sum() > 0)
