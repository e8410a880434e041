"""Channels and labels of a folder of DICOM studies with SEG or RTSTRUCT."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.data.layouts.drawn_on import drawn_on
from medhybrid.data.layouts.joined_masks import are_parts, join_masks
from medhybrid.data.layouts.label_files import cell_of
from medhybrid.draft.segments import count_names
from medhybrid.draft.series import find_units, lines_of
from medhybrid.draft.words import parts_named
from medhybrid.errors import DataError, MedHybridError
from medhybrid.names import printable_path
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.dicom.references import KINDS, reference_names

NO_TARGET = re.compile(
    r"^(body|external|couch\w*|table|skin|outer contour|patient|isocent\w*|marker\w*)$", re.IGNORECASE
)
"""Structures of treatment planning that are no targets of a segmentation."""

LOCALIZER = re.compile(r"locali[sz]er|scout|survey|topogram|surview|(?<![a-z])loc(?![a-z])", re.IGNORECASE)
"""Words of series that are no channels."""

MIN_SHARE = 0.2
"""Segments in fewer masks are ignored."""


@dataclass(frozen=True, slots=True)
class StudyRules:
    """Rules for the layout `studies`.

    Attributes
    ----------
    channel_map : dict
        Channel to a pattern of series descriptions.
    labels : dict
        Name of a segment to the number of masks that have it.
    lines : list of list of str
        Table of cases, if the folders of the dataset are not one study each.
    """

    channels: tuple[str, ...]
    modalities: tuple[str, ...]
    channel_map: dict[str, str]
    labels: dict[str, int]
    mask_pattern: str
    n_masks: int
    has_others: bool = False
    remarks: tuple[str, ...] = ()
    lines: list[list[str]] = field(default_factory=list)


def rules_of_studies(root: Path) -> StudyRules | None:
    """Return the rules for a folder of DICOM studies; None if it has no SEG or RTSTRUCT."""
    entries = discover(root, with_archives=False).entries
    masks = [e for e in entries if e.modality in KINDS and not e.problem]
    images = [e for e in entries if e.kind == "dicom" and e not in masks and not e.problem and not e.skip_reason]
    if not masks or not images:
        return None
    testing = _series_for_testing([*masks, *images], root)
    if any(e not in testing for e in masks):
        masks, images = ([e for e in found if e not in testing] for found in (masks, images))
    else:
        testing = []
    masks = join_masks(masks)
    n_all, joined = len(masks), [m for m in masks if len(m.paths) > 1 and are_parts(m.paths)]
    in_studies = Counter(_folder(e, root) for e in masks)
    has_several = max(in_studies.values()) > 1
    if has_several:
        masks = _without_outlines_beside_seg(masks, images)
    labels, unread = _labels(masks)
    if not labels:
        return None
    with_mask = {_folder(e, root) for e in masks}
    studies: dict[str, list[ScanEntry]] = {}
    for entry in images:
        if _folder(entry, root) in with_mask:
            studies.setdefault(_folder(entry, root), []).append(entry)
    units = find_units(root, masks, images) if has_several or testing or not studies else []
    if not studies and not units:
        return None
    if units:  # visits of a patient, or folders of studies further below
        studies = {str(u.folder): list(u.images) for u in units}
        drawn = [drawn_on(u.mask, u.images) for u in units]
    else:
        mask_of = {_folder(m, root): m for m in masks}
        drawn = [drawn_on(mask_of[folder], found) for folder, found in studies.items()]
    channels, rules, remarks = _channels(list(studies.values()), drawn)
    lines: list[list[str]] = []
    if joined:
        n_files = sum(len(m.paths) for m in joined)
        remarks.append(f"{n_files} SEG or RTSTRUCT are {len(joined)} masks: those of an image have different segments")
    if n_all > len(masks):
        remarks.append(f"{n_all - len(masks)} RTSTRUCT beside the SEG of their study are not used")
    if testing:
        remarks.append(f"{len(testing)} series for testing, by the names of their folders")
    if units:
        lines = lines_of(units, {c: _plain(p) for c, p in rules.items()}, [*masks, *images])
        used = {line[2] for line in lines[1:]}
        if len(lines) > 1 and (left := [m for m in masks if cell_of(m.paths) not in used]):
            remarks.append(
                f"{len(left)} masks are not used, such as {', '.join(m.name for m in left[:3])}: an image has several masks, a "
                "channel is missing, or series share a folder. Join the masks of an image, or list cases in a table cases.csv"
            )
    flat = [e for e in (*masks, *images) if e.paths[0].parent == root]
    if len(lines) < 2 and len(flat) > 1:
        raise DataError(
            f"the files of {len(flat)} series share the folder {printable_path(root.name)}",
            expected="a folder for each series and each mask, in a folder for each study",
            found=f"files such as {printable_path(flat[0].paths[0].name)} in the folder of the dataset",
            remedy="sort the files into folders by StudyInstanceUID and SeriesInstanceUID",
        )
    if len(lines) < 2:
        _refuse_several_masks(masks, root)
    if testing and len(lines) < 2:  # the layout `studies` would train on them
        raise DataError(
            f"{printable_path(root)} has studies for testing, which would train",
            expected="a folder for each series and each mask, so that the studies for training can be listed in a table",
            found=f"{len(testing)} series in folders such as {testing[0].name}",
            remedy="give a folder with the studies for training only, or move those for testing to another folder",
        )
    kept = {n: c for n, c in labels.items() if c >= MIN_SHARE * len(masks) and not NO_TARGET.match(n.strip())}
    kept = kept or labels
    if others := sorted(set(labels) - set(kept)):
        remarks.append(f"segments that are not labels: {', '.join(others[:8])}")
    if unread:
        remarks.append(f"{unread} masks cannot be read")
    of_masks = [e for found in drawn for e in found] if all(drawn) else []
    every = of_masks if set(rules.values()) == {"*"} and of_masks else [e for es in studies.values() for e in es]
    described = {c: [e for e in every if _plain(rules[c]) in ("*", e.description.strip())] or every for c in channels}
    by_channel = {c: Counter(e.modality for e in found) for c, found in described.items()}
    modalities = tuple(
        "CT" if by_channel[c].most_common(1)[0][0] == "CT" else _modality(by_channel[c]) for c in channels
    )
    return StudyRules(
        tuple(channels),
        modalities,
        {} if len(lines) > 1 else rules,
        kept,
        "*mask*",
        len(masks),
        has_others=bool(others),
        remarks=tuple(remarks),
        lines=lines if len(lines) > 1 else [],
    )


def _refuse_several_masks(masks: Sequence[ScanEntry], root: Path) -> None:
    """Raise `DataError` if each study has several SEG or RTSTRUCT: they may be those of several readers."""
    by_study: dict[str, list[ScanEntry]] = {}
    for mask in masks:
        by_study.setdefault(_folder(mask, root), []).append(mask)
    if min(map(len, by_study.values())) < 2:
        return
    found = [f"{m.name} with {', '.join(_names_in(m)[:3]) or 'no segment'}" for m in next(iter(by_study.values()))]
    raise DataError(
        "each study has several SEG or RTSTRUCT",
        expected="one with all labels for each image",
        found="; ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else ""),
        remedy="if they have different labels, join those of an image, for example in 3D Slicer; if they are of several "
        "readers, list the right ones in a table cases.csv with the columns case, subject, mask and one per channel",
    )


def _names_in(mask: ScanEntry) -> list[str]:
    with suppress(MedHybridError):
        return [n for path in mask.paths for n in reference_names(path)]
    return []


def _without_outlines_beside_seg(masks: list[ScanEntry], images: list[ScanEntry]) -> list[ScanEntry]:
    """Return the masks without each RTSTRUCT in whose study, the smallest folder around it with images, is a single SEG."""
    with_images = {folder for e in images for folder in e.paths[0].parents}
    n_segs = Counter(folder for e in masks if e.modality == "SEG" for folder in e.paths[0].parents)

    def is_beside_seg(mask: ScanEntry) -> bool:
        study = next((f for f in mask.paths[0].parents if f in with_images), None)
        return mask.modality != "SEG" and study is not None and n_segs[study] == 1

    return [m for m in masks if not is_beside_seg(m)]


def _modality(found: Counter[str]) -> str:
    return "MR" if found.most_common(1)[0][0] == "MR" else "other"


def _labels(masks: list[ScanEntry]) -> tuple[dict[str, int], int]:
    found: list[list[str]] = []
    for entry in masks:
        with suppress(MedHybridError):
            found.append([n for path in entry.paths for n in reference_names(path)])
    return count_names(found), len(masks) - len(found)


def _channels(
    studies: list[list[ScanEntry]], drawn: list[list[ScanEntry]]
) -> tuple[list[str], dict[str, str], list[str]]:
    """Return channels with the pattern of each: the series descriptions that nearly every study has once.

    If most masks refer to series with other descriptions, or each study has several CT series, the series that the mask refers
    to is the only channel. Otherwise, the series that most masks refer to comes first: the others are resampled to its grid.

    Parameters
    ----------
    drawn : list
        For each study, the series that its mask refers to.
    """
    if all(len(images) == 1 for images in studies):
        name = Counter(images[0].modality for images in studies).most_common(1)[0][0] or "image"
        return [name], {name: "*"}, []
    counts: Counter[str] = Counter()
    for images in studies:
        own = Counter(e.description.strip() for e in images if e.description.strip())
        counts.update(d for d, n in own.items() if n == 1)
    shared = [d for d, n in counts.items() if n >= 0.9 * len(studies)]
    if not shared:
        most = counts.most_common(1)
        shared = [most[0][0]] if most else []
    shared = [d for d in shared if not LOCALIZER.search(d)] or shared
    are_ct = all(e.modality == "CT" for images in studies for e in images)
    certain = [images[0] for images in drawn if len(images) == 1]
    described = Counter(e.description.strip() for e in certain)
    if 2 * len(certain) >= max(len(drawn), 1) and (are_ct or not described.keys() <= set(shared)):
        modality = Counter(e.modality for e in certain).most_common(1)[0][0] or "image"
        return [modality], {modality: "*"}, ["some studies have several series; the mask tells which one is the image"]
    remarks = ["some studies have several series; the channels are those that nearly every study has"]
    if not shared:
        return ["image"], {"image": "*"}, [*remarks, "no series description is shared: set data.channel_map"]
    ordered = sorted(shared, key=lambda d: (-described[d], d))
    names = {re.sub(r"[^\w.+-]+", "_", d).strip("_") or f"series_{i}": d for i, d in enumerate(ordered)}
    return list(names), {n: _escaped(d) for n, d in names.items()}, remarks


def _escaped(description: str) -> str:
    """Return a pattern that matches exactly this description."""
    return re.sub(r"([*?\[])", r"[\1]", description)


def _plain(pattern: str) -> str:
    """Return the description that a pattern of `_escaped` matches."""
    return pattern if pattern == "*" else re.sub(r"\[([*?\[])\]", r"\1", pattern)


def _series_for_testing(entries: list[ScanEntry], root: Path) -> list[ScanEntry]:
    """Return the series below folders that are named for testing; none in a study of test and retest.

    The folder of a series does not count: its name may be a description.
    """
    parts = {e.paths[0]: e.paths[0].relative_to(root).parts for e in entries}
    folders = {path: found[:-2] or found[:1] for path, found in parts.items()}
    if any("retest" in name.lower() for found in folders.values() for name in found):
        return []
    return [e for e in entries if any("test" in parts_named(name) for name in folders[e.paths[0]])]


def _folder(entry: ScanEntry, root: Path) -> str:
    parts = entry.paths[0].relative_to(root).parts
    return parts[0]
