"""Pairs of images and masks in folders without a list: parallel folders, files side by side, one folder per case.

Each path is split into words. Words that every mask has and no image has (`masks`, `seg`, `derivatives`) are ignored, and so
are words such as `images` that every image has and no mask has. An image belongs to the mask whose words it contains in the
same order; its other words name the channel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.data.channel_words import is_other_mask
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts.parts import part_of
from medhybrid.errors import DataError
from medhybrid.names import printable_path
from medhybrid.scans.raster import is_raster
from medhybrid.scans.walk import Walk

MASK_WORDS = frozenset(
    {
        "mask",
        "masks",
        "msk",
        "msks",
        "label",
        "labels",
        "labelstr",
        "labeltr",
        "seg",
        "segs",
        "segm",
        "dseg",
        "segmentation",
        "segmentations",
        "gt",
        "groundtruth",
        "truth",
        "annotation",
        "annotations",
        "annot",
        "ann",
        "anns",
        "lbl",
        "lbls",
        "target",
        "targets",
        "roi",
        "rois",
        "contour",
        "contours",
        "delineation",
        "delineations",
        "manual",
        "reference",
        "references",
        "lesionmask",
        "consensus",
        "tumormask",
    }
)
"""Words of file and folder names that mean a reference mask, in lower case."""

IMAGE_WORDS = frozenset(
    {
        "image",
        "images",
        "img",
        "imgs",
        "imagestr",
        "scan",
        "scans",
        "volume",
        "volumes",
        "vol",
        "raw",
        "data",
        "orig",
        "original",
        "input",
        "inputs",
        "nifti",
        "nii",
        "anat",
        "train",
        "training",
        "tr",
        "jpegimages",
    }
)
"""Words that every image may have and that name no channel."""

FILE_TEST_WORDS = frozenset({"test", "tests", "testing"})
"""Words of file names for testing. In the name of an image that trains, they would look like a channel."""

TEST_WORDS = frozenset(
    {
        "test",
        "tests",
        "testing",
        "ts",
        "imagests",
        "labelsts",
    }
)
DERIVED_WORDS = frozenset(
    {
        "pred",
        "preds",
        "prediction",
        "predictions",
        "predicted",
        "output",
        "outputs",
        "result",
        "results",
        "inference",
        "inferred",
        "prob",
        "probs",
        "probability",
        "probabilities",
        "softmax",
        "logits",
        "uncertainty",
        "heatmap",
        "overlay",
    }
)
"""Words of results of other models, which are no channels beside images."""

DICOM_SUFFIX = re.compile(r"\.(dcm|dicom)$", re.IGNORECASE)
"""Suffixes of single DICOM images, such as radiographs, that have image files as masks."""

WORD = re.compile(r"[^\W_]+")
NUMBERED = ("image", "img", "volume", "vol", "mask", "label", "seg", "segmentation", "gt", "manual")
BORDER = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=(?:[Mm]ask|[Ss]eg|[Ll]abel|gt|GT)s?$)|"
    + "|".join(rf"(?<=(?<![A-Za-z])(?i:{word}))(?=\d)" for word in NUMBERED)
)
"""Borders of words within a name: `lungMask`, `001mask`, and `label001` for the words of `NUMBERED`."""

PARTS_OF_FOLDERS = ("train", "validation")

MAX_WORDS = 4
"""Least number of separators in a name that is not that of a channel, but of folders and series."""

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
    """

    pairs: tuple[Pair, ...]
    channels: dict[str, int]
    left_out: tuple[str, ...] = ()


def has_masks(root: Path) -> bool:
    """Return whether a folder contains files with the names of masks."""
    files = (p.relative_to(root) for p in Walk().files(root, lambda _path, _error: None))
    return any(IMAGE_SUFFIX.search(p.name) and _names_mask(p) for p in files)


