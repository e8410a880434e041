"""Folders of studies: files or DICOM series of a study in a folder of its own, channels by rules."""

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
from medhybrid.errors import DataError, item_error
from medhybrid.names import escape_name
from medhybrid.scans import ScanEntry, discover
from medhybrid.scans.dicom.references import KINDS

logger = logging.getLogger(__name__)


def list_studies(config: DataConfig, root: Path) -> Listing:
    """List the studies of a folder, each with the images of its channels and its mask."""
    table = read_channel_table(root)
    by_study: dict[str, list[ScanEntry]] = {}
    found = discover(root, with_archives=False)
    entries = found.entries
    for entry in entries:
        by_study.setdefault(_study_folder(entry, root), []).append(entry)
    wanted = [(c.name, c.optional) for c in config.channels]
    cases: list[Case] = []
    notes: list[Note] = []
    for study, members in by_study.items():
        masks = _masks_of(members, config, study)
        images = [e for e in members if not (e in masks or _is_other_mask(e, config) or e.problem or e.left_aside)]
        lost = [e for e in members if e not in masks and e.problem]
        subject = study
        try:
            subject = subject_of(config, study)
            mask = _only_mask(masks, config.mask_pattern, study)
            matched = _match(config, study, images, lost, table)
        except Exception as error:
            problem = _problem(error, study)
            cases.append(Case(study, subject, (), None, problem=problem, is_labelled=bool(masks)))
            continue
        cases.append(Case(study, subject, tuple(_files(m.entry) for m in matched), _files(mask)))
        used = [mask, *(m.entry for m in matched)]
        others = [e for e in members if _is_other_mask(e, config) and e not in masks]
        if unused := [e.name for e in (*images, *masks, *others) if e not in used]:
            notes.append(Note(study, f"{len(unused)} scans of the study are not used", ", ".join(unused[:5])))
    notes += [Note(e.name, f"{e.name} is skipped: {e.problem}") for e in entries if e.problem]
    notes += [Note("dataset", found.left_out)] if found.left_out else []
    if rows := unused_rows(table, entries, wanted):
        message = f"{len(rows)} rows of {TABLE} name no scan or no channel"
        notes.append(Note(TABLE, message, ", ".join(rows[:5]), "write the names as medhybrid inspect shows them"))
    return Listing(tuple(cases), tuple(notes))


def _masks_of(members: Sequence[ScanEntry], config: DataConfig, study: str) -> list[ScanEntry]:
    """Return the scans of a study that may be its reference mask; a `brainmask` is none unless the pattern asks for it."""
    default = DataConfig.model_fields["mask_pattern"].default
    named = [e for e in members if matches(e, config.mask_pattern, study)]
    named = named or [e for e in members if matches(e, config.mask_pattern)]
    if config.mask_pattern == default:
        named = [e for e in named if not _is_other_mask(e, config)]
    return named or [e for e in members if e.modality in KINDS]


def _is_other_mask(entry: ScanEntry, config: DataConfig) -> bool:
    """Whether a scan is a mask that processing left, as `brainmask`: no reference, and no image either."""
    return is_other_mask(entry.name.rsplit("__", 1)[-1], tuple(config.labels))


def _problem(error: Exception, study: str) -> DataError:
    """Return the problem of a study, whatever was raised while its files were assigned."""
    found = item_error(error, f"study {study}: its files cannot be assigned", DataError)
    return found if isinstance(found, DataError) else DataError(str(found))


def list_scans(config: DataConfig, root: Path) -> Listing:
    """List every scan that holds all channels as a case; the others are put together by study.

    A study that has a mask and no image that can be read is listed with this problem: the folds are made of what has masks.
    """
    masks: list[ScanEntry] = []
    images: list[ScanEntry] = []
    lost: list[ScanEntry] = []
    for entry in discover(root, with_archives=False).entries:
        is_mask = entry.modality in KINDS or matches(entry, config.mask_pattern)
        if is_mask or not (entry.problem or entry.left_aside):
            (masks if is_mask else images).append(entry)
        elif entry.problem:
            lost.append(entry)
            logger.warning("%s is left out: %s", entry.name, entry.problem)
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
    labelled = {study: subject for study, e in studies.items() if (subject := _subject_of_mask(config, e, study))}
    cases = [replace(c, is_labelled=c.subject in labelled.values()) for c in cases]
    present = {c.subject for c in cases}
    problem = DataError("the study has a mask and no image that can be read", remedy="medhybrid inspect says why")
    absent = {study: subject for study, subject in labelled.items() if subject not in present}
    without_image = [Case(study, subject, (), None, problem=problem) for study, subject in absent.items()]
    return Listing((*cases, *without_image))


def _subject_of_mask(config: DataConfig, entry: ScanEntry, study: str) -> str:
    """As of the scans beside it; empty for a mask that belongs to none."""
    for name in (study, escape_name(entry.name)):
        with suppress(DataError):
            return subject_of(config, name)
    return ""


def _below_which_they_differ(entries: Sequence[ScanEntry], root: Path) -> Path:
    """A folder that holds every scan says nothing of subjects."""
    folders = {entry.paths[0].parent for entry in entries}
    return folders.pop() if len(folders) == 1 else root


def _match(
    config: DataConfig,
    study: str,
    images: Sequence[ScanEntry],
    lost: Sequence[ScanEntry],
    table: Mapping[str, str],
) -> tuple[Match, ...]:
    """Find the scan of each channel in a study; raises `DataError`, also if a channel is in a file that cannot be read."""
    wanted = [(c.name, c.optional) for c in config.channels]

    def match(entries: Sequence[ScanEntry]) -> tuple[Match, ...]:
        return match_channels(entries, wanted, config.channel_map, case=study, table=table, folder=study)

    matched = match(images)
    refuse_lost(match, matched, images, lost)
    return matched


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
    if len(masks) != 1:
        raise DataError(
            f"study {study}: {'several masks match' if masks else 'no mask, SEG or RTSTRUCT matches'} {pattern}",
            expected="one mask",
            found=str(len(masks)),
            remedy="set data.mask_pattern",
        )
    return masks[0]


def _study_folder(entry: ScanEntry, root: Path) -> str:
    path = entry.paths[0]
    parts = path.relative_to(root if path.is_relative_to(root) else path.parents[1]).parts
    return escape_name(parts[0] if len(parts) > 1 else strip_suffix(parts[0]))
