"""Masks with a file for each label: in a folder of a case (`case1/masks/liver.nii.gz`), or elsewhere.

Elsewhere, the place of the label in a path becomes `*`: `masks/*/case1.png`, `case1/case1_*_mask.nii.gz`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from medhybrid.data.layouts.label_files import WILDCARD
from medhybrid.draft.mask_contents import kinds_of
from medhybrid.draft.words import (
    ENUMERATION,
    MASK_WORDS,
    TARGET_VOLUMES,
    is_mask_path,
    parts_named,
    path_words,
    stem_of,
    words_of,
)

MIN_SHARE = 0.5
"""Share of the folders that have most of the names: labels are the same in each case, and names of cases are not."""

LABEL_SHARE = 0.45
"""The same for words of labels: one of two labels (`parotid` in left and right) has twice as many masks as a third."""

LETTERS = 2
"""Number of letters up to which a word for a label is not looked for within other words."""

MIN_SEVERAL = 1 / 3
"""Share of the cases that have several of the labels; in the others, only one was drawn."""

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
        "staple",
        "majority",
        "maj",
    }
)
"""Words for several masks of one label."""


ANNOTATION = re.compile(r"annot(?:ation|ator)?s?[\W_]*\d", re.IGNORECASE)
"""Number of an annotation, as `annotation-2`."""


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
    return len(names - {""}) > 1 and not any(names_observer(stem_of(p)) for p in files)


def names_observer(text: str) -> bool:
    """Return whether a name has a word for one of several masks of a label, with or without a number: `rater2`."""
    return any(re.sub(r"\d+", "", w) in OBSERVERS for w in words_of(text)) or ANNOTATION.search(text) is not None


def label_patterns(paths: Sequence[Path]) -> dict[Path, list[Path]]:
    """Return patterns with `*` in the place of a label, with the mask files that fit them; empty without such labels.

    Each pattern stands for a case. Labels are the words that many of the masks have, and each case has several of them.

    Parameters
    ----------
    paths : sequence of Path
        Image and mask files, relative to the dataset's folder.
    """
    masks = [p for p in paths if is_mask_path(p)]
    volumes = {w for p in masks for w in path_words(p) if w in TARGET_VOLUMES}
    of_masks = MASK_WORDS - volumes if len(volumes) > 1 else MASK_WORDS
    kinds = kinds_of(masks, min_share=LABEL_SHARE)
    if len(kinds) < 2 or any(names_observer(" ".join(kind)) for kind in kinds):
        return {}
    words = {p: set(path_words(p)) for p in paths}
    of_images = {w for p in paths if p not in set(masks) for w in words[p]}
    of_labels = set.intersection(*(words[p] for p in masks)) - of_masks - of_images  # `lung` in left and right lung
    images = [p for p in paths if p not in set(masks)]
    if not images:
        return {}
    for is_whole in (True, False):
        found: dict[Path, list[Path]] = {}
        for kind, files in kinds.items():
            # a kind without a word of its own is named by those of all labels: `liver` beside `liver_tumour`
            own = [w for w in kind if w not in of_masks and not w.startswith(".") and not parts_named(w)] or sorted(
                of_labels
            )
            is_folder = is_whole and len({p.parts[:-1] for p in files}) == 1
            for path in files if own else ():
                if (pattern := _pattern(path, own, of_labels, is_folder=is_folder)) is not None:
                    found.setdefault(pattern, []).append(path)
        double = [pattern for pattern in found if str(pattern).count(WILDCARD) > 1]
        fit_images = any(_fits(p, pattern) for p in images for pattern in double)
        if not fit_images and not any(_with_wildcard(p, i) in found for p in images for i in range(len(p.parts) - 1)):
            several = {p: files for p, files in found.items() if len(files) > 1}
            return found if len(several) >= MIN_SEVERAL * len(found) else {}
    return {}


def _fits(path: Path, pattern: Path) -> bool:
    """Return whether a path fits a pattern with `*` in several of its names."""
    parts = zip(path.parts, pattern.parts, strict=False)
    return len(path.parts) == len(pattern.parts) and all(fnmatchcase(a, b) for a, b in parts)


def _with_wildcard(path: Path, place: int) -> Path:
    return Path(*path.parts[:place], WILDCARD, *path.parts[place + 1 :])


def _pattern_in_both(path: Path, words: Sequence[str], more: set[str], *, is_folder: bool) -> Path | None:
    """Return a path with `*` in place of the first words in the folder of the file, and of the others in its own name."""
    for n in range(1, len(words)):
        folder = _pattern(Path(path.parent.name) / "x", words[:n], more, is_folder=is_folder, is_nested=True)
        file = _pattern(Path(path.name), words[n:], more, is_folder=False, is_nested=True)
        if folder is not None and file is not None and WILDCARD in folder.parts[0]:
            return path.parent.parent / folder.parts[0] / file
    return None


def _pattern(
    path: Path, words: Sequence[str], more: set[str], *, is_folder: bool, is_nested: bool = False
) -> Path | None:
    """Return a path with `*` in place of some words, which follow each other in one of its names; None if they do not.

    Parameters
    ----------
    more : set of str
        Words beside them that are also replaced.
    is_folder : bool
        Whether all files with these words are in the same folder, whose name is replaced as a whole.
    """
    between = r"[\W_\d]*"
    beside = "|".join(map(re.escape, sorted(more))) or "(?!)"
    core = between.join(map(re.escape, words))
    if len("".join(words)) <= LETTERS:  # `r` is no label in `brain_r_mask`'s first word
        core = rf"(?<![^\W\d_]){core}(?![^\W\d_])"
    wanted = re.compile(f"(?:(?:{beside}){between})*{core}(?:{between}(?:{beside}))*", re.IGNORECASE)
    parts = [*path.parts[:-1], stem_of(path)]
    places = [i for i, part in enumerate(parts) if wanted.search(part)]
    if (
        not places and len(words) > 1 and not is_nested
    ):  # words in a folder, and others in the file: `he/01_he_mask.png`
        return _pattern_in_both(path, words, more, is_folder=is_folder)
    if len(places) != 1:
        return None
    place = places[0]
    is_numbered = wanted.fullmatch(ENUMERATION.sub("", parts[place])) is not None and ENUMERATION.match(parts[place])
    is_whole = (is_folder or is_numbered) and place < len(parts) - 1
    parts[place] = WILDCARD if is_whole else wanted.sub(WILDCARD, parts[place], count=1)
    return Path(*parts[:-1], parts[-1] + path.name[len(stem_of(path)) :])
