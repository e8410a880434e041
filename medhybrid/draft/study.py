"""Draft of a study: layout, channels, labels and subjects of a dataset, with the reason for each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medhybrid.config import ChannelConfig, DataConfig
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.json_names import JsonNames, read_names
from medhybrid.data.layouts import Case, Files, datasets_below, folder_of_datasets, list_dataset, recognise
from medhybrid.data.layouts.case_labels import CaseLabelsError
from medhybrid.data.layouts.datalist import channel_words, json_files
from medhybrid.data.layouts.label_files import files_of_cell
from medhybrid.data.layouts.nnunet import channel_numbers
from medhybrid.data.layouts.nnunet_folders import raw_folder, refuse_products
from medhybrid.data.layouts.parts import part_of
from medhybrid.data.layouts.table import WHOLE, find_tables
from medhybrid.data.palettes import palette_findings
from medhybrid.draft.draft import Draft, DraftChannel, DraftLabel
from medhybrid.draft.folds import with_folds
from medhybrid.draft.grids import without_other_grids
from medhybrid.draft.label_maps import without_label_maps
from medhybrid.draft.mask_contents import several_by_contents
from medhybrid.draft.named_labels import labels_by_name
from medhybrid.draft.pair_table import table_of_pairs, unique_names
from medhybrid.draft.pairs import Pairs, find_pairs, image_files, mask_files
from medhybrid.draft.places import do_places_vary, opposite_sides
from medhybrid.draft.refused_pairs import refuse_further_masks
from medhybrid.draft.remarks import (
    check_objects,
    left_out,
    on_background,
    on_folders,
    on_lists_below,
    on_modalities,
    on_partly,
    on_sides,
    on_sizes,
)
from medhybrid.draft.samples import Samples, read_samples
from medhybrid.draft.segments import count_segments, measure_segments, on_missing
from medhybrid.draft.series import series_folders
from medhybrid.draft.stand_ins import lacked_channels
from medhybrid.draft.studies import StudyRules, rules_of_studies
from medhybrid.draft.subjects import subject_pattern
from medhybrid.draft.tables import lists_files, table_of_cases, why_unused
from medhybrid.draft.time_points import without_series
from medhybrid.draft.unlabelled import (
    find_unlabelled,
    is_background_beyond,
    names_of_values,
    on_most_voxels,
)
from medhybrid.draft.words import is_mask_path
from medhybrid.errors import DataError
from medhybrid.names import printable_path
from medhybrid.scans.image_files import why_unread, why_unread_image
from medhybrid.scans.raster import COLOURS, is_raster
from medhybrid.scans.walk import Walk

OTHER_PART = re.compile(r"(images|labels)(?!T[rs]$)", re.IGNORECASE)
"""Folders of cases beside `imagesTr` and `imagesTs`, such as `imagesVa`."""

TWO_FORMS = ([1, 255], [1, 65535])
"""Values of one label in masks of 0 and 1, and in masks that are to be looked at."""

MANY_LABELS = 60
"""More values without names may be those of an image that has the name of a mask."""

REMOVE = "if it is a label, add it to data.labels, and remove data.ignore_value"

NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


def draft_study(root: Path, *, name: str = "") -> Draft:
    """Draft the config of a study from a folder.

    Raises
    ------
    DataError
        If the folder contains no scans with reference masks in a known arrangement. The error lists these.
    """
    if not root.is_dir():
        raise DataError(f"dataset folder {printable_path(root)} does not exist", remedy="check the path")
    given = root.resolve()
    refuse_products(given)
    root = raw_folder(given) or given
    names = read_names(root)
    chosen = NO_NAME.sub("_", name or (names.name if names else "") or root.name).strip("_.-") or "study"
    layout = _layout_of(root, names)
    if layout == "studies" and (below := datasets_below(root)) and not _has_images_outside(root, below):
        if len(below) > 1:
            raise folder_of_datasets(root, below, "give the folder of one of them")
        draft = draft_study(below[0], name=name)
        where = printable_path(below[0].relative_to(given))
        return replace(draft, remarks=(f"the dataset is in the folder {where}", *draft.remarks))
    if layout == "studies" and (only := _only_folder(root)) and is_mask_path(only / "x"):  # images are in it, too
        draft = draft_study(root / only, name=name)
        return replace(draft, remarks=(f"the dataset is in the folder {printable_path(only)}", *draft.remarks))
    if layout == "nnunet" and not channel_numbers(root) and names is None:
        layout = "studies"  # imagesTr and labelsTr with other names, such as P1__CT and P1__PT
    if layout == "studies" and _has_table_of_cases(root):
        layout = "csv"
    elif layout == "csv" and not lists_files(root):
        layout = "studies"  # tables of other values, such as age, beside the files
    if layout == "studies":
        rules = rules_of_studies(root)
        if rules is not None:
            return _draft_studies(chosen, root, rules)
        pairs = find_pairs(root)
        if pairs is None and mask_files(root):
            pairs = find_pairs(root, series_folders(root))
        if pairs is None and not lists_files(root):
            pairs = find_pairs(root, by_contents=True)
        if pairs is not None:
            return with_folds(_draft_pairs(chosen, root, pairs, names))
        raise _nothing_found(root)
    if layout == "csv":
        table = table_of_cases(root)
        channels = tuple(table.channels)
        base = _draft(chosen, root, "csv", table.source, channels, names, lines=table.lines, optional=table.optional)
        if table.subject:
            base = replace(base, subject_pattern=None, subject_reason=f"the table's column {table.subject!r}")
        lines = _with_whole_files(table.lines or table.own_lines, base)
        lines = [] if not table.lines and lines == table.own_lines else lines
        draft = with_folds(replace(base, table=table.lines or table.own_lines))
        return replace(draft, table=lines, remarks=(*draft.remarks, *table.left_out))
    channels = names.channels if names and names.channels else ()
    if layout == "decathlon" and not channels:
        channels = channel_words(root)
    n_files = channel_numbers(root) if layout == "nnunet" else len(channels)
    remarks: tuple[str, ...] = ()
    may_be_colours = (
        n_files == 1 and len(channels) == len(COLOURS) and any(map(is_raster, (root / "imagesTr").iterdir()))
    )
    if layout == "nnunet" and n_files and n_files != len(channels) and not may_be_colours:
        if channels:
            remarks = (
                f"{names.path.name if names else 'the list'} names {len(channels)} channels, but the files have {n_files}",
            )
        channels = tuple(channels[i] if i < len(channels) else f"channel_{i}" for i in range(n_files))
    if layout == "nnunet" and (
        others := sorted(p.name for p in root.iterdir() if p.is_dir() and OTHER_PART.match(p.name))
    ):
        remarks += (f"other folders are not used: {', '.join(map(printable_path, others[:6]))}",)
    source = names.path.name if names else "imagesTr and labelsTr"
    base = _draft(chosen, root, layout, source, unique_names(channels or ("image",)), names)
    return with_folds(replace(base, remarks=(*remarks, *base.remarks)))


def _only_folder(root: Path) -> Path | None:
    """Return the only entry of a folder, relative to it, if that is a folder with others; None otherwise."""
    entries = [p for p in root.iterdir() if not p.name.startswith(".")]
    is_only = len(entries) == 1 and entries[0].is_dir() and any(p.is_dir() for p in entries[0].iterdir())
    return entries[0].relative_to(root) if is_only else None


def _has_images_outside(root: Path, folders: Sequence[Path]) -> bool:
    """Return whether a folder has image files that are in none of some of its folders."""
    files = Walk().files(root, lambda _path, _error: None)
    return any(IMAGE_SUFFIX.search(f.name) and not any(f.is_relative_to(b) for b in folders) for f in files)


def _has_table_of_cases(root: Path) -> bool:
    """Return whether a folder with other folders has a table of images and masks, whatever its columns are called."""
    try:
        return bool(find_tables(root)) and bool(table_of_cases(root).channels)
    except DataError:
        return False


def _layout_of(root: Path, names: JsonNames | None) -> str:
    config = DataConfig(root=str(root), channels=(ChannelConfig(name="image"),), labels={"label": 1})
    layout = recognise(root, config)
    if layout == "nnunet" and not (root / "imagesTr").is_dir():
        return "studies"  # a dataset.json of another kind beside the files
    return layout


def _draft(
    name: str,
    root: Path,
    layout: str,
    source: str,
    channels: tuple[str, ...],
    names: JsonNames | None,
    *,
    lines: Sequence[Sequence[str]] = (),
    optional: frozenset[str] = frozenset(),
) -> Draft:
    listed, channels = _cases(root, layout, channels, lines, optional)
    # The labels have no names yet, by which the labels of each case could be checked.
    n_partly = sum(isinstance(c.problem, CaseLabelsError) or c.annotated is not None for c in listed)
    if lines and "labels" in lines[0]:
        n_partly = sum(bool(line[lines[0].index("labels")]) for line in lines[1:])
    listed = [replace(c, problem=None) if isinstance(c.problem, CaseLabelsError) else c for c in listed]
    cases = [c for c in listed if c.problem is None]
    samples = read_samples(cases, channels)
    if not samples.n_read:
        raise DataError(
            f"no sampled case of {printable_path(root)} can be read",
            expected="images with masks of one label value for each voxel",
            found=samples.remarks[0] if samples.remarks else "no case",
            remedy="correct the files, or list others in a table cases.csv",
        )
    if samples.is_colour:
        channels = channels if len(channels) == len(COLOURS) else COLOURS
    elif layout == "csv" and len(channels) == 1 and samples.n_channels > 1:
        channels = tuple(f"channel_{i}" for i in range(samples.n_channels))
    elif samples.n_channels and samples.n_channels != len(channels):
        channels = unique_names(
            tuple(channels[i] if i < len(channels) else f"channel_{i}" for i in range(samples.n_channels))
        )
    lacked = lacked_channels(samples.contents)
    optional |= {channels[i] for i in lacked.lacked if i < len(channels)}
    segments = count_segments(cases)
    ignored = names.ignore_value if names else None
    if ignored is None and not segments and names and names.labels:
        ignored = find_unlabelled(samples, names.values)
    ignores_others = False
    if segments:
        labels, remarks, ignores_others = labels_by_name(cases, segments)
    else:
        named, source_of_names = names, ""
        if names is None or not names.labels:
            given, source_of_names, unlabelled = names_of_values(root, samples)
            ignored = unlabelled if ignored is None else ignored
            named = replace(names or JsonNames(root), labels={**given}) if given else names
        labels, remarks = _labels(named, samples, ignored)
        remarks += (
            [f"the names of the labels are those of {printable_path(source_of_names)}"] if source_of_names else []
        )
    sided = () if samples.is_colour else opposite_sides(samples.places, {c.name: c.values for c in labels})
    pattern, reason = subject_pattern([c.name for c in cases])
    masks = {c.name: c.mask.paths[0] for c in cases if c.mask is not None}
    return Draft(
        name=name,
        root=root,
        layout=layout,
        source=source,
        channels=tuple(
            DraftChannel(c, *samples.modality(i, c), is_optional=c in optional) for i, c in enumerate(channels)
        ),
        labels=labels,
        cases=tuple(c.name for c in cases),
        n_sampled=len(cases) if segments else samples.n_masks,
        subject_pattern=pattern,
        subject_reason=reason,
        ignore_value=ignored,
        are_enclosed=is_background_beyond(samples, ignored),
        class_order=names.class_order if names else (),
        remarks=(
            *on_background(samples, names, ignored),
            *samples.remarks,
            *remarks,
            *lacked.remarks(channels),
            *on_sizes(samples),
            *on_modalities(cases, root),
            *on_partly(n_partly),
            *(on_missing({c.name: c.n_cases for c in labels}, len(cases)) if segments and not n_partly else ()),
            *(f"{f.message}; {f.where} has {f.found}" for f in palette_findings(masks)),
            *left_out(listed),
            *on_sides(sided),
        ),
        is_colour=samples.is_colour,
        ignores_others=ignores_others,
        may_overlap=any(c.mask is not None and len(c.mask.names) > 1 for c in cases),
        median_spacing_mm=samples.median_spacing_mm,
        median_shape=samples.median_shape,
        masks=_masks_of(listed),
        is_anywhere=do_places_vary(samples.places),
        sided=sided,
    )


def _masks_of(cases: Sequence[Case]) -> tuple[Path, ...]:
    return tuple(p for c in cases if c.mask is not None for p in c.mask.paths)


def _cases(
    root: Path,
    layout: str,
    channels: tuple[str, ...],
    lines: Sequence[Sequence[str]],
    optional: frozenset[str],
) -> tuple[list[Case], tuple[str, ...]]:
    """Return the cases, and the channels; raise `DataError` if no case is usable."""
    if lines:
        return _cases_of_lines(root, lines, channels), channels
    config = DataConfig(
        root=str(root),
        layout=layout,
        channels=tuple(ChannelConfig(name=c, optional=c in optional and len(channels) > 1) for c in channels),
        labels={"any label": 65_000},
        splits=None,
    )
    listing = list_dataset(config)
    if all(c.problem is not None and not isinstance(c.problem, CaseLabelsError) for c in listing.cases):
        found = "; ".join(str(c.problem) for c in listing.cases[:2])
        raise DataError(f"{printable_path(root)} has no usable case", found=found, remedy="see docs/reference/data.md")
    return list(listing.cases), channels


def _cases_of_lines(root: Path, lines: Sequence[Sequence[str]], channels: tuple[str, ...]) -> list[Case]:
    header = list(lines[0])
    place = {c: header.index(c) for c in (*channels, "case", "mask")}

    def files(row: Sequence[str], column: str) -> Files | None:
        return Files((root / row[place[column]],)) if row[place[column]] else None

    def masks(row: Sequence[str]) -> Files | None:
        return files_of_cell(cell, lambda text: root / text) if (cell := row[place["mask"]]) else None

    part = header.index("split") if "split" in header and "split" not in channels else None
    return [
        Case(row[place["case"]], "", tuple(files(row, c) for c in channels), masks(row))
        for row in lines[1:]
        if part is None or part_of(row[part]) != "test"
    ]


def _labels(names: JsonNames | None, samples: Samples, ignored: int | None) -> tuple[tuple[DraftLabel, ...], list[str]]:
    """Return the labels that the dataset names, with volumes; values in the masks without a name get one."""
    named = dict(names.labels) if names else {}
    is_void = ignored is not None and not (names and names.ignore_value is not None)
    remarks = [f"the value {ignored} is taken for voxels without a label: {REMOVE}"] if is_void else []
    known = names.values if names else set()
    if unnamed := sorted(set(samples.volumes_ml) - known - {ignored}):
        if named:
            shown = ", ".join(str(v) for v in unnamed[:8])
            remarks.append(f"values without a name in the masks: {shown}; they are added as labels")
        single = not named and len(unnamed) == 1
        remarks += on_most_voxels(samples) if not named and ignored is None else []
        if not named and not samples.n_objects and samples.may_number_objects:
            remarks.append(
                "each mask has the values 1 to n, with another n in many: if they number objects of one kind, set one label "
                "with all of these values in data.labels"
            )
        if not named and (n_objects := samples.n_objects):
            remarks.append(
                f"the masks number objects, up to {n_objects} in one: all objects are taken for one label. If the values are "
                "kinds of structures, name them in data.labels"
            )
            largest = check_objects(n_objects)
            named, unnamed = {"foreground": tuple(range(1, largest + 1))}, []
        if not named and unnamed in TWO_FORMS and samples.are_apart(unnamed):
            remarks.append(f"some masks have the value 1, others {unnamed[1]}: both are taken for the same label")
            named, unnamed = {"foreground": tuple(unnamed)}, []
        if not named and len(unnamed) > MANY_LABELS:
            remarks.append(
                f"the masks have {len(unnamed)} values without names: check that they are masks, and not images"
            )
        named |= {"foreground" if single else f"label_{v}": v for v in unnamed}
    if not named:
        raise DataError("the masks have no label", found="only 0 in the sampled masks", remedy="check the masks")
    found = []
    for name, value in named.items():
        values = value if isinstance(value, tuple) else (value,)
        by_case = samples.volumes_of(values)
        found.append(
            DraftLabel(name, values, len(by_case), float(sorted(by_case)[len(by_case) // 2]) if by_case else 0.0)
        )
    if any(len(d.values) > 1 for d in found):  # in the label map, a later region is drawn over an earlier one
        found.sort(key=lambda d: -len(d.values))
    if absent := [d.name for d in found if not d.n_cases]:
        remarks.append(f"not in the {samples.n_masks} masks that were read: {', '.join(absent[:8])}")
    return tuple(found), remarks


def _draft_pairs(name: str, root: Path, pairs: Pairs, names: JsonNames | None) -> Draft:
    pairs = without_label_maps(root, without_other_grids(root, without_series(root, pairs)))
    if names and len(names.channels) == len(pairs.channels) == 1:
        pairs = pairs.with_channel(names.channels[0])
    table = table_of_pairs(root, pairs)
    base = _draft(
        name,
        root,
        "csv",
        "pairs of images and masks",
        table.channels,
        names,
        lines=table.lines,
        optional=table.optional,
    )
    named = " ".join((*base.remarks, *table.remarks))
    others = [t for t in find_tables(root) if printable_path(t.name) not in named]
    unused = tuple(f"{printable_path(t.name)} is not used: {why_unused(t)}" for t in others[:3])
    return replace(
        base,
        table=_with_whole_files(table.lines, base),
        subject_pattern=None,
        subject_reason=table.subject_reason,
        remarks=(
            *base.remarks,
            *table.remarks,
            *unused,
            *on_lists_below(root),
            *on_folders(pairs.pairs),
            *pairs.left_out,
        ),
    )


def _with_whole_files(lines: list[list[str]], draft: Draft) -> list[list[str]]:
    """Return the lines of a table with the column `image` in place of a single one, if its files hold several channels."""
    columns = [c for c in lines[0] if c not in ("case", "subject", "split", "fold", "mask")]
    if len(columns) != 1 or len(draft.channels) == 1:
        return lines
    return [[WHOLE if c == columns[0] else c for c in lines[0]], *lines[1:]]


def _draft_studies(name: str, root: Path, rules: StudyRules) -> Draft:
    config = DataConfig(
        root=str(root),
        layout="csv" if rules.lines else "studies",
        channels=tuple(ChannelConfig(name=c) for c in rules.channels),
        labels={"any label": 1},
        channel_map=dict(rules.channel_map),
        mask_pattern=rules.mask_pattern,
        splits=None,
    )
    listed = _cases_of_lines(root, rules.lines, rules.channels) if rules.lines else list_dataset(config).cases
    cases = [c for c in listed if c.problem is None]
    if not cases:
        raise DataError(
            f"{printable_path(root)} has no usable study: each of its folders counts as one study, with one mask",
            expected="a folder for each study, with its series and one SEG or RTSTRUCT",
            found=str(listed[0].problem) if listed else "no study",
            remedy="give the folder that contains the folders of the studies; or list series and masks in a table cases.csv "
            "with the columns case, subject, mask and one per channel",
        )
    pattern, reason = (None, "each folder of the dataset is a subject") if rules.lines else _subjects_of_studies(cases)
    sizes, sided = measure_segments(cases, list(rules.labels), config)
    # voxels in several segments get the last label, so that a lesion in an organ stays a lesion
    ordered = sorted(rules.labels, key=lambda n: -sizes.get(n, 0.0))
    return Draft(
        name=name,
        root=root,
        layout=config.layout,
        source="DICOM studies with SEG or RTSTRUCT",
        channels=tuple(
            DraftChannel(c, m, "Modality in the DICOM headers")
            for c, m in zip(rules.channels, rules.modalities, strict=True)
        ),
        labels=tuple(DraftLabel(n, (i,), rules.labels[n], sizes.get(n, 0.0)) for i, n in enumerate(ordered, start=1)),
        cases=tuple(c.name for c in cases),
        n_sampled=rules.n_masks,
        subject_pattern=pattern,
        subject_reason=reason,
        rules=rules,
        ignores_others=rules.has_others,
        table=rules.lines,
        remarks=(*on_sides(sided), *rules.remarks, *on_missing(rules.labels, rules.n_masks), *left_out(listed)),
        masks=_masks_of(listed),
        sided=sided,
    )


def _subjects_of_studies(cases: Sequence[Case]) -> tuple[str | None, str]:
    """Return a pattern for the subjects, or None if the folders and the patients in the headers tell them; and the reason."""
    pattern, reason = subject_pattern([c.name for c in cases])
    patients = {c.subject for c in cases}
    if len(patients) < len(cases):
        groups = {(c.subject, m[1] if pattern and (m := re.search(pattern, c.name)) else c.name) for c in cases}
        if pattern is None or len(groups) > len(patients):  # the pattern would divide a patient
            return None, f"{len(patients)} patients in the DICOM headers"
    return pattern, reason if pattern else "each folder of the dataset is a subject"


def _nothing_found(root: Path) -> DataError:
    if find_tables(root) and lists_files(root):
        try:
            table_of_cases(root)
        except DataError as error:
            if error.found:
                return error
    below = [*sorted(p.name for p in root.iterdir()), *json_files(root)][:8]
    found = ", ".join(map(printable_path, below)) or "an empty folder"
    unread = Counter(
        why for p in Walk().files(root, lambda _path, _error: None) if (why := why_unread(p) or why_unread_image(p))
    )
    if unread:
        found += "; " + "; ".join(f"{n} files: {why}" for why, n in unread.most_common(3))
    if masks := mask_files(root):
        refuse_further_masks(masks, [p for p in image_files(root) if p not in set(masks)])
        found = f"{len(masks)} files with names of masks, such as {masks[0]}, which fit no images or several: {found}"
    elif alike := several_by_contents(root, image_files(root)):
        found = f"several kinds of files that are label maps, such as {', '.join(map(str, alike[:3]))}: {found}"
    return DataError(
        f"{printable_path(root)} has no scans with reference masks in a known arrangement",
        expected="dataset.json, imagesTr and labelsTr, a CSV table of files, DICOM studies with SEG or RTSTRUCT, or images "
        "with masks that have mask, label, seg or gt in the name of the file or its folder",
        found=found,
        remedy="list the files in a table cases.csv with the columns case, mask and one per channel",
    )
