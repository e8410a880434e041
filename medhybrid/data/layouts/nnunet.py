"""nnU-Net's layout: `imagesTr/<case>_0000.nii.gz`, one file per channel, and `labelsTr/<case>.nii.gz`.

Common variants are accepted, too: images without a channel number, masks with one, suffixes in upper case. The notes list files
that do not belong to a case. `dataset.json` may have a key `case_labels`, a table of the partly labelled cases with the labels
that their masks have: `{"case_001": ["liver"]}`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts.case import (
    Case,
    Files,
    Listing,
    NoMaskError,
    Note,
    missing_channels,
    named_case,
    read_json,
    strip_suffix,
    subject_of,
)
from medhybrid.data.layouts.case_labels import CaseLabelsError, read_annotated
from medhybrid.data.layouts.datalist import case_for_testing, testing_of
from medhybrid.data.layouts.entry_keys import (
    notes_on_unused_keys,
    part_under,
    split_key,
    subject_under,
    with_fold,
    with_part,
    with_subject,
)
from medhybrid.data.layouts.nnunet_list import NUMBER, ListedPair, listed_pairs, notes_on_other_list
from medhybrid.data.layouts.parts import fold_or_part
from medhybrid.errors import DataError
from medhybrid.names import printable_path
from medhybrid.scans.raster import COLOURS, is_raster

CASE_LABELS = "case_labels"
"""Key of `dataset.json` with the labels of partly labelled cases."""

MAX_CHANNELS = 64

SHOWN = 5
"""Number of file names in a message; further files are only counted."""


def is_nnunet(root: Path) -> bool:
    """Return whether a folder has nnU-Net's layout; with a list of training cases, it must omit the channel numbers.

    Version 1 of nnU-Net has such a list. The Decathlon's list contains the names of existing files instead.
    """
    if not (root / "imagesTr").is_dir():
        return False
    values = read_json(root / "dataset.json") if (root / "dataset.json").is_file() else {}
    listed = values.get("training") if isinstance(values, dict) else None
    if not isinstance(listed, list):
        return True
    images = [e.get("image") for e in listed if isinstance(e, dict)]
    absent = [i for i in images if isinstance(i, str) and not (root / i).exists()]
    present = set(_by_stem(root / "imagesTr"))
    return bool(absent) and any(f"{strip_suffix(Path(i).name)}_0000" in present for i in absent)


def list_nnunet(config: DataConfig, root: Path) -> Listing:
    """List the cases of a folder in nnU-Net's layout."""
    images, masks = _by_stem(root / "imagesTr"), _by_stem(root / "labelsTr")
    has_numbers = _have_channel_numbers(masks, images)
    mask_of = {NUMBER.sub("", stem) if has_numbers else stem: stem for stem in sorted(masks)}
    names = sorted(mask_of)
    if not config.labelled:
        names = sorted({*names, *(_case_of_image(stem, mask_of) for stem in images)})
    listed = listed_pairs(root, images)
    beyond = [n for n in mask_of if n not in listed[0]] if listed else []
    names = sorted({*names, *listed[0]} - set(beyond)) if listed else names
    taken: set[str] = set()
    cases = []
    for name in names:
        stems = _stems_of(name, images, len(config.channels))
        taken |= {s for s in stems if s}
        files = [_only_file(images, s, config) if s else None for s in stems]
        mask, mask_problem = _mask_of(name, masks, mask_of, listed[0].get(name) if listed else None, config)
        good, subject, problem = named_case(name, config, source=printable_path(root.name), where="a case")
        problem = problem or mask_problem or next((p for _, p in filter(None, files) if p), None)
        found = tuple(f[0] if f else None for f in files)
        if not any(files):
            problem = problem or _no_channel(name, images, root, config)
        problem = problem or missing_channels(config, name, found, "imagesTr")
        cases.append(Case(good, subject, found, mask, problem=problem, is_labelled=mask is not None))
    cases = _with_labels(cases, root, config)
    taken |= {s for n in beyond for s in _stems_of(n, images, len(config.channels)) if s}
    cases, held, on_keys = _by_keys(cases, listed[0]) if listed else (cases, [], [])
    used = {p for c in (*cases, *held) if c.mask for p in c.mask.paths}
    unused = [paths[0].name for paths in masks.values() if not used & {*paths}] if listed else []
    notes = [*_notes_on_list(unused, listed[1] if listed else []), *_notes(images, taken, config, root), *on_keys]
    notes += notes_on_other_list(root)
    return Listing(tuple(cases), tuple(notes), (*held, *_testing(config, root)))


