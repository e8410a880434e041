"""Words of file and folder names: those of masks, images, cases for testing, and results of models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts.parts import part_of

TARGET_VOLUMES = ("gtvt", "gtvn", "gtvp")
"""Words for masks that are also labels, where masks have several of them."""

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
        "groundtruths",
        "gts",
        "truths",
        "truth",
        "annotation",
        "annotations",
        "annot",
        "anno",
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
        "gtv",
        *TARGET_VOLUMES,
        "consensus",
        "tumormask",
        "structures",
        *("aseg", "aparc", "wmparc", "parcellation", "parcellations"),
        *("maske", "masken", "segmentierung", "segmentierungen", "kontur", "konturen"),
        *("masque", "masques", "mascara", "mascaras", "máscara", "máscaras", "maschera", "maschere"),
        *("etiqueta", "etiquetas", "etiquette", "etiquettes", "étiquette", "étiquettes"),
    }
)
"""Words of file and folder names that mean a reference mask, in lower case."""

DOMAIN = re.compile(
    r"(?<![a-z])target(?=[\W_]*(?:domain|train|valid|val(?![a-z])|test|scans?(?![a-z])|images?(?![a-z])))", re.I
)
"""Word of a folder of images of another domain (`target_training`), which is no mask's."""

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
        "rawdata",
        "dataset",
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
        *("bild", "bilder", "aufnahme", "aufnahmen", "imagen", "imagenes", "imágenes", "immagine", "immagini"),
    }
)
"""Words that every image may have and that name no channel."""

IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "scan", "scans", "volumes", "imagestr"})
"""Names of folders of images."""

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
        "superpixel",
        "superpixels",
        "heatmaps",
        "overlays",
        "uncertainties",
        "distance",
        "distances",
        "sdf",
        "weight",
        "weights",
        "weightmap",
        "weightmaps",
        "instance",
        "instances",
        "boundary",
        "boundaries",
        "edge",
        "edges",
        "skeleton",
        "skeletons",
        "visual",
        "visualization",
        "visualizations",
        "visualisation",
        "visualisations",
        "preview",
        "previews",
        "thumbnail",
        "thumbnails",
    }
)
"""Words of results of other models, and of maps made from masks, which are no channels beside images."""

DATASET_WORDS = frozenset({"seg", "segm", "segmentation"})
"""Words for masks that the name of a dataset may have."""

MASK_COMPOUND = re.compile(r"^[^\W\d_]+(mask|labelmap|segmentation)s?$")
"""Words in lower case that end in one for masks: `lungmasks`, `livermask`."""

SEGMENTS_SUFFIX = re.compile(r"\.seg\.nrrd$", re.IGNORECASE)
"""Suffix of masks of 3D Slicer, whose names need no word for a mask: `P1.seg.nrrd`."""

DICOM_SUFFIX = re.compile(r"\.(dcm|dicom)$", re.IGNORECASE)
"""Suffixes of single DICOM images, such as radiographs, that have image files as masks."""

CT_WORDS = re.compile(r"(?<![a-z])(ct|ctres|cta|cect|ncct|ldct|cbct|hounsfield)(?![a-z])", re.IGNORECASE)
MR_WORDS = re.compile(
    r"(?<![a-z])(mri?|mrt|t1\w*|t2\w*|flair|dwi|adc|swi|pd\w*|dce|dti|bold|lge|bssfp|cine|dixon|ir|mprage|space|vibe|tof)(?![a-z])",
    re.IGNORECASE,
)
COLOUR_LETTERS = re.compile(r"(?<![a-z])[rgb](?![a-z])", re.IGNORECASE)
"""Letters for the colours of image files; in the names of volumes, they are numbers of series."""

OTHER_WORDS = re.compile(
    r"(?<![a-z])(pet|pt|suv|us|ultrasound|x-?ray|dx|cr|oct|rgb|red|green|blue|fundus|dermoscop\w*|microscop\w*|nonorm|histolog\w*"
    r"|probability|photo\w*|rescale\w*)(?![a-z])",
    re.IGNORECASE,
)
"""Words for sequences and modalities."""

ENUMERATION = re.compile(r"^(?:\d{1,2}|[A-Za-z])[.)]\s+(?=\S)")
"""Number or letter before the name of a folder."""

PART_NUMBER = re.compile(r"(?<![a-z])(part|pt|batch|subset|fold|chunk)[\W_]+(\d+)", re.IGNORECASE)
"""Number of a part of a dataset in the name of a folder (`images_part_1`), which separates no scans."""

GROUP = re.compile(
    r"(un)?(label|annotat)|(site|cent(er|re)|hospital|clinic|cohort|group|batch|subset|set|fold|vendor|scanner|institution)s?"
    r"([a-z]|\d+)?$|control|patient|healthy|normals?$|target|source|extra|other|more|rest$|remain|additional",
    re.IGNORECASE,
)
"""Words for groups of cases, in the names of folders."""

WORD = re.compile(r"[^\W_]+")
NUMBERED = (
    *("image", "img", "im", "volume", "vol", "scan", "ct", "orig"),
    *("mask", "label", "seg", "segmentation", "gt", "manual"),
)
BORDER = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=(?:[Mm]ask|[Ss]eg|[Ll]abel|gt|GT)s?$)|"
    + "|".join(rf"(?<=(?<![A-Za-z])(?i:{word}))(?=\d)" for word in NUMBERED)
)
"""Borders of words within a name: `lungMask`, `001mask`, and `label001` for the words of `NUMBERED`."""


