"""Refusals of folders whose images have several masks, with what the masks are: labels, observers, versions, or slices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medhybrid.draft.structures import names_observer
from medhybrid.draft.usual_words import common_words
from medhybrid.draft.words import path_words, stem_of
from medhybrid.errors import DataError
from medhybrid.names import printable_path
from medhybrid.scans.raster import is_raster

VERSION_WORDS = frozenset(
    {
        "auto",
        "automatic",
        "backup",
        "bak",
        "corrected",
        "correction",
        "draft",
        "edited",
        "expert",
        "final",
        "fixed",
        "gold",
        "initial",
        "new",
        "old",
        "prev",
        "previous",
        "rater",
        "refined",
        "revised",
        "silver",
    }
)
"""Words for another version of a mask in the same folder."""

MAX_ASKED = 8
"""Number of files whose kind is looked at."""

MIN_OBJECTS = 6
"""Largest number of masks of an image from which on they may be one for each object."""


def refuse_several_masks(root: Path, masks: Sequence[Path], images: Sequence[Path]) -> None:
    """Raise `DataError` if each image has several masks, one for each label."""
    labels = Counter(stem_of(m) for m in masks)
    if len(masks) < 2 * len(images) or min(labels.values()) == 1:
        return
    if all(is_raster(m) and not any(is_raster(i) for i in images[:MAX_ASKED]) for m in masks[:MAX_ASKED]):
        raise DataError(
            f"{printable_path(root)} has masks of single slices beside whole scans",
            expected="one mask for each scan, on its grid",
            found=f"{len(masks)} image files such as {masks[0]}, beside {len(images)} scans such as {images[0]}",
            remedy="join the slices of each scan to a mask in NIfTI, in their order and with its position, and check some in a "
            "viewer",
        )
    are_observers = any(map(names_observer, labels))
    raise DataError(
        f"{printable_path(root)} has several masks for each image",
        expected="one mask for each image, with a value for each label",
        found=f"{len(masks)} masks of {len(images)} images, such as {', '.join(list(labels)[:4])}",
        remedy="list the masks of one observer, or of a consensus, in a table cases.csv with the columns case, mask and one "
        "per channel"
        if are_observers
        else "if they are labels, join them to one file with the values 1, 2, 3, ...; if several observers drew them, list "
        "those of one in a table cases.csv",
    )


def refuse_two_kinds(masks: dict[Path, list[str]], found: dict[Path, dict[str, Path]]) -> None:
    """Raise `DataError` if images have a second mask of another kind, such as the field of view beside the vessels.

    A second mask has all words that distinguish the first one from masks of its kind. It is in another folder, but not below
    that of the first one, as parts of a mask are. The words of both kinds differ in more than numbers, unlike those of visits.
    """
    alone = [m for m in masks if m not in found]
    of_first, of_second = (common_words([masks[m] for m in kind]) for kind in (list(found), alone))
    if {re.sub(r"\d", "", w) for w in of_first} == {re.sub(r"\d", "", w) for w in of_second}:
        return
    by_word: dict[str, set[Path]] = {}
    for mask in alone:
        for word in masks[mask]:
            by_word.setdefault(word, set()).add(mask)
    second: dict[Path, Path] = {}
    for first in sorted(found):
        own = [w for w in masks[first] if w not in of_first]
        same = set.intersection(*(by_word.get(w, set()) for w in own)) if own else set()
        beside = {m for m in same if m.parent == first.parent and is_version(masks[m], masks[first])}
        if apart := sorted(m for m in same if m in beside or not m.is_relative_to(first.parent)):
            second[first] = apart[0]
    if len(second) >= 2 and 2 * len(second) >= len(found):
        raise two_kinds(len(second), *next(iter(second.items())))


def two_kinds(n: int, first: Path, other: Path) -> DataError:
    """Return the error for `n` images with masks of two kinds, of which it names one each."""
    return DataError(
        "images have masks of two kinds, and their names do not show which one is right",
        expected="one mask for each image",
        found=f"{n} such images, with masks such as {first} and {other}",
        remedy="move the other masks to another folder, or list the right ones in a table cases.csv with the columns "
        "case, mask and one per channel; if both are labels, give each file a word for its label (P1_liver_mask)",
    )


def is_version(words: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether a name has a word for another version of a mask, as `seg_corrected` beside `seg`."""
    return not VERSION_WORDS.isdisjoint(Counter(words) - Counter(others))


def refuse_further_masks(mask_files: Sequence[Path], image_files: Sequence[Path]) -> None:
    """Raise `DataError` if most images have several masks with all numbers of their names, so that none of them fits alone."""
    masks, images = ({p: path_words(p) for p in paths} for paths in (mask_files, image_files))
    shared = common_words(list(images.values()))
    by_word: dict[str, set[Path]] = {}
    for mask, words in masks.items():
        for word in words:
            by_word.setdefault(word, set()).add(mask)
    found: dict[Path, list[Path]] = {}
    n_named = 0
    for image, words in sorted(images.items()):
        own = {w for w in words if re.search(r"\d", w) and w not in shared and w in by_word}
        n_named += bool(own)
        of_image = sorted(set.intersection(*(by_word.get(w, set()) for w in own))) if own else []
        if len(of_image) > 1:
            found[image] = of_image
    if not found or 2 * len(found) < n_named:
        return
    image, of_image = next(iter(found.items()))
    names = Counter(" ".join(w for w in masks[m] if w not in images[i]) for i, of in found.items() for m in of)
    n_masks = [len(of) for of in found.values()]
    are_objects = len(set(n_masks)) > 1 and max(n_masks) >= MIN_OBJECTS and max(names.values()) == 1
    raise DataError(
        "images have several masks",
        expected="one mask for each image, with a value for each label",
        found=f"{len(of_image)} masks of {printable_path(image)}, such as {', '.join(map(str, of_image[:2]))}",
        remedy="they seem to have an object each: join them to one mask with the value 1, and separate the objects after "
        "prediction"
        if are_objects
        else "if observers or programs drew the same label, list the masks of one, or of a consensus, in a table cases.csv "
        "with the columns case, mask and one per channel; if they are labels, give each file a word for its label "
        "(P1_liver_mask)",
    )