def find_pairs(root: Path, series: Sequence[Path] = ()) -> Pairs | None:
    """Find pairs of images and masks below a folder; return None if none exist.

    Parameters
    ----------
    series : sequence of Path
        Folders of one DICOM series each, relative to `root`, which are images.
    """
    files = [p.relative_to(root) for p in Walk().files(root, lambda _path, _error: None)]
    paths = [*(p for p in files if IMAGE_SUFFIX.search(p.name)), *series]
    paths = [p for p in paths if not is_other_mask(_stem(p), ())]
    testing = [p for p in paths if any(_names_test(part) for part in p.parts[:-1])]
    paths = [p for p in paths if p not in set(testing)]
    testing += (named_tests := _named_tests(paths))
    paths = [p for p in paths if p not in set(named_tests)]
    scans = [p for p in paths if not is_raster(p)]
    if {_names_mask(p) for p in scans} == {True, False}:
        paths = scans  # image files beside them are previews
    masks = [p for p in paths if _names_mask(p)]
    images = [p for p in paths if p not in set(masks)]
    radiographs = [] if images else [p for p in files if DICOM_SUFFIX.search(p.name) and not _names_mask(p)]
    images = images or radiographs
    paths += radiographs
    results = [p for p in images if DERIVED_WORDS & set(_path_words(p))]
    if len(results) < len(images):
        images = [p for p in images if p not in set(results)]
    else:
        results = []
    if not masks or not images:
        return None
    words = {p: _path_words(p) for p in paths}
    of_masks = _common([words[p] for p in masks]) - _any([words[p] for p in images])
    of_images = (_common([words[p] for p in images]) & IMAGE_WORDS) - _any([words[p] for p in masks])
    mask_keys = {p: [w for w in words[p] if w not in of_masks and w not in MASK_WORDS] for p in masks}
    image_keys = {p: [w for w in words[p] if w not in of_images] for p in images}
    assigned = _assign(mask_keys, image_keys, _common([words[p] for p in images]))
    found = _without_identifiers(_join_spellings({m: found for m, found in assigned.items() if found}))
    _refuse_two_kinds(mask_keys, found)
    rivals = _rivals(mask_keys, image_keys)
    named: set[Path] = set()
    for mask, more in _further_masks(mask_keys, found).items():
        of_mask = sorted(found.pop(mask).values())
        rivals.append(f"{of_mask[0]}: {mask}, {', '.join(map(str, more[:2]))}")
        named |= {mask, *more, *of_mask}
    if not found and rivals:
        raise DataError(
            "images have several masks, and their names do not say which one is right",
            expected="one mask for each image",
            found=f"{len(rivals)} such images; {rivals[0]}",
            remedy="list the right masks in a table cases.csv with the columns case, mask and one per channel",
        )
    if radiographs:  # several files for a mask are the slices of a series
        found = {m: {"image": next(iter(of.values()))} for m, of in found.items() if len(of) == 1}
    if not found:
        _refuse_several_masks(root, masks, images)
        return None
    several = Counter(name for channels in found.values() for name in channels)
    most = max(several.values())
    channels = {n: c for n, c in several.items() if c >= MIN_SHARE * most}
    left_out = [f"{len(testing)} files for testing, by the names of files or folders"] if testing else []
    if results:
        left_out.append(f"{len(results)} files that look like results of a model, such as {results[0]}")
    left_out += [f"{n}: only {c} of {len(found)} cases have it" for n, c in several.items() if n not in channels]
    if alone := [m for m in masks if m not in found and m not in named]:
        left_out.append(f"{len(alone)} masks without an image, such as {alone[0]}")
    if rivals:
        left_out.append(f"{len(rivals)} images have several masks: {rivals[0]}")
    used = {p for channels_of in found.values() for p in channels_of.values()} | named
    if spare := [p for p in images if p not in used]:
        left_out.append(f"{len(spare)} images without a mask, such as {spare[0]}")
    pairs = _pairs(found, mask_keys, channels)
    return Pairs(pairs, channels, tuple(left_out))


def _refuse_several_masks(root: Path, masks: Sequence[Path], images: Sequence[Path]) -> None:
    """Raise `DataError` if each image has several masks, one for each label."""
    labels = Counter(_stem(m) for m in masks)
    if len(masks) < 2 * len(images) or min(labels.values()) == 1:
        return
    raise DataError(
        f"{printable_path(root)} has several masks for each image",
        expected="one mask for each image, with a value for each label",
        found=f"{len(masks)} masks of {len(images)} images, such as {', '.join(list(labels)[:4])}",
        remedy="join the masks of an image to one file with the values 1, 2, 3, ...",
    )


