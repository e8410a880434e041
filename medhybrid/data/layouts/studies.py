"""Layout with one folder per study, which contains image files or DICOM series; rules assign the channels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medhybrid.config import DataConfig
from medhybrid.data.channel_words import is_other_mask
from medhybrid.data.channels import TABLE, Match, match_channels, matches, read_channel_table, refuse_lost, unused_rows
from medhybrid.data.layouts.case import Case, Files, Listing, Note, strip_suffix, subject_of
from medhybrid.data.layouts.drawn_on import drawn_on, refers_to_series
from medhybrid.data.layouts.image_masks import discover_with_masks
from medhybrid.data.layouts.joined_masks import are_parts, join_masks
from medhybrid.data.layouts.patients import first_study_of_patient, with_patients
from medhybrid.errors import DataError, item_error
from medhybrid.names import escape_name
from medhybrid.scans import Discovery, ScanEntry
from medhybrid.scans.dicom.references import KINDS

logger = logging.getLogger(__name__)


def list_studies(config: DataConfig, root: Path) -> Listing:
    """List the studies of a folder as cases, with the images of the channels and the mask."""
    table = read_channel_table(root)
    by_study: dict[str, list[ScanEntry]] = {}
    found = _discover(config, root)
    entries = found.entries
    for entry in entries:
        by_study.setdefault(_study_folder(entry, root), []).append(entry)
    wanted = [(c.name, c.optional) for c in config.channels]
    cases: list[Case] = []
    notes: list[Note] = []
    know_series = any(drawn_on(m, members) for members in by_study.values() for m in members if m.modality in KINDS)
    for study, members in by_study.items():
        masks = _masks_of(members, config, study)
        images = [e for e in members if not (e in masks or _is_other_mask(e, config) or e.problem or e.skip_reason)]
        lost = [e for e in members if e not in masks and e.problem]
        subject = study
        try:
            subject = subject_of(config, study)
            mask = _only_mask(join_masks(masks), config.mask_pattern, study)
            matched = _match_with_mask(config, study, images, lost, table, mask)
            if know_series and not drawn_on(mask, members):
                _refuse_absent_series(mask, study)
        except Exception as error:
            problem = _problem(error, study)
            cases.append(Case(study, subject, (), None, problem=problem, is_labelled=bool(masks)))
            continue
        cases.append(Case(study, subject, tuple(_files(m.entry) for m in matched), _files(mask)))
        used = [*(m for m in masks if set(m.paths) <= set(mask.paths)), *(m.entry for m in matched)]
        others = [e for e in members if _is_other_mask(e, config) and e not in masks]
        if unused := [e.name for e in (*images, *masks, *others) if e not in used]:
            notes.append(Note(study, f"{len(unused)} scans of the study are not used", ", ".join(unused[:5])))
    if config.subject_pattern is None:
        cases, on_patients = with_patients(cases, by_study)
        notes += on_patients
    notes += [Note(e.name, f"{e.name} is skipped: {e.problem}") for e in entries if e.problem]
    notes += [Note("dataset", found.left_out)] if found.left_out else []
    if rows := unused_rows(table, entries, wanted):
        message = f"{len(rows)} rows of {TABLE} have an unknown scan or channel"
        notes.append(Note(TABLE, message, ", ".join(rows[:5]), "use the names that medhybrid inspect shows"))
    return Listing(tuple(cases), tuple(notes))


def _discover(config: DataConfig, root: Path) -> Discovery:
    return discover_with_masks(
        root, lambda path: study_folder(path, root), lambda members, study: _masks_of(members, config, study)
    )


def _masks_of(members: Sequence[ScanEntry], config: DataConfig, study: str) -> list[ScanEntry]:
    """Return the possible reference masks of a study. A `brainmask` is excluded, unless `data.mask_pattern` is set."""
    default = DataConfig.model_fields["mask_pattern"].default
    named = [e for e in members if matches(e, config.mask_pattern, study)]
    named = named or [e for e in members if matches(e, config.mask_pattern)]
    if config.mask_pattern == default:
        named = [e for e in named if not _is_other_mask(e, config)]
    dicom = [e for e in members if e.modality in KINDS]
    if named and config.mask_pattern == default and all(e in dicom for e in named) and len(join_masks(dicom)) == 1:
        return dicom  # a SEG for each organ, one of them in a folder such as `liver_mask`
    return named or dicom


def _is_other_mask(entry: ScanEntry, config: DataConfig) -> bool:
    """Return whether a scan is a mask from preprocessing, such as `brainmask`: neither a reference mask nor an image."""
    return is_other_mask(entry.name.rsplit("__", 1)[-1], tuple(config.labels))


def _problem(error: Exception, study: str) -> DataError:
    """Convert an exception from the assignment of a study's files to the problem of its case."""
    found = item_error(error, f"study {study}: its files cannot be assigned", DataError)
    return found if isinstance(found, DataError) else DataError(str(found))


