"""Masks whose names have no word for a mask (`laendo.nrrd` beside `lgemri.nrrd`), recognised by their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.draft.words import (
    DERIVED_WORDS,
    is_mask_path,
    name_without_kind,
    parts_named,
    path_words,
    stem_of,
    words_of,
)
from medhybrid.errors import MedHybridError
from medhybrid.scans.reader import read_scan

MIN_SHARE = 0.5
"""Words of kinds are in more files than this share of those of the most frequent one; words of cases are in fewer."""

RARE_SHARE, MIN_FILES = 0.12, 20
"""The same among many images of a case, and the least number of files for it: words of cases are rare then, too."""

MAX_SAMPLED = 3
MAX_VALUES = 256
FEW_VALUES = 16
MIN_ALIKE = 0.7
"""Share of labelled voxels whose next voxel along an axis has the same value: labels are areas, and images vary."""

MAX_LABELLED = 0.95

OTHER_WORDS = frozenset({"brain", "bet", "skull", "fov", "head", "body", "foreground", "background", "valid"})
"""Words of masks from preprocessing, which are left out beside others."""

FINDING_WORDS = frozenset(
    {
        *(
            "wmh",
            "lesion",
            "lesions",
            "tumor",
            "tumour",
            "tumors",
            "tumours",
            "stroke",
            "infarct",
            "infarcts",
            "nodule",
        ),
        *(
            "nodules",
            "cancer",
            "haemorrhage",
            "hemorrhage",
            "bleed",
            "aneurysm",
            "aneurysms",
            "metastasis",
            "metastases",
        ),
        *(
            "edema",
            "oedema",
            "polyp",
            "polyps",
            "cyst",
            "cysts",
            "fracture",
            "fractures",
            "plaque",
            "plaques",
            "microbleeds",
        ),
    }
)
"""Words for what is looked for in an image."""

WHOLE_SHARE = 0.5
"""Least share of an image's bright voxels in a mask of the whole body part."""


def kinds_of(paths: Sequence[Path], *, min_share: float = MIN_SHARE) -> dict[tuple[str, ...], list[Path]]:
    """Return files by the words that many of them have in their names and folders, without numbers.

    There are more cases than kinds of files, so that a word of a kind, such as `flair`, is in more files than one of a case.
    """
    words = {p: [re.sub(r"\d+", "", w) for w in path_words(p) if not parts_named(w)] for p in paths}
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
    findings = sorted(p for p in paths if not FINDING_WORDS.isdisjoint(words_of(stem_of(p))))
    if 0 < len(findings) < len(paths) and _are_label_maps(root, findings):
        return findings
    masks = _label_maps_of(root, paths, MIN_SHARE)
    if not masks and len(paths) >= MIN_FILES:  # among many images of a case, the masks have a rare word
        rare = _label_maps_of(root, paths, RARE_SHARE)
        return next(iter(rare.values())) if len(rare) == 1 else []
    if len(masks) > 1:
        masks = {k: found for k, found in masks.items() if OTHER_WORDS.isdisjoint(k)}
    return next(iter(masks.values())) if len(masks) == 1 else []


def several_by_contents(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Return a file of each of several kinds whose sampled files are all label maps; empty without several."""
    masks = _label_maps_of(root, paths, MIN_SHARE)
    return [found[0] for found in masks.values()] if len(masks) > 1 else []


def _label_maps_of(root: Path, paths: Sequence[Path], min_share: float) -> dict[tuple[str, ...], list[Path]]:
    """Return the kinds whose sampled files are all label maps, if others are not."""
    kinds = {k: sorted(found) for k, found in kinds_of(paths, min_share=min_share).items()}
    masks = {k: found for k, found in kinds.items() if DERIVED_WORDS.isdisjoint(k) and _are_label_maps(root, found)}
    return masks if len(masks) < len(kinds) else {}


def without_masks_of_whole_images(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Return the files without masks of whole images, such as `T1_mask` beside `T1`, if others are masks by their values.

    Masks count as such if each is named after an image of its folder, and they contain most of it or the others are named
    after a finding, such as `wmh`. If the masks are not such, or no other kind is the masks, all files are returned.

    Parameters
    ----------
    paths : sequence of Path
        Files relative to `root`.
    """
    masks = sorted(p for p in paths if is_mask_path(p))
    others = [p for p in paths if p not in set(masks)]
    images = {(p.parent, stem_of(p)): p for p in others}
    named_after = {m: images.get((m.parent, name_without_kind(stem_of(m)))) for m in masks}
    if not masks or None in named_after.values():
        return list(paths)
    found = masks_by_contents(root, others)
    if len(found) * 4 <= len({m.parent for m in masks}):  # a case may have several folders, such as `orig` and `pre`
        return list(paths)
    are_findings = all(not FINDING_WORDS.isdisjoint(path_words(p)) for p in found)
    return others if are_findings or _contain_images(root, named_after) else list(paths)


def _contain_images(root: Path, images: Mapping[Path, Path | None]) -> bool:
    """Return whether sampled masks contain most of the bright voxels of the images they are named after."""
    masks = list(images)
    step = max(1, len(masks) // MAX_SAMPLED)
    shares = []
    for mask in masks[::step][:MAX_SAMPLED]:
        with suppress(MedHybridError, OSError, ValueError):
            labels, image = read_scan(root / mask).array[0], read_scan(root / (images[mask] or mask)).array[0]
            bright = image > image.mean()
            shares.append(labels.shape == image.shape and (labels > 0)[bright].mean() >= WHOLE_SHARE)
    return bool(shares) and all(shares)


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


def have_few_values(root: Path, paths: Sequence[Path]) -> bool:
    """Return whether sampled files have few whole values, and 0 in most voxels: they may be masks, also of thin labels."""
    step = max(1, len(paths) // MAX_SAMPLED)
    n_read = 0
    for path in paths[::step][:MAX_SAMPLED]:
        with suppress(MedHybridError, OSError, ValueError):
            array = read_scan(root / path).array
            values = np.unique(array)
            if len(values) > FEW_VALUES or (values != np.rint(values)).any() or (array == 0).mean() < 0.5:
                return False
            n_read += 1
    return n_read > 0


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