def _refuse_two_kinds(masks: dict[Path, list[str]], found: dict[Path, dict[str, Path]]) -> None:
    """Raise `DataError` if images have a second mask of another kind, such as the field of view beside the vessels.

    A second mask has all words that tell the first one apart from masks of its kind. It is in another folder, but not below
    that of the first one, as parts of a mask are. The words of both kinds differ in more than numbers, unlike those of visits.
    """
    alone = [m for m in masks if m not in found]
    of_first, of_second = (_common([masks[m] for m in kind]) for kind in (list(found), alone))
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
        if apart := sorted(m for m in same if not m.is_relative_to(first.parent)):
            second[first] = apart[0]
    if len(second) >= 2 and 2 * len(second) >= len(found):
        first, other = next(iter(second.items()))
        raise DataError(
            "images have masks of two kinds, and their names do not say which one is right",
            expected="one mask for each image",
            found=f"{len(second)} such images, with masks such as {first} and {other}",
            remedy="move the other masks to another folder, or list the right ones in a table cases.csv with the columns "
            "case, mask and one per channel",
        )


def _further_masks(masks: dict[Path, list[str]], found: dict[Path, dict[str, Path]]) -> dict[Path, list[Path]]:
    """Return the masks that have further masks of the same image, which differ by a number at the end: `a_mask_1`."""
    by_key = {(m.parent, *masks[m]): m for m in found}
    further: dict[Path, list[Path]] = {}
    for mask, key in sorted(masks.items()):
        first = by_key.get((mask.parent, *key[:-1])) if mask not in found and key and key[-1].isdecimal() else None
        if first is not None and _stem(mask).startswith(_stem(first)):
            further.setdefault(first, []).append(mask)
    return further


def _pairs(
    found: dict[Path, dict[str, Path]], keys: dict[Path, list[str]], channels: dict[str, int]
) -> tuple[Pair, ...]:
    names = {m: _spelt_name(m, keys[m]) for m in found}
    parts = {m: _part_of_folders(m) for m in found}
    has_parts = {"train", "validation"} <= set(parts.values())
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
    written = re.search(r"[\W_]*".join(re.escape(w) for w in key), _stem(mask), flags=re.IGNORECASE)
    return (written.group() if key and written else "_".join(key)) or _stem(mask)


def _part_of_folders(mask: Path) -> str:
    """Return the part (`train` or `validation`) that a folder of a mask names; empty without one."""
    found = {part for folder in mask.parts[:-1] for w in _words(folder) if (part := part_of(w)) in PARTS_OF_FOLDERS}
    return str(found.pop()) if len(found) == 1 else ""