def list_scans(config: DataConfig, root: Path) -> Listing:
    """List the scans of a folder without masks: each scan with all channels is a case; other scans are grouped by study.

    Masks from preprocessing, such as `brainmask`, are neither scans nor reference masks, and are counted.

    A study with a mask and without a readable image is listed with a problem. Folds are drawn from subjects with masks, and
    are thus the same as with masks.
    """
    masks: list[ScanEntry] = []
    images: list[ScanEntry] = []
    lost: list[ScanEntry] = []
    others: list[str] = []
    default = DataConfig.model_fields["mask_pattern"].default
    found = _discover(config, root).entries
    for entry in found:
        is_other = _is_other_mask(entry, config)
        is_reference = matches(entry, config.mask_pattern) and not (is_other and config.mask_pattern == default)
        is_mask = entry.modality in KINDS or is_reference
        if is_other and not is_mask:
            others.append(entry.name)
        elif is_mask or not (entry.problem or entry.skip_reason):
            (masks if is_mask else images).append(entry)
        elif entry.problem:
            lost.append(entry)
            logger.warning("%s is skipped: %s", entry.name, entry.problem)
    n_channels = len(config.channels)
    is_whole = [n_channels == 1 or entry.n_channels == n_channels for entry in images]
    base = _below_which_they_differ(images, root)
    cases = []
    for entry in (e for e, whole in zip(images, is_whole, strict=True) if whole):
        name = escape_name(entry.name)
        problem = None
        subject = _study_folder(entry, base)
        try:
            subject = subject_of(config, name) if config.subject_pattern else subject
        except DataError as error:
            problem = error
        cases.append(Case(name, subject, (_files(entry),), None, problem=problem))
    cases += _studies_of_scans(config, root, [e for e, whole in zip(images, is_whole, strict=True) if not whole], lost)
    studies = {_study_folder(entry, base): entry for entry in masks}
    if config.subject_pattern is None:
        by_study: dict[str, list[ScanEntry]] = {}
        for entry in found:
            by_study.setdefault(_study_folder(entry, base), []).append(entry)
        first = first_study_of_patient(by_study)
        cases = [replace(c, subject=first.get(c.subject, c.subject)) for c in cases]
        studies = {first.get(study, study): entry for study, entry in studies.items()}
    labelled = {study: subject for study, e in studies.items() if (subject := _subject_of_mask(config, e, study))}
    cases = [replace(c, is_labelled=c.subject in labelled.values()) for c in cases]
    present = {c.subject for c in cases}
    problem = DataError("the study has a mask, but no readable image", remedy="see the reasons with medhybrid inspect")
    absent = {study: subject for study, subject in labelled.items() if subject not in present}
    without_image = [Case(study, subject, (), None, problem=problem) for study, subject in absent.items()]
    notes = [Note("dataset", f"{len(others)} masks from preprocessing are skipped", ", ".join(others[:5]))]
    return Listing((*cases, *without_image), tuple(notes if others else ()))


def _subject_of_mask(config: DataConfig, entry: ScanEntry, study: str) -> str:
    """Return the subject of a mask's study; empty if `data.subject_pattern` matches neither study nor mask."""
    for name in (study, escape_name(entry.name)):
        with suppress(DataError):
            return subject_of(config, name)
    return ""