def name_without_kind(name: str, more: frozenset[str] = frozenset()) -> str:
    """Return the name of a file without the words at its ends that mean an image or a mask, or are in `more`.

    It is `a01` for `a01_mask`.
    """
    borders = [0, *(m.start() for m in BORDER.finditer(name) if m.start()), len(name)]
    words = [m for low, high in pairwise(borders) for m in WORD.finditer(name, low, high)]
    kinds = MASK_WORDS | IMAGE_WORDS | more
    while len(words) > 1 and words[-1][0].lower() in kinds:
        words = words[:-1]
    while len(words) > 1 and words[0][0].lower() in kinds:
        words = words[1:]
    return name[words[0].start() : words[-1].end()] if words else name


def names_mask(name: str) -> bool:
    """Return whether the name of a file has a word that means a mask."""
    return any(w in MASK_WORDS for w in words_of(name))


def is_mask_path(path: Path) -> bool:
    """Return whether a relative path has a word that means a mask, or the suffix of one."""
    folders = [DOMAIN.sub("", part) for part in path.parts[:-1]]
    words = path_words(Path(*folders, path.name))
    return SEGMENTS_SUFFIX.search(path.name) is not None or any(
        w in MASK_WORDS or MASK_COMPOUND.match(w) for w in words
    )


def in_images_beside_masks(paths: Sequence[Path]) -> set[Path]:
    """Return the paths in a folder of images that has a folder of masks beside it, whatever the folder around both is called.

    An example is `label_192/images/P1.nii` beside `label_192/masks/P1.nii`.
    """
    around = {Path(*p.parts[:i]) for p in paths for i, part in enumerate(p.parts[:-1]) if names_mask(part)}
    return {
        p
        for p in paths
        for i, part in enumerate(p.parts[:-1])
        if part.lower() in IMAGE_FOLDERS
        and Path(*p.parts[:i]) in around
        and not any(map(names_mask, (*p.parts[i:-1], stem_of(p))))
    }


def names_dataset(folder: str) -> bool:
    """Return whether a folder with a word for masks in its name may be a dataset: `Lung Segmentation`."""
    words = words_of(folder)
    return len(words) > 1 and not MASK_WORDS.isdisjoint(words) and MASK_WORDS & set(words) <= DATASET_WORDS


def parts_named(folder: str) -> set[str]:
    """Return the parts (`train`, `validation`, `test`) that a folder's name has words for, also beside numbers (`verse20test`)
    or in two words (`held_out`).

    A `Ts` within a word does not count: `BraTS`.
    """
    listed = [w for w in words_of(folder) if w != "ts"]
    joined = (part_of("_".join(listed[i:k])) for i in range(len(listed)) for k in (i + 2, i + 3) if k <= len(listed))
    if "test" in joined:
        return {"test"}  # `held_out`, `external_validation`
    words = {*listed, *WORD.findall(folder.lower())}
    plain = {letters for w in words for letters in re.findall(r"[^\W\d_]+", w) if letters != "ts"}
    found = {part for w in plain if (part := part_of(w))}
    return found | ({"test"} if TEST_WORDS & words else set())


def stem_of(path: Path) -> str:
    """Return the name of a file without the suffixes of images and DICOM."""
    return DICOM_SUFFIX.sub("", IMAGE_SUFFIX.sub("", path.name))


def path_words(path: Path) -> list[str]:
    """Return the words of a path in lower case, without folders whose name the file's name repeats."""
    own = words_of(stem_of(path))
    folders = [folder_words(part) for part in path.parts[:-1]]
    return [*(w for words in folders if words != own[: len(words)] for w in _without_repeats(words, own)), *own]


def folder_words(folder: str) -> list[str]:
    """Return the words of a folder in lower case, with the number of a part joined to its word: `batch1` for `batch_1`.

    A number or letter before a word for images, masks or a part (`1. Original Images`) is left out.
    """
    rest = words_of(ENUMERATION.sub("", folder))
    is_kind = any(w in MASK_WORDS or w in IMAGE_WORDS or part_of(w) for w in rest)
    return words_of(PART_NUMBER.sub(r"\1\2", ENUMERATION.sub("", folder) if is_kind else folder))


def _without_repeats(folder: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the words of a folder without those that the file's name repeats, if the others mean masks or images."""
    others = [w for w in folder if w not in own]
    is_kind = bool(others) and all(w in MASK_WORDS or w in IMAGE_WORDS for w in others)
    return others if is_kind else list(folder)


def words_of(text: str) -> list[str]:
    """Return the words of a name in lower case."""
    return [w.lower() for w in spelt_words(text)]


def spelt_words(text: str) -> list[str]:
    """Return the words of a name as they are spelt."""
    return [w for piece in BORDER.split(text) for w in WORD.findall(piece)]


def names_sequence(text: str) -> bool:
    """Return whether a text has a word for a modality or a sequence of MR."""
    return any(pattern.search(text) for pattern in (CT_WORDS, MR_WORDS, OTHER_WORDS))


def names_group(word: str) -> bool:
    """Return whether a word of a folder's name is that of a group of cases: `val`, `siteB`, `unlabelled`, `controls`."""
    return any(GROUP.match(w) for w in (word, *words_of(word))) or bool(parts_named(word))


def names_unlabelled(folder: str) -> bool:
    """Return whether the name of a folder has a word for scans without masks."""
    return any(re.match("un(label|annot)", w) for w in words_of(folder))
