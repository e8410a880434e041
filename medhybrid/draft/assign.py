"""Assignment of images to masks by the words of their paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from medhybrid.draft.words import (
    IMAGE_WORDS,
    MASK_WORDS,
    names_group,
    names_sequence,
    names_unlabelled,
    spelt_words,
    stem_of,
    words_of,
)

Words = Mapping[Path, Sequence[str]]
"""Words of each path that distinguish cases, in lower case."""


MIN_ALIKE = 4
"""Number of words at the end of both names from which on numbers in the folders of all images count for nothing."""


def assign_images(masks: Words, images: Words, shared: set[str]) -> dict[Path, dict[str, Path]]:
    """Return channels and images of each mask: the mask with the most words that the image has all of, in their order.

    A mask without a name of its own, such as `seg.nii`, gets the images in its folder that fit no other mask.

    Parameters
    ----------
    shared : set of str
        Words of all images, which distinguish no cases.
    """
    by_word: dict[str, set[Path]] = {}
    for mask, key in masks.items():
        for word in key or [""]:
            by_word.setdefault(word, set()).add(mask)
    assigned: dict[Path, list[Path]] = {m: [] for m in masks}
    by_folder = _are_named_by_folders(masks, images, shared)
    has_keys = sum(bool(key) for key in masks.values()) > 1
    n_alike = Counter(stem for _, stem in {(i.parent, stem_of(i)) for i in images})  # `.hdr` and `.img` are one
    nameless = {m for m in masks if all(w in MASK_WORDS or w in IMAGE_WORDS for w in words_of(stem_of(m)))}
    only_mask = _only_masks(masks, nameless)

    def masks_for(image: Path, words: Sequence[str]) -> list[Path]:
        counts = Counter(m for w in {*images[image], ""} for m in by_word.get(w, ()))
        fitting = [m for m, n in counts.items() if n >= len(set(masks[m]) or {""}) and _fits(masks[m], words, shared)]
        if image.parent in only_mask and not any(m for m in fitting if m not in nameless):
            return [only_mask[image.parent]]
        if has_keys:  # a mask without a name of its own fits images in its folder only
            fitting = [m for m in fitting if masks[m] or image.parent == m.parent]
        best = max((len(masks[m]) for m in fitting), default=0)
        chosen = [m for m in fitting if len(masks[m]) == best]
        if len(chosen) > 1:
            chosen = [m for m in chosen if m not in nameless] or chosen
            chosen = [m for m in chosen if m.parent == image.parent] or chosen
            spelt = set(spelt_words(stem_of(image)))  # `P1` and `p1` may be two cases
            chosen = [m for m in chosen if spelt.issuperset(_own_spelt_words(m))] or chosen
        return chosen

    alone = []
    for image, key in sorted(images.items()):
        chosen = masks_for(image, key)
        if len(chosen) == 1:
            assigned[chosen[0]].append(image)
        elif not chosen:
            alone.append(image)
    has_images = {m for m, found in assigned.items() if found}
    n_beside = Counter(i.parent for i in alone)
    # numbers in the names of folders, such as `CT-1`, count for nothing here
    for image in () if by_folder else alone:
        if n_alike[stem_of(image)] == 1:
            of_file = words_of(stem_of(image))
            chosen = [m for m in masks_for(image, [w for w in images[image] if w in of_file]) if masks[m]]
            # a folder with images of several cases, as of a modality; that of one patient has another number than the case
            if len(chosen) == 1 and (chosen[0] not in has_images or n_beside[image.parent] > 1):
                assigned[chosen[0]].append(image)
    named = {mask: _by_channel(mask, found, images, masks[mask]) for mask, found in assigned.items()}
    return _without_others(masks, images, named)


def _own_spelt_words(mask: Path) -> set[str]:
    """Return the words of a mask's name in their spelling, without those for masks."""
    return {w for w in spelt_words(stem_of(mask)) if w.lower() not in MASK_WORDS}


def assign_more_images(
    masks: Words, images: Words, shared: set[str], found: Mapping[Path, dict[str, Path]]
) -> dict[Path, dict[str, Path]]:
    """Return `found`, or an assignment with more images without the sequences that all masks name, but only some of the images.

    An example is `P1/CT/CT.nii` beside `P1/PET/PET.nii` and `P1/PET/PET_seg.nii`: the mask is in the folder of a sequence.
    """
    of_masks = set.intersection(*(set(key) for key in masks.values())) - shared
    of_images = {w for key in images.values() for w in key}
    kinds = {w for w in of_masks & of_images if names_sequence(w)}
    if not kinds:
        return dict(found)
    more = assign_images({m: [w for w in key if w not in kinds] for m, key in masks.items()}, images, shared)
    kept = all(
        set(of.values()) <= set(more[m].values()) and (len(of) < len(more[m]) or not of) for m, of in found.items()
    )
    return more if kept else dict(found)


def _only_masks(masks: Words, nameless: set[Path]) -> dict[Path, Path]:
    """Return folder to its mask, if it has a single one, and this one is nameless."""
    n_inside = Counter(m.parent for m in masks)
    return {m.parent: m for m in nameless if n_inside[m.parent] == 1}