def _join_spellings(found: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return channels under one spelling each (`FLAIR` and `flair`, `T1` and `T1w`), if no case has both of them."""
    several = Counter(name for channels in found.values() for name in channels)
    forms: dict[str, list[str]] = {}
    for name in several:
        forms.setdefault(re.sub(r"(?<![a-z0-9])(t1|t2|pd)w(?![a-z0-9])", r"\1", name.casefold()), []).append(name)
    chosen: dict[str, str] = {}
    for names in forms.values():
        is_apart = all(sum(n in channels for n in names) <= 1 for channels in found.values())
        best = max(names, key=lambda n: several[n])
        chosen |= {n: best if is_apart else n for n in names}
    return {mask: {chosen[n]: p for n, p in channels.items()} for mask, channels in found.items()}


def _without_identifiers(found: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return the channel `image` where each case has one image with identifiers in its name, such as dates."""
    names = {name for channels in found.values() for name in channels}
    is_single = all(len(channels) == 1 for channels in found.values())
    is_long = all(name.count("_") >= MAX_WORDS for name in names)
    are_identifiers = len(names) > max(2, len(found) / 2) and all(re.search(r"\d{3}", name) for name in names)
    if found and is_single and (is_long or are_identifiers):
        return {mask: {"image": next(iter(channels.values()))} for mask, channels in found.items()}
    return found


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


def _assign(
    masks: dict[Path, list[str]], images: dict[Path, list[str]], shared: set[str]
) -> dict[Path, dict[str, Path]]:
    """Return channels and images of each mask: the mask with the most words that the image has all of, in their order.

    Parameters
    ----------
    shared : set of str
        Words of all images, which tell no cases apart.
    """
    by_word: dict[str, set[Path]] = {}
    for mask, key in masks.items():
        for word in key or [""]:
            by_word.setdefault(word, set()).add(mask)
    assigned: dict[Path, dict[str, Path]] = {m: {} for m in masks}
    for image, key in sorted(images.items()):
        counts = Counter(m for w in {*key, ""} for m in by_word.get(w, ()))
        fitting = [m for m, n in counts.items() if n >= len(set(masks[m]) or {""}) and _fits(masks[m], key, shared)]
        if not fitting:
            continue
        best = max(len(masks[m]) for m in fitting)
        chosen = [m for m in fitting if len(masks[m]) == best]
        if len(chosen) != 1:
            chosen = [m for m in chosen if m.parent == image.parent] or chosen
        if len(chosen) != 1:
            continue
        rest = Counter(key) - Counter(masks[chosen[0]])
        spelt = {w.lower(): w for part in (*image.parts[:-1], _stem(image)) for w in _spelt(part)}
        name = "_".join(spelt.get(w, w) for w in rest.elements())
        assigned[chosen[0]].setdefault(name or "image", image)
    return assigned


def _fits(mask: Sequence[str], image: Sequence[str], shared: set[str]) -> bool:
    """Return whether an image has all words of a mask in their order, and no other number among the numbers of the mask.

    Otherwise visit 2 of patient 1 would get the mask of visit 1 of patient 2 (`p_1_2` and `p_2_1`).
    """
    words = iter(image)
    if not all(w in words for w in mask):  # each search starts after the word found before
        return False
    numbers = [w for w in mask if w.isdecimal()]
    return [w for w in image if w.isdecimal() and (w in mask or w not in shared)][: len(numbers)] == numbers


def _named_tests(paths: Sequence[Path]) -> list[Path]:
    """Return the files with a word for testing, if others have none; in a study of test and retest, none are for testing."""
    words = {p: {w.lower() for w in _spelt(_stem(p))} for p in paths}
    found = [p for p in paths if words[p] & FILE_TEST_WORDS]
    kept = {_names_mask(p) for p in paths if p not in set(found)}
    return [] if kept != {True, False} or any("retest" in w for w in words.values()) else found


def _names_test(folder: str) -> bool:
    """Return whether a folder is for testing. A `Ts` within a word does not count: `BraTS`."""
    spelt = {w for w in _words(folder) if w != "ts"}
    return bool(TEST_WORDS & (spelt | set(WORD.findall(folder.lower()))))


def name_without_kind(name: str) -> str:
    """Return the name of a file without the words at its ends that mean an image or a mask: `a01` for `a01_mask`."""
    words = list(WORD.finditer(BORDER.sub(" ", name)))
    kinds = MASK_WORDS | IMAGE_WORDS
    text = BORDER.sub(" ", name)
    while len(words) > 1 and words[-1][0].lower() in kinds:
        text, words = text[: words[-1].start()], words[:-1]
    while len(words) > 1 and words[0][0].lower() in kinds:
        words = words[1:]
    return text[words[0].start() : words[-1].end()] if words else name


def names_mask(name: str) -> bool:
    """Return whether the name of a file has a word that means a mask."""
    return any(w in MASK_WORDS for w in _words(name))


def _names_mask(path: Path) -> bool:
    return any(w in MASK_WORDS for w in _path_words(path))


def _stem(path: Path) -> str:
    return DICOM_SUFFIX.sub("", IMAGE_SUFFIX.sub("", path.name))


def _path_words(path: Path) -> list[str]:
    """Return the words of a path in lower case, without folders whose name the file's name repeats."""
    own = _words(_stem(path))
    folders = [_words(part) for part in path.parts[:-1]]
    return [*(w for words in folders if words != own[: len(words)] for w in words), *own]


def _words(text: str) -> list[str]:
    return [w.lower() for w in _spelt(text)]


def _spelt(text: str) -> list[str]:
    return [w for piece in BORDER.split(text) for w in WORD.findall(piece)]


def _common(words: Sequence[Sequence[str]]) -> set[str]:
    return set.intersection(*(set(w) for w in words)) if words else set()


def _any(words: Sequence[Sequence[str]]) -> set[str]:
    return {w for found in words for w in found}