def _below_which_they_differ(entries: Sequence[ScanEntry], root: Path) -> Path:
    """Return the folder below which paths distinguish subjects: the single folder of all scans, otherwise `root`."""
    folders = {entry.paths[0].parent for entry in entries}
    return folders.pop() if len(folders) == 1 else root


def _match(
    config: DataConfig,
    study: str,
    images: Sequence[ScanEntry],
    lost: Sequence[ScanEntry],
    table: Mapping[str, str],
) -> tuple[Match, ...]:
    """Assign a scan of a study to each channel; raise `DataError` if this fails, or if a channel's file is unreadable."""
    wanted = [(c.name, c.optional) for c in config.channels]

    def match(entries: Sequence[ScanEntry]) -> tuple[Match, ...]:
        return match_channels(entries, wanted, config.channel_map, case=study, table=table, folder=study)

    matched = match(images)
    refuse_lost(match, matched, images, lost)
    return matched


def _match_with_mask(
    config: DataConfig,
    study: str,
    images: Sequence[ScanEntry],
    lost: Sequence[ScanEntry],
    table: Mapping[str, str],
    mask: ScanEntry,
) -> tuple[Match, ...]:
    """Assign a scan of a study to each channel; if several match a single channel, the one that the mask refers to."""
    try:
        return _match(config, study, images, lost, table)
    except DataError:
        named = drawn_on(mask, images)
        if len(config.channels) != 1 or len(named) != 1:
            raise
        return _match(config, study, named, lost, table)


def _refuse_absent_series(mask: ScanEntry, study: str) -> None:
    """Raise `DataError` if a SEG or RTSTRUCT refers to series, none of which is in its study.

    In a dataset whose masks refer to none of the series, as some anonymisers leave them, this shows nothing.
    """
    if mask.modality in KINDS and refers_to_series(mask):
        raise DataError(
            f"study {study}: its mask was drawn on a series that is not in the study",
            expected="the series that the SEG or RTSTRUCT refers to",
            found=f"other series only, beside {mask.paths[0].name}",
            remedy="add the series, or remove the mask",
        )


def _studies_of_scans(
    config: DataConfig, root: Path, entries: Sequence[ScanEntry], lost: Sequence[ScanEntry]
) -> list[Case]:
    by_study: dict[str, list[ScanEntry]] = {}
    for entry in entries:
        by_study.setdefault(_study_folder(entry, root), []).append(entry)
    table, cases = read_channel_table(root), []
    for study, images in by_study.items():
        subject = study
        try:
            subject = subject_of(config, study)
            matched = _match(config, study, images, [e for e in lost if _study_folder(e, root) == study], table)
        except Exception as error:
            cases.append(Case(study, subject, (), None, problem=_problem(error, study)))
            continue
        cases.append(Case(study, subject, tuple(_files(m.entry) for m in matched), None))
    return cases


def _files(entry: ScanEntry | None) -> Files | None:
    return None if entry is None else Files(entry.paths, entry.part)


def _only_mask(masks: Sequence[ScanEntry], pattern: str, study: str) -> ScanEntry:
    if len(masks) == 1 and masks[0].modality in KINDS and len(masks[0].paths) > 1 and not are_parts(masks[0].paths):
        raise DataError(
            f"study {study}: its {masks[0].modality} has several files",
            expected="one file, or several that have different segments",
            found=", ".join(p.name for p in masks[0].paths[:3]),
            remedy="if they are of several readers, list the right ones in a table cases.csv; otherwise join them to one file",
        )
    if len(masks) != 1:
        raise DataError(
            f"study {study}: {'several masks match' if masks else 'no mask, SEG or RTSTRUCT matches'} {pattern}",
            expected="one mask",
            found=str(len(masks)),
            remedy="set data.mask_pattern to a pattern for the right one",
        )
    return masks[0]


def _study_folder(entry: ScanEntry, root: Path) -> str:
    return study_folder(entry.paths[0], root)


def study_folder(path: Path, root: Path) -> str:
    """Return the name of a file's study: its first folder below `root`, or its own name in `root` itself."""
    parts = path.relative_to(root if path.is_relative_to(root) else path.parents[1]).parts
    return escape_name(parts[0] if len(parts) > 1 else strip_suffix(parts[0]))