def _by_channel(mask: Path, found: Sequence[Path], images: Words, of_mask: Sequence[str]) -> dict[str, Path]:
    """Return channel to image: the words of an image that its mask does not have, or `image`.

    Words that folders and file repeat count once, apart from those of sequences (`T1` may be the visit, too), and unless images
    would have the same name then (`PET-CT/PET.nii`).
    """
    once = {image: _channel_of(image, images[image], mask, of_mask, is_once=True) for image in found}
    if len(set(once.values())) < len(once):
        once = {image: _channel_of(image, images[image], mask, of_mask, is_once=False) for image in found}
    by_channel: dict[str, Path] = {}
    for image in found:
        by_channel.setdefault(once[image], image)
    return by_channel


def _channel_of(image: Path, words: Sequence[str], mask: Path, of_mask: Sequence[str], *, is_once: bool) -> str:
    rest = Counter(words) - Counter(of_mask)
    spelt = {w.lower(): w for part in (*image.parts[:-1], stem_of(image)) for w in spelt_words(part)}
    own, n_in_mask = Counter(words_of(stem_of(image))), Counter(of_mask)
    names = [
        w
        for w in (rest if is_once else rest.elements())
        if not n_in_mask[w] or (n_in_mask[w] < own[w] if w.isdecimal() else not is_once or names_sequence(w))
    ]
    if not names:  # `visit/T1/T1.nii`: the folder is the visit, the file the sequence
        names = [w for w in own if names_sequence(w) and w not in words_of(stem_of(mask))]
    if not IMAGE_WORDS.isdisjoint(names) and all(w.isdecimal() or w in IMAGE_WORDS for w in names):
        return "image"
    return "_".join(spelt.get(w, w) for w in names) or "image"


def _without_others(masks: Words, images: Words, named: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return channels without images of other cases of the same name, such as `siteB/01.nii` beside `siteA/01.nii`.

    These are in other folders than the mask, above the name of the case, while another image shares a folder with it. Folders
    of sequences, and those with an image for each mask, are channels, unless their name is that of a group of cases.
    """
    other: dict[tuple[Path, str], frozenset[str]] = {}
    for mask, found in named.items():
        of_mask = _folders_above(mask, masks[mask])
        shared = {c: len(of_mask & _folders_above(image, masks[mask])) for c, image in found.items()}
        for channel, image in found.items():
            folders = frozenset(_names_above(image, masks[mask])) - {f.lower() for f in mask.parts} - IMAGE_WORDS
            if folders and (shared[channel] < max(shared.values()) or any(map(names_unlabelled, folders))):
                other[mask, channel] = folders
    n_masks = Counter(other.values())
    n_labelled = sum(bool(found) for found in named.values())
    n_images = Counter(f for i in images for f in n_masks if f <= {part.lower() for part in i.parts[:-1]})
    dropped = {
        folders
        for folders, n in n_masks.items()
        if not any(map(names_sequence, folders))
        and (any(map(names_group, folders)) or not n == n_labelled == n_images[folders])
    }
    return {
        mask: {c: image for c, image in found.items() if other.get((mask, c)) not in dropped}
        for mask, found in named.items()
    }


def _names_above(path: Path, key: Sequence[str]) -> list[str]:
    """Return the folders of a path, in lower case, above the first one with a word of the name of the case."""
    folders = path.parts[:-1]
    end = next((i for i, f in enumerate(folders) if not set(key).isdisjoint(words_of(f))), len(folders))
    return [f.lower() for f in folders[:end]]


def _folders_above(path: Path, key: Sequence[str]) -> set[str]:
    return {w for folder in _names_above(path, key) for w in words_of(folder)}


def _are_named_by_folders(masks: Words, images: Words, shared: set[str]) -> bool:
    """Return whether a mask has a number that is only in the folders of an image that it fits, as of a patient."""
    by_number: dict[str, list[Path]] = {}
    for mask, key in masks.items():
        for word in key:
            if word.isdecimal():
                by_number.setdefault(word, []).append(mask)
    for image, key in images.items():
        own = set(words_of(stem_of(image)))
        for word in {w for w in key if w.isdecimal() and w not in own and w not in shared}:
            if any(_fits(masks[m], key, shared) for m in by_number.get(word, ())):
                return True
    return False


def _fits(mask: Sequence[str], image: Sequence[str], shared: set[str]) -> bool:
    """Return whether an image has all words of a mask in their order, and no other number among the numbers of the mask.

    Otherwise visit 2 of patient 1 would get the mask of visit 1 of patient 2 (`p_1_2` and `p_2_1`).
    """
    words = iter(image)
    if not all(w in words for w in mask):  # each search starts after the word found before
        return False
    n_alike = next(
        (n for n, (a, b) in enumerate(zip(reversed(mask), reversed(image), strict=False)) if a != b), len(mask)
    )
    rest = (mask[: len(mask) - n_alike], [w for w in image[: len(image) - n_alike] if w not in shared])
    if n_alike >= MIN_ALIKE and not any(map(_numbers, rest)):  # the mask has the whole name of the image
        return True
    numbers = _numbers(mask)
    return _numbers([w for w in image if w in mask or w not in shared])[: len(numbers)] == numbers


def _numbers(words: Sequence[str]) -> list[str]:
    """Return the numbers among words, without repeats of the one before, as in `slide_01/01_2`."""
    return [number for number, _ in groupby(w for w in words if w.isdecimal())]