def _by_keys(cases: Sequence[Case], pairs: Mapping[str, ListedPair]) -> tuple[list[Case], list[Case], list[Note]]:
    """Return the cases with the subject and fold of their entries, the cases that these keep for testing, and notes."""
    name = "dataset.json"
    pairs = dict(sorted(pairs.items(), key=lambda item: item[1].number))
    split = split_key([p.entry for p in pairs.values()], name)
    has_subjects = any(subject_under(p.entry) for p in pairs.values())
    has_validation = any(p.is_validation for p in pairs.values())
    told: list[tuple[Case, str | None]] = []
    for case in cases:
        pair = pairs.get(case.name)
        if pair is None:
            told.append((case, None))
            continue
        case = case if has_validation else with_fold(case, pair.entry)
        case = with_subject(case, pair.entry, f"{name}, entry {pair.number}", must_say=has_subjects)
        part = part_under(split, pair.entry)
        if pair.is_validation:
            part = "test" if part == "test" else "validation"
        told.append((with_part(case, part, split, bool(split) and not pair.is_validation), part))
    held = [c for c, part in told if part == "test"]
    taken, notes = fold_or_part([(c, part) for c, part in told if part != "test"], split, name)
    notes += notes_on_unused_keys([p.entry for p in pairs.values()], split, name)
    if held:
        notes.append(Note(name, f"{len(held)} cases for testing are skipped"))
    return taken, held, notes


def _with_labels(cases: Sequence[Case], root: Path, config: DataConfig) -> list[Case]:
    """Set the labels of the cases that `dataset.json` calls partly labelled; raise `DataError` for names of no case."""
    path = root / "dataset.json"
    values = read_json(path) if path.is_file() else {}
    listed = values.get(CASE_LABELS) if isinstance(values, dict) else None
    if listed is None:
        return list(cases)
    names = {c.name for c in cases}
    unknown = [str(n) for n in listed if n not in names] if isinstance(listed, dict) else [ascii(listed)[:60]]
    if unknown:
        raise DataError(
            f"dataset.json: `{CASE_LABELS}` has names that are not cases with a mask",
            expected='{"case": ["label", ...], ...} with the names of cases',
            found=_shown(unknown),
            remedy="correct the names: such a case would train as if its mask had all labels",
        )
    made = []
    for case in cases:
        try:
            where = f"case {case.name}, {CASE_LABELS} in dataset.json"
            annotated = read_annotated(listed[case.name], config, where=where) if case.name in listed else None
            made.append(replace(case, annotated=annotated))
        except CaseLabelsError as error:
            made.append(replace(case, problem=case.problem or error) if config.labelled else case)
    return made


def channel_numbers(root: Path) -> int:
    """Return the number of channels by the numbers in the files' names, from the first cases; 0 without a case."""
    images, masks = _by_stem(root / "imagesTr"), _by_stem(root / "labelsTr")
    has_numbers = _have_channel_numbers(masks, images)
    found = 0
    for stem in masks:
        name = NUMBER.sub("", stem) if has_numbers else stem
        if f"{name}_0000" in images:
            found = max(found, sum(f"{name}_{i:04d}" in images for i in range(MAX_CHANNELS)))
        elif name in images:
            found = max(found, 1)
    return found


def file_counts(root: Path) -> dict[str, int]:
    """Return the number of channels of each case with a mask, by the highest number of its files.

    It is 0, which means unknown, without a number, and for a single picture, whose colours may be channels.
    """
    images, masks = _by_stem(root / "imagesTr"), _by_stem(root / "labelsTr")
    has_numbers = _have_channel_numbers(masks, images)
    names = [NUMBER.sub("", stem) if has_numbers else stem for stem in masks]
    highest = {
        name: max((i for i in range(1, MAX_CHANNELS + 1) if f"{name}_{i - 1:04d}" in images), default=0)
        for name in names
    }
    return {name: 0 if n == 1 and is_raster(images[f"{name}_0000"][0]) else n for name, n in highest.items()}


def _mask_of(
    name: str,
    masks: Mapping[str, list[Path]],
    mask_of: Mapping[str, str],
    pair: ListedPair | None,
    config: DataConfig,
) -> tuple[Files | None, DataError | None]:
    """Return the mask of a case, with a problem if it cannot be used. The list of cases overrides a mask with its name."""
    if pair is not None and (pair.mask is not None or pair.problem is not None):
        return pair.mask, pair.problem
    mask, problem = _checked(masks, mask_of.get(name))
    if mask is None and pair is not None and config.labelled:
        problem = NoMaskError(f"case {name}: its mask in the list `training` does not exist", remedy="add it")
    return mask, problem


def _notes_on_list(unused: Sequence[str], doubled: Sequence[str]) -> list[Note]:
    """Return notes on masks that are missing in the list of training cases, and on duplicates in the list."""
    notes = []
    if unused:
        message = f"{len(unused)} masks are not in the list `training` and are skipped, with their images"
        notes.append(Note("dataset.json", message, _shown(unused), "add them to the list, or remove the list"))
    if doubled:
        message = f"{len(doubled)} entries are duplicates; each is used once"
        notes.append(Note("dataset.json", message, _shown(doubled)))
    return notes


def tests_in_folder(config: DataConfig, root: Path) -> list[Case]:
    """Return the scans of `imagesTs`, with a case for each file. Their subjects are unknown without `data.subject_pattern`."""
    files = [(stem, p) for stem, paths in _by_stem(root / "imagesTs").items() for p in paths]
    return [Case(p.name, _subject_of_test(config, stem), (Files((p,)),), None) for stem, p in files]


