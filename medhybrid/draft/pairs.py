"""Pairs of images and masks in folders without a list: parallel folders, files side by side, one folder per case.

Each path is split into words. Words that every mask has and no image has (`masks`, `seg`, `derivatives`) are ignored, and so
are words such as `images` that every image has and no mask has. An image belongs to the mask whose words it contains in the
same order; its other words name the channel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medhybrid.data.channel_words import is_other_mask
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.draft.assign import assign_images, assign_more_images
from medhybrid.draft.channel_names import as_one_channel, join_spellings, without_groups
from medhybrid.draft.copies import without_copies
from medhybrid.draft.mask_contents import (
    have_few_values,
    masks_by_contents,
    remarks_on_label_maps,
    without_masks_of_whole_images,
)
from medhybrid.draft.refused_pairs import (
    is_version,
    refuse_several_masks,
    refuse_two_kinds,
    two_kinds,
)
from medhybrid.draft.structures import label_patterns, names_observer, structure_folders
from medhybrid.draft.usual_words import ODD, any_words, common_words
from medhybrid.draft.words import (
    DERIVED_WORDS,
    DICOM_SUFFIX,
    FILE_TEST_WORDS,
    IMAGE_WORDS,
    MASK_WORDS,
    in_images_beside_masks,
    is_mask_path,
    name_without_kind,
    names_dataset,
    parts_named,
    path_words,
    spelt_words,
    stem_of,
    words_of,
)
from medhybrid.errors import DataError
from medhybrid.scans.raster import is_raster
from medhybrid.scans.walk import Walk

PARTS_OF_FOLDERS = ("train", "validation")

SERIAL = re.compile(r"\d{4,}")
"""Number that may be that of a file, and not of a case."""

MIN_SHARE = 0.2
"""A channel that fewer cases have is not used."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Mask with its images by channel, as relative paths; `part` is `train` or `validation` by a folder, or empty."""

    case: str
    part: str
    mask: Path
    images: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a folder.

    Attributes
    ----------
    channels : dict
        Channel name to the number of cases that have it.
    left_out : tuple of str
        Files that are not used, with the reason.
    testing : tuple of Path
        Images for testing, whose subjects must not train.
    """

    pairs: tuple[Pair, ...]
    channels: dict[str, int]
    left_out: tuple[str, ...] = ()
    testing: tuple[Path, ...] = ()

    def with_channel(self, name: str) -> Pairs:
        """Return the pairs with another name of their only channel."""
        pairs = tuple(replace(p, images={name: next(iter(p.images.values()))}) for p in self.pairs)
        return replace(self, pairs=pairs, channels={name: next(iter(self.channels.values()))})


def image_files(root: Path) -> list[Path]:
    """Return the image files below a folder, as relative paths."""
    files = sorted(p.relative_to(root) for p in Walk().files(root, lambda _path, _error: None))
    return [p for p in files if IMAGE_SUFFIX.search(p.name)]


def mask_files(root: Path) -> list[Path]:
    """Return the files below a folder that have the names of masks, as relative paths."""
    return [p for p in image_files(root) if is_mask_path(p)]


def find_pairs(
    root: Path, series: Sequence[Path] = (), *, by_contents: bool = False, by_label: bool = False
) -> Pairs | None:
    """Find pairs of images and masks below a folder; return None if none exist.

    Parameters
    ----------
    series : sequence of Path
        Folders of one DICOM series each, relative to `root`, which are images.
    by_contents : bool
        If no file has the name of a mask, recognise masks by their values.
    by_label : bool
        Join masks of a case that have a word for their label. By default, this is tried if no other pairs are found.
    """
    files = [p.relative_to(root) for p in Walk().files(root, lambda _path, _error: None)]
    paths = [*(p for p in files if IMAGE_SUFFIX.search(p.name)), *series]
    structures = structure_folders(paths) or (label_patterns(_without_other_masks(paths)) if by_label else {})
    if by_label and not structures:
        return None
    paths = [*_without(paths, [f for files in structures.values() for f in files]), *structures]
    has_parts = any("train" in words_of(stem_of(p)) for p in paths)
    plain = [p for p in paths if not is_other_mask(_without_part(stem_of(p)) if has_parts else stem_of(p), ())]
    if any(map(is_mask_path, plain)) or not plain:
        paths = plain
    elif plain != paths and masks_by_contents(
        root, plain
    ):  # masks of preprocessing beside one without a word for a mask
        paths, by_contents = plain, True
    whole = _without(paths, without_masks_of_whole_images(root, paths)) if not structures else []
    paths, by_contents = _without(paths, whole), by_contents or bool(whole)
    testing = [p for p in paths if any("test" in parts_named(part) for part in p.parts[:-1])]
    paths = _without(paths, testing)
    testing += (named_tests := _named_tests(paths))
    paths = _without(paths, named_tests)
    scans = [p for p in paths if not is_raster(p)]
    if {is_mask_path(p) for p in scans} == {True, False}:
        paths = scans  # image files beside them are previews
    paths, copies = without_copies(root, paths)
    masks = _masks_among(paths)
    unnamed = masks_by_contents(root, paths) if by_contents and not masks else []
    masks = masks or unnamed
    masks += [p for p in structures if p not in masks]
    images = _without(paths, masks)
    radiographs = [] if images else [p for p in files if DICOM_SUFFIX.search(p.name) and not is_mask_path(p)]
    images = images or radiographs
    paths += radiographs
    results = [p for p in images if DERIVED_WORDS & set(path_words(p))]
    if len(results) < len(images):
        images = _without(images, results)
    else:
        results = []
    if not masks or not images:
        return None
    words = {p: path_words(p) for p in paths}
    words |= _words_below(masks, images)
    of_masks = common_words([words[p] for p in masks], ODD) - any_words([words[p] for p in images], ODD)
    of_images = (common_words([words[p] for p in images], ODD) & IMAGE_WORDS) - any_words(
        [words[p] for p in masks], ODD
    )
    mask_keys = {p: [w for w in words[p] if w not in of_masks and w not in MASK_WORDS] for p in masks}
    image_keys = {p: [w for w in words[p] if w not in of_images and w not in MASK_WORDS] for p in images}
    shared = common_words([words[p] for p in images])
    assigned = assign_more_images(mask_keys, image_keys, shared, assign_images(mask_keys, image_keys, shared))
    mask_keys, assigned = _with_versions(mask_keys, image_keys, shared, assigned)
    if not any(assigned.values()):  # `scan_001` and `mask_1`
        mask_keys, image_keys = _unpadded(mask_keys), _unpadded(image_keys)
        assigned = assign_images(mask_keys, image_keys, {w.lstrip("0") or w for w in shared})
    if not any(assigned.values()):  # each file has a number of its own, as `MR_T1.70617` and `OT.70622`
        mask_keys, image_keys = _without_file_numbers(mask_keys, image_keys, shared)
        assigned = assign_images(mask_keys, image_keys, shared)
    found = without_groups({m: found for m, found in assigned.items() if found})
    found = as_one_channel(join_spellings(found))
    refuse_two_kinds(mask_keys, found)
    paired = {i for of in found.values() for i in of.values()}
    rivals = _rivals(mask_keys, {i: words for i, words in image_keys.items() if i not in paired})
    named: set[Path] = set()
    for mask, more in _further_masks(mask_keys, found).items():
        of_mask = sorted(found.pop(mask).values())
        rivals.append(f"{of_mask[0]}: {mask}, {', '.join(map(str, more[:2]))}")
        named |= {mask, *more, *of_mask}
    if found and not by_label and (second := _further_labels(mask_keys, found)):
        if joined := find_pairs(root, series, by_label=True):
            return joined
        raise two_kinds(len(found), *second)
    if not found and not by_label and (joined := find_pairs(root, series, by_label=True)):
        return joined
    if not found and rivals:
        raise DataError(
            "images have several masks, and their names do not show which one is right",
            expected="one mask for each image",
            found=f"{len(rivals)} such images; {rivals[0]}",
            remedy="list the right masks in a table cases.csv with the columns case, mask and one per channel",
        )
    if radiographs:  # several files for a mask are the slices of a series
        found = {m: {"image": next(iter(of.values()))} for m, of in found.items() if len(of) == 1}
    if not found:
        refuse_several_masks(root, masks, images)
        return None
    names = {name for of in found.values() for name in of}
    by_channel = [[of[name] for of in found.values() if name in of] for name in sorted(names)]
    if unnamed and all(have_few_values(root, paths_of) for paths_of in by_channel):
        mask, of = next(iter(found.items()))
        raise DataError(
            "files without a word for a mask have few values, as masks do: images and masks cannot be told apart",
            expected="images, and masks with mask, label, seg or gt in the name of the file or its folder",
            found=f"{next(iter(of.values()))} and {mask}",
            remedy="list the files in a table cases.csv with the columns case, mask and one per channel",
        )
    several = Counter(name for channels in found.values() for name in channels)
    most = max(several.values())
    if most == 1 and len(found) > 2:
        mask, of = next(iter(found.items()))
        raise DataError(
            "the names of the images show no channels: each word is in the images of one case only",
            expected="the same words for the same kind of image, such as T1 and FLAIR",
            found=f"the channels {', '.join(sorted(of)[:3])} of {mask}",
            remedy="list the files in a table cases.csv with the columns case, mask and one per channel",
        )
    channels = {n: c for n, c in several.items() if c >= MIN_SHARE * most}
    left_out = [f"{len(testing)} files for testing, by the names of files or folders"] if testing else []
    if unnamed:
        left_out.append(
            f"files such as {unnamed[0]} are taken for masks by their values: no file has the name of a mask"
        )
    if whole:
        left_out.append(f"{len(whole)} masks of whole images, such as {whole[0]}")
    if results:
        left_out.append(f"{len(results)} files that look like results of a model, such as {results[0]}")
    if copies:
        left_out.append(f"{len(copies)} files in another format than their copies, such as {copies[0]}")
    left_out += [f"{n}: only {c} of {len(found)} cases have it" for n, c in several.items() if n not in channels]
    alone = [m for m in masks if m not in found and m not in named]
    of_images = {w for words in image_keys.values() for w in words}
    with_mask = {tuple(mask_keys[m]) for m in found}
    if further := [m for m in alone if tuple(w for w in mask_keys[m] if w in of_images) in with_mask]:
        left_out.append(
            f"{len(further)} further masks of images that have another one are not used, such as {further[0]}"
        )
    if alone := [m for m in alone if m not in further]:
        left_out.append(f"{len(alone)} masks without an image, such as {alone[0]}")
    if rivals:
        left_out.append(f"{len(rivals)} images have several masks: {rivals[0]}")
    used = {p for channels_of in found.values() for p in channels_of.values()} | named
    if spare := [p for p in images if p not in used]:
        left_out.append(f"{len(spare)} images without a mask, such as {spare[0]}")
        left_out += remarks_on_label_maps(root, spare, len(found))
    pairs = _pairs(found, mask_keys, channels)
    return Pairs(pairs, channels, tuple(left_out), tuple(p for p in testing if not is_mask_path(p)))


def _without(paths: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    left_out = set(others)
    return [p for p in paths if p not in left_out]


def _without_other_masks(paths: Sequence[Path]) -> list[Path]:
    """Return paths without masks of preprocessing (`brain_segmentation`), if other masks remain."""
    kept = [p for p in paths if not is_other_mask(stem_of(p), ())]
    return kept if any(map(is_mask_path, kept)) else list(paths)


def _unpadded(keys: Mapping[Path, list[str]]) -> dict[Path, list[str]]:
    """Return the words of paths with numbers without zeros before them; unchanged if two paths would then be alike."""
    plain = {p: [w.lstrip("0") or "0" if w.isdecimal() else w for w in words] for p, words in keys.items()}
    n_alike = [len({(p.parent, *words) for p, words in of.items()}) for of in (keys, plain)]
    return plain if n_alike[0] == n_alike[1] else dict(keys)


def _with_versions(
    masks: dict[Path, list[str]], images: dict[Path, list[str]], shared: set[str], found: dict[Path, dict[str, Path]]
) -> tuple[dict[Path, list[str]], dict[Path, dict[str, Path]]]:
    """Assign images also to masks with words that no image has, such as `final` or a reader, if each image still has one mask.

    Returns
    -------
    masks : dict
        Words of the masks, without these words if more masks get images.
    found : dict
        Images of each mask by channel.
    """
    of_images = {w for words in images.values() for w in words}
    plain = {m: [w for w in words if w in of_images or re.search(r"\d", w)] for m, words in masks.items()}
    if all(found.values()) or len({tuple(words) for words in plain.values()}) < len(masks) or not all(plain.values()):
        return masks, found
    more = assign_images(plain, images, shared)
    is_more = sum(map(bool, more.values())) > sum(map(bool, found.values()))
    return (plain, more) if is_more and all(more[m] == of for m, of in found.items() if of) else (masks, found)


def _without_file_numbers(
    masks: dict[Path, list[str]], images: dict[Path, list[str]], shared: set[str]
) -> tuple[dict[Path, list[str]], dict[Path, list[str]]]:
    """Return the words of masks and images without long numbers that a single file has, and without words of all images.

    They are returned as they are if masks would be alike then.
    """
    counts = Counter(w for keys in (masks, images) for words in keys.values() for w in set(words))
    plain = [
        {
            p: [w for w in words if (w not in shared or w.isdecimal()) and (not SERIAL.fullmatch(w) or counts[w] > 1)]
            for p, words in keys.items()
        }
        for keys in (masks, images)
    ]
    n_alike = len({tuple(words) for words in plain[0].values()})
    return (plain[0], plain[1]) if n_alike == len(masks) else (masks, images)


def _further_labels(masks: dict[Path, list[str]], found: Mapping[Path, dict[str, Path]]) -> tuple[Path, Path] | None:
    """Return a mask and another one beside it, if most masks have others of their case, which may be further labels."""
    alone = [m for m in masks if m not in found]
    shared = common_words([masks[m] for m in found])
    further: dict[Path, Path] = {}
    for first in sorted(found):
        own = Counter(w for w in masks[first] if w not in shared)
        for other in alone:
            more, one = (Counter(re.sub(r"\d+", "", w) for w in words_of(stem_of(m))) for m in (other, first))
            more = more - one
            is_kind = any(more) and not names_observer(" ".join(more))
            if other.parent == first.parent and own and not own - Counter(masks[other]) and is_kind:
                further.setdefault(first, other)
    are_versions = all(is_version(masks[other], masks[first]) for first, other in further.items())
    are_observers = any(names_observer(stem_of(m)) for m in found) and not further
    return None if 2 * len(further) <= len(found) or are_versions or are_observers else min(further.items())


def _further_masks(masks: dict[Path, list[str]], found: dict[Path, dict[str, Path]]) -> dict[Path, list[Path]]:
    """Return the masks that have further masks of the same image, which differ by a number at the end: `a_mask_1`."""
    by_key = {(m.parent, *masks[m]): m for m in found}
    further: dict[Path, list[Path]] = {}
    for mask, key in sorted(masks.items()):
        first = by_key.get((mask.parent, *key[:-1])) if mask not in found and key and key[-1].isdecimal() else None
        if first is not None and stem_of(mask).startswith(stem_of(first)):
            further.setdefault(first, []).append(mask)
    return further


def _pairs(
    found: dict[Path, dict[str, Path]], keys: dict[Path, list[str]], channels: dict[str, int]
) -> tuple[Pair, ...]:
    names = {m: _spelt_name(m, keys[m]) for m in found}
    parts = {m: _part_of_folders(m) for m in found}
    has_parts = "validation" in parts.values() and len(set(parts.values())) > 1
    doubled = {n for n, c in Counter(names.values()).items() if c > 1}
    pairs = []
    for number, mask in enumerate(sorted(found), start=1):
        name = names[mask] if names[mask] not in doubled else f"{names[mask]}_{number}"
        images = {n: p for n, p in found[mask].items() if n in channels}
        if images:
            pairs.append(Pair(name, parts[mask] if has_parts else "", mask, images))
    return tuple(pairs)


def _spelt_name(mask: Path, key: Sequence[str]) -> str:
    """Return the name of a case as its file spells it: `BraTS-GLI-00001`, not `bra_ts_gli_00001`."""
    written = re.search(r"[\W_]*".join(re.escape(w) for w in key), stem_of(mask), flags=re.IGNORECASE)
    return (written.group() if key and written else "_".join(key)) or stem_of(mask)


def _part_of_folders(mask: Path) -> str:
    """Return the part (`train` or `validation`) that a folder of a mask names; empty without one."""
    found = {part for folder in mask.parts[:-1] for part in parts_named(folder) if part in PARTS_OF_FOLDERS}
    return found.pop() if len(found) == 1 else ""


def _masks_among(paths: Sequence[Path]) -> list[Path]:
    """Return the files with the names of masks.

    If all files are, the names of folders that may be those of a dataset (`Lung Segmentation`) do not count; nor do words
    of all files, if the others are called images (`Segmentation/images`).
    """
    beside = in_images_beside_masks(paths)
    masks = [p for p in paths if is_mask_path(p) and p not in beside]
    if len(masks) < len(paths):
        return masks
    plain = {p: Path(*(part for part in p.parts[:-1] if not names_dataset(part)), p.name) for p in paths}
    found = [p for p in paths if is_mask_path(plain[p])]
    if 0 < len(found) < len(paths):
        return found
    words = {p: set(path_words(p)) for p in paths}
    shared = set.intersection(*words.values()) if words else set()
    found = [p for p in paths if MASK_WORDS & (words[p] - shared)]
    others = set(paths) - set(found)
    plain_names = {name_without_kind(stem_of(p)) for p in others}
    have_partners = sum(name_without_kind(stem_of(p)) in plain_names for p in found) >= len(found) / 2
    return found if found and others and (have_partners or all(IMAGE_WORDS & words[p] for p in others)) else masks


def _rivals(masks: dict[Path, list[str]], images: dict[Path, list[str]]) -> list[str]:
    """Return a text for each image whose words fit several masks with the same words."""
    by_key: dict[tuple[str, ...], list[Path]] = {}
    for mask, key in masks.items():
        by_key.setdefault(tuple(key), []).append(mask)
    doubled = {key: found for key, found in by_key.items() if len(found) > 1}
    return [
        f"{image}: {', '.join(map(str, sorted(found)[:3]))}"
        for image, words in sorted(images.items())
        for key, found in doubled.items()
        if tuple(words[: len(key)]) == key and sum(m.parent == image.parent for m in found) != 1
    ]


def _named_tests(paths: Sequence[Path]) -> list[Path]:
    """Return the files with a word for testing, if others have none; in a study of test and retest, none are for testing."""
    words = {p: {w.lower() for w in spelt_words(stem_of(p))} for p in paths}
    found = [p for p in paths if words[p] & FILE_TEST_WORDS]
    kept = {is_mask_path(p) for p in paths if p not in set(found)}
    return [] if kept != {True, False} or any("retest" in w for w in words.values()) else found


def _words_below(masks: Sequence[Path], images: Sequence[Path]) -> dict[Path, list[str]]:
    """Return the words of paths without the folders around all files, and of masks without those around all masks."""
    of_all = _folder_around([*masks, *images])
    of_masks = _folder_around(masks) if len(masks) > 1 else of_all
    inside = {i: of_masks if i.is_relative_to(of_masks) else of_all for i in images}
    return {m: path_words(m.relative_to(of_masks)) for m in masks} | {
        i: path_words(i.relative_to(folder)) for i, folder in inside.items()
    }


def _folder_around(paths: Sequence[Path]) -> Path:
    """Return the smallest folder that contains all relative paths."""
    first, depth = paths[0].parent.parts, min(len(p.parts) - 1 for p in paths)
    while depth and any(p.parts[:depth] != first[:depth] for p in paths):
        depth -= 1
    return Path(*first[:depth])


def _without_part(stem: str) -> str:
    """Return a name without the word `valid`, which means validation where others have `train`."""
    return re.sub(r"valid(?![a-z])", "", stem, flags=re.IGNORECASE)