def _subject_of_test(config: DataConfig, stem: str) -> str:
    """Return the subject in the name of a scan for testing; empty if it is unknown."""
    if config.subject_pattern is None:
        return ""
    with suppress(DataError):
        return subject_of(config, NUMBER.sub("", stem))
    return ""


def _testing(config: DataConfig, root: Path) -> list[Case]:
    """Return the cases for testing of `dataset.json`, with files for all channels: version 1 omits the channel number."""
    path = root / "dataset.json"
    found = [case_for_testing(e, config, root) for e in testing_of(path)] if path.is_file() else []
    return [
        replace(c, images=tuple(f for i in c.images if i for f in (i, *_numbered(i.paths[0], len(config.channels)))))
        for c in found
    ]


def _numbered(path: Path, n_channels: int) -> list[Files]:
    stem = strip_suffix(path.name)
    return [Files((path.with_name(f"{stem}_{i:04d}{path.name[len(stem) :]}"),)) for i in range(n_channels)]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Map names without suffix to files. Only files with an image suffix are included."""
    found: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            is_image = IMAGE_SUFFIX.search(path.name)
            if is_image and not path.name.startswith("."):
                stem = unicodedata.normalize("NFC", strip_suffix(path.name))
                found.setdefault(stem, []).append(path)
    is_preview = {p: is_raster(p) for paths in found.values() for p in paths}
    if set(is_preview.values()) == {True, False}:  # image files beside scans
        found = {s: kept for s, paths in found.items() if (kept := [p for p in paths if not is_preview[p]])}
    return found


def _have_channel_numbers(masks: Mapping[str, object], images: Mapping[str, object]) -> bool:
    """Return whether the masks have channel numbers: all end in _0000 and have the names of images.

    Other numbers of four digits at the end are those of patients, and belong to the case.
    """
    if not masks or any(f"{stem}_0000" in images for stem in masks):
        return False
    return all(stem.endswith("_0000") and stem in images for stem in masks)


def _case_of_image(stem: str, mask_of: Mapping[str, object]) -> str:
    return stem if stem in mask_of else NUMBER.sub("", stem)


def _stems_of(name: str, images: Mapping[str, Sequence[Path]], n_channels: int) -> list[str | None]:
    """Return the name of each channel's file, or a single name for a file with all channels.

    Such a file has no channel number, or is an image whose three colours are the channels, with the number 0000.
    """
    numbered = [f"{name}_{i:04d}" for i in range(n_channels)]
    present = [s for s in numbered if s in images]
    if not present and name in images:
        return [name]
    if n_channels == len(COLOURS) and present == numbered[:1] and is_raster(images[present[0]][0]):
        return list(present)
    return [s if s in images else None for s in numbered]


def _only_file(files: Mapping[str, list[Path]], stem: str, config: DataConfig) -> tuple[Files, DataError | None]:
    found = files[stem]
    return Files((found[0],)), _problem_of(found)


def _checked(masks: Mapping[str, list[Path]], stem: str | None) -> tuple[Files | None, DataError | None]:
    if stem is None:
        return None, None
    return Files((masks[stem][0],)), _problem_of(masks[stem])


def _problem_of(found: Sequence[Path]) -> DataError | None:
    """Return the reason why the files of the same name cannot be used; None if they can."""
    names = ", ".join(printable_path(p.name) for p in found)
    if len(found) > 1:
        folder = found[0].parent.name
        return DataError(
            f"{folder} has {len(found)} files with the same name", expected="one", found=names, remedy="remove one"
        )
    return None


def _no_channel(name: str, images: Mapping[str, object], root: Path, config: DataConfig) -> DataError:
    """Return the error for a case without image, with the expected file names."""
    wanted = ", ".join(f"{name}_{i:04d}" for i in range(len(config.channels)))
    near = [s for s in images if s.startswith(name)] or list(images)
    return DataError(
        f"case {name}: no image found",
        expected=f"imagesTr/{wanted} with .nii.gz, .nii, .nrrd, .mha, .png or .tif",
        found=", ".join(sorted(near)[:SHOWN]) or "no image in imagesTr",
        remedy="rename the images, or set data.layout",
    )


def _notes(images: Mapping[str, list[Path]], taken: set[str], config: DataConfig, root: Path) -> list[Note]:
    """Return notes on images without a mask, and on files of channels that the config does not have."""
    rest = sorted(set(images) - taken)
    names = {NUMBER.sub("", s) for s in taken}
    others = [s for s in rest if NUMBER.sub("", s) in names]
    without_mask = [s for s in rest if NUMBER.sub("", s) not in names]
    notes = []
    if without_mask:
        notes.append(
            Note(
                "imagesTr",
                f"{len(without_mask)} images have no mask and are skipped",
                _shown([images[s][0].name for s in without_mask]),
                "add the masks to labelsTr",
            )
        )
    if others:
        notes.append(
            Note(
                "imagesTr",
                f"{len(others)} files are channels that the config does not have, and are skipped",
                _shown([images[s][0].name for s in others]),
                f"add them to data.channels, which has {', '.join(c.name for c in config.channels)}",
            )
        )
    return notes


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(printable_path(n) for n in names[:SHOWN]) + more
