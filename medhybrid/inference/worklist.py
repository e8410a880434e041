"""Work lists: the scans of a folder that a model can predict, and the files of each scan."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from medhybrid.config import ScansConfig
from medhybrid.data.channel_words import DERIVED, names_channel
from medhybrid.data.channels import (
    TABLE,
    Match,
    Rules,
    match_channels,
    read_channel_table,
    refuse_lost,
    texts_of,
    unused_rows,
)
from medhybrid.data.same_scan import NUMBER, read_file_name, split_by_name
from medhybrid.errors import DataError, item_error
from medhybrid.names import check_case_name, make_unique, name_from_path, same_file_name, shorten_name
from medhybrid.scans import Discovery, Scan, ScanEntry
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.raster import COLOURS, fit_colours
from medhybrid.scans.reader import read_entry, stack_channels

logger = logging.getLogger(__name__)

NUMBER_0 = re.compile(r"_0000$")
"""nnU-Net's number of the first channel."""

SEQUENCES = ("T1", "T2", "FLAIR", "DWI", "ADC", "PD", "SWI", "CT")
"""Words for kinds of images in the names of scans and channels."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Scan to predict, with its files.

    Attributes
    ----------
    entries : tuple
        One entry with all channels, or one entry for each channel, with None for a missing channel.
    problem : str
        Why the scan cannot be predicted; empty otherwise.
    reasons : tuple of str
        Reasons for the channel assignments of a study.
    note : str
        How the name was made unique, if another scan would have had the same name.
    root : Path, optional
        Folder that was searched.
    name_taken : bool
        Whether another scan has this scan's own name in the output folder.
    shared_name : str
        The scan's own name, if scans of several places have it and `case` was numbered; `keep_names` decides on it.
    """

    case: str
    entries: tuple[ScanEntry | None, ...]
    problem: str = ""
    reasons: tuple[str, ...] = ()
    note: str = ""
    root: Path | None = None
    name_taken: bool = False
    shared_name: str = ""

    def __post_init__(self) -> None:
        check_case_name(self.case, source="a work list")

    @property
    def own_name(self) -> str:
        """Name of the scan's file or folder."""
        return self.shared_name or self.case

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the scan, in the order of its channels."""
        return tuple(p for e in self.entries if e is not None for p in e.paths)

    @property
    def is_burned_in(self) -> bool:
        """Whether a header states that text is burned into the pixels."""
        return any(e.is_burned_in for e in self.entries if e is not None)

    def read(self, channels: Sequence[str], options: ScansConfig | None = None) -> Scan:
        """Read the scan with its channels; raises `ScanError`."""
        if len(self.entries) == 1 and self.entries[0] is not None:
            scan = read_entry(self.entries[0], self.case, options)
            return replace(fit_colours(scan, len(channels)), searched=self.root)
        scans = [None if e is None else fit_colours(read_entry(e, self.case, options), 1) for e in self.entries]
        return replace(stack_channels(scans, channels, case=self.case, options=options), searched=self.root)


@dataclass(frozen=True, slots=True)
class WorkList:
    """Scans to predict, and entries that were skipped because they are not scans."""

    items: tuple[WorkItem, ...]
    skipped_files: tuple[ScanEntry, ...]

    def deidentified(self, deidentifier: Deidentifier) -> WorkList:
        """Return the work list with keyed hashes instead of names."""
        keys = [_identity(i) for i in self.items]
        keys = [
            k if keys.count(k) == 1 else f"{k}|{'|'.join(map(str, i.files))}"
            for k, i in zip(keys, self.items, strict=True)
        ]
        items = [_deidentified(i, deidentifier.name(k)) for k, i in zip(keys, self.items, strict=True)]
        aside = tuple(replace(e, name=deidentifier.name(e.uid or e.name)) for e in self.skipped_files)
        return WorkList(tuple(sorted(items, key=lambda i: i.case)), aside)


def _identity(item: WorkItem) -> str:
    """Return the text whose keyed hash names a scan."""
    return "|".join(f"{e.uid or e.name} {e.part}" for e in item.entries if e is not None) or item.case


def _deidentified(item: WorkItem, case: str) -> WorkItem:
    return replace(
        item, case=case, problem=without_names(item.problem, item, case), reasons=(), note="", shared_name=""
    )


def without_names(message: str, item: WorkItem, case: str) -> str:
    """Return a message in which the names of files, folders and scans are replaced."""
    for number, path in enumerate(item.files, start=1):
        message = message.replace(str(path), f"file {number}").replace(path.name, f"file {number}")
    for folder in sorted({str(f) for p in item.files for f in p.parents if len(f.parts) > 1}, key=len, reverse=True):
        message = message.replace(folder, "folder")
    folders = {path.parent.name for path in item.files}
    names = {item.case, *(e.name for e in item.entries if e is not None), *folders}
    for name in sorted(names, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", case, message)
    return message


def make_worklist(found: Discovery, channels: Sequence[tuple[str, bool]], channel_map: Rules) -> WorkList:
    """Group entries into scans for a model with these channels (name, whether optional).

    For one channel, every image is a scan. For several channels, a file with all of them is a scan. Other images are grouped by
    study (the folder of files, the StudyInstanceUID of series), and the channel map assigns their channels.
    """
    aside = [e for e in found.entries if e.skip_reason]
    broken = [e for e in found.entries if e.problem]
    images = [e for e in found.entries if not e.problem and not e.skip_reason]
    items = [WorkItem(e.name, (e,), e.problem) for e in broken]
    surplus = _with_more_numbers(images, channels, found.root)
    items += [WorkItem(case, tuple(entries), _more_channels(case, entries, channels)) for case, entries in surplus]
    images = [e for e in images if not any(e in entries for _, entries in surplus)]
    if len(channels) == 1:
        items += [
            WorkItem(
                NUMBER_0.sub("", e.file_name) if e.kind != "dicom" else e.name,
                (e,),
                note=_other_word(e, channels[0][0], channel_map),
            )
            for e in images
        ]
    else:
        is_colour = len(channels) == len(COLOURS)
        grey = {id(e) for e in _numbered_greys(images, len(channels))} if is_colour else set()
        whole = [
            e
            for e in images
            if e.n_channels == len(channels) or (is_colour and e.kind == "raster" and id(e) not in grey)
        ]
        items += [WorkItem(NUMBER_0.sub("", e.file_name) if e.kind == "raster" else e.name, (e,)) for e in whole]
        items += _studies([e for e in images if e not in whole], broken, channels, channel_map, found.root)
    root = found.root if found.root.is_dir() else found.root.parent
    named = [replace(i, root=root) for i in _with_unique_names(items)]
    return WorkList(tuple(sorted(named, key=lambda i: i.case)), tuple(aside))


def join_worklists(lists: Sequence[WorkList]) -> WorkList:
    """Join the work lists of several places. A scan that is in two of them is listed once.

    Scans of different places with the same name get numbers, except for the first one.
    """
    if len(lists) == 1:
        return lists[0]
    taken = {same_file_name(i.case) for work in lists for i in work.items}
    seen: set[tuple[object, ...]] = set()
    named: dict[str, WorkItem] = {}
    for item in (i for work in lists for i in work.items):
        key = tuple(e and (*e.places[:1], e.part) for e in item.entries)
        if key in seen:
            continue
        seen.add(key)
        name = item.case
        if same_file_name(name) in named:
            numbered = (shorten_name(f"{item.case}_{n}") for n in count(2))
            name = next(n for n in numbered if same_file_name(n) not in taken)
            item = replace(item, case=name, shared_name=item.case)
        taken.add(same_file_name(name))
        named[same_file_name(name)] = item
    aside = {(e.places[:1], e.part, e.name): e for work in lists for e in work.skipped_files}
    return WorkList(tuple(sorted(named.values(), key=lambda i: i.case)), tuple(aside.values()))


def _with_more_numbers(
    images: Sequence[ScanEntry], channels: Sequence[tuple[str, bool]], root: Path
) -> list[tuple[str, list[ScanEntry]]]:
    """Return the scans with nnU-Net's numbers for more channels than the model has, such as case_0000 and case_0001 for one.

    With one channel, a single numbered series may be scans of several patients: at least two series are needed then.
    """
    if (root if root.is_dir() else root.parent).joinpath(TABLE).is_file():
        return []
    groups = _by_number(images)
    larger = [(base, list(g.values())) for (_, base), g in groups.items() if {*range(len(channels) + 1)} <= g.keys()]
    is_series = len(channels) == 1 and (len(larger) < 2 or 2 * len(larger) < len(groups))
    return [] if is_series else larger


def _numbered_greys(images: Sequence[ScanEntry], n_channels: int) -> list[ScanEntry]:
    """Return the grey image files that are channels of one scan by nnU-Net's numbers, and not grey images of colour scans."""
    groups = _by_number([e for e in images if e.kind == "raster"])
    return [e for group in groups.values() if group.keys() == {*range(n_channels)} for e in group.values()]


def _by_number(images: Sequence[ScanEntry]) -> dict[tuple[str, str], dict[int, ScanEntry]]:
    """Return the files of one channel by study and name, and by nnU-Net's number."""
    groups: dict[tuple[str, str], dict[int, ScanEntry]] = {}
    for e in images:
        if e.kind != "dicom" and e.n_channels == 1 and (numbered := NUMBER.fullmatch(e.file_name)):
            groups.setdefault((e.study, numbered[1]), {})[int(numbered[2])] = e
    return groups


def _more_channels(case: str, entries: Sequence[ScanEntry], channels: Sequence[tuple[str, bool]]) -> str:
    """Return the problem of a scan with more channels than the model."""
    names = ", ".join(n for n, _ in channels)
    return str(
        DataError(
            f"scan {case} has more channels than the model",
            expected=f"{len(channels)} ({names})",
            found=f"{len(entries)} ({', '.join(sorted(p.name for e in entries for p in e.paths)[:4])})",
            remedy=f"use a model of these channels, or put the files of {names} alone into a folder",
        )
    )


def _other_word(entry: ScanEntry, channel: str, rules: Rules) -> str:
    """Return a note if the name of a scan has a word for a mask, or for another sequence than the model's channel."""
    if entry.kind != "dicom" and DERIVED.search(entry.name) and not DERIVED.search(channel):
        return "by its name this is a mask or another result, and not an image"
    if channel in rules or not any(names_channel(channel, s) for s in SEQUENCES):
        return ""
    texts = texts_of(entry)
    if any(names_channel(t, channel) for t in texts):
        return ""
    others = [s for s in SEQUENCES if any(names_channel(t, s) for t in texts)]
    return f"by its name this is {others[0]}, and the model was trained on {channel}" if others else ""


def _with_unique_names(items: Sequence[WorkItem]) -> list[WorkItem]:
    """Make names of scans unique where they would write the same files; the note of each renamed scan has its own name."""
    firsts = [next((e for e in i.entries if e is not None), None) for i in items]
    suffixes = [
        "scan" if e is None else e.name[len(i.case) :].strip("_") or e.kind for i, e in zip(items, firsts, strict=True)
    ]
    sources = ["|".join(str(p) for p in i.files) + "".join(e.part for e in i.entries if e) for i in items]
    names = make_unique([i.case for i in items], suffixes, sources)
    taken = {same_file_name(f"{name}_uncertainty") for name in names}  # names of uncertainty maps
    names = [f"{name}~scan" if same_file_name(name) in taken else name for name in names]
    notes = [i.note or next((e.note for e in i.entries if e is not None and e.note), "") for i in items]
    return [
        replace(item, note=note)
        if item.case == name
        else replace(
            item,
            case=name,
            note="; ".join(filter(None, [note, f"named {name}: another scan would be named {item.case}, too"])),
        )
        for item, name, note in zip(items, names, notes, strict=True)
    ]


def _studies(
    entries: Sequence[ScanEntry],
    broken: Sequence[ScanEntry],
    channels: Sequence[tuple[str, bool]],
    channel_map: Rules,
    root: Path,
) -> list[WorkItem]:
    table = read_channel_table(root if root.is_dir() else root.parent)
    if rows := unused_rows(table, [*entries, *broken], channels):
        logger.warning("%d rows of %s do not name a scan and a channel: %s", len(rows), TABLE, ", ".join(rows[:5]))
    groups: dict[tuple[str, bool], list[ScanEntry]] = {}
    for e in [*entries, *broken]:
        groups.setdefault(_group_of(e, table, channels, channel_map, root), []).append(e)
    items = []
    for (key, is_numbered), together in groups.items():
        splits = [together]
        images = [e for e in together if e.kind != "dicom"]
        if images and not is_numbered and all(e.problem for e in together if e.kind == "dicom"):
            is_flat = root.is_dir() and Path(images[0].study) == root
            apart = split_by_name(images, channels, channel_map, _study_name(images, root), table, is_flat=is_flat)
            splits = apart if len(apart) > 1 else splits
        for found in splits:
            members, lost = ([e for e in found if bool(e.problem) == is_lost] for is_lost in (False, True))
            if members:
                case = key if is_numbered else _shared_name(members) if len(splits) > 1 else _study_name(members, root)
                others = [e.name for e in together if e not in found]
                items.append(_study(case, members, lost, others, is_numbered, channels, channel_map, table, root))
    return items


def _shared_name(members: Sequence[ScanEntry]) -> str:
    """Return the words that the names of a scan's files begin or end with: `P0` of `P0_flair` and `P0_t1`."""
    words = [re.findall(r"[^\W_]+|[\W_]+", e.name) for e in members]
    start = "".join(w[0] for w in takewhile(lambda w: len(set(w)) == 1, zip(*words, strict=False)))
    from_end = zip(*(reversed(w) for w in words), strict=False)
    end = "".join(reversed([w[0] for w in takewhile(lambda w: len(set(w)) == 1, from_end)]))
    return re.sub(r"[\W_]+$", "", start) or re.sub(r"^[\W_]+", "", end) or members[0].name


def _study(
    case: str,
    members: Sequence[ScanEntry],
    lost: Sequence[ScanEntry],
    others: Sequence[str],
    is_numbered: bool,
    channels: Sequence[tuple[str, bool]],
    channel_map: Rules,
    table: Mapping[str, str],
    root: Path,
) -> WorkItem:
    """Assign the channels of one scan; `others` are files of its folder that belong to other scans by their names."""
    folder = _study_name(members, root)

    def match(found: Sequence[ScanEntry]) -> tuple[Match, ...]:
        if is_numbered:
            return _numbered(found, channels, case)
        return match_channels(found, channels, channel_map, case=case, table=table, folder=folder)

    try:
        if not is_numbered:
            _refuse_contradictions(case, [e for e in members if e.name not in table], channels, channel_map, folder)
        matched = match(members)
        refuse_lost(match, matched, members, lost)
        return WorkItem(case, tuple(m.entry for m in matched), reasons=tuple(m.reason for m in matched))
    except Exception as error:
        problem = str(item_error(error, f"the channels of {case} cannot be assigned", DataError))
        if others:
            problem = f"{problem.rstrip('.')}. By their names not of this scan: {', '.join(others[:5])}"
            problem += " (put each study into a separate folder to use files of any name)"
        return WorkItem(case, tuple(members), problem)


def _refuse_contradictions(
    case: str,
    members: Sequence[ScanEntry],
    channels: Sequence[tuple[str, bool]],
    channel_map: Rules,
    folder: str,
) -> None:
    """Raise `DataError` if the name of a file has the word of one channel and the number of another."""
    wrong = []
    for e in members:
        name = read_file_name(e, channels, channel_map, folder)
        if e.kind != "dicom" and name.is_contradiction and name.number is not None:
            wrong.append(f"{e.name} ({channels[name.channels[0]][0]}, and {channels[name.number][0]} by its number)")
    if wrong:
        raise DataError(
            f"study {case}: word and number in a file's name are of different channels",
            expected="the number of the same channel, or a name without number",
            found=", ".join(wrong[:4]),
            remedy=f"rename the files, or assign the channels in {TABLE}",
        )


def _group_of(
    entry: ScanEntry,
    table: Mapping[str, str],
    channels: Sequence[tuple[str, bool]],
    channel_map: Rules,
    root: Path,
) -> tuple[str, bool]:
    """Return the group of an entry, and whether only a number in its name gives its channel, as in nnU-Net's <case>_0000."""
    if entry.kind != "dicom" and entry.name not in table and (numbered := NUMBER.fullmatch(entry.file_name)):
        name = read_file_name(entry, channels, channel_map, _study_name([entry], root))
        if name.number is not None and not name.channels:
            return numbered.group(1), True
    return entry.study, False


def _numbered(members: Sequence[ScanEntry], channels: Sequence[tuple[str, bool]], case: str) -> tuple[Match, ...]:
    """Assign channels by the numbers of nnU-Net's file names: <case>_0000, <case>_0001, one for each channel."""
    by_number = {int(e.file_name[-4:]): e for e in members}
    if len(by_number) < len(members):
        raise DataError(
            f"study {case}: two files of one channel",
            found=", ".join(sorted(p.name for e in members for p in e.paths)[:5]),
            remedy="keep only one file for each channel",
        )
    if absent := [n for i, (n, optional) in enumerate(channels) if i not in by_number and not optional]:
        raise DataError(f"study {case}: channels are missing", expected=", ".join(absent))
    return tuple(
        Match(e := by_number.get(i), f"{n}: {e.name if e else 'none'} (the number in its name)")
        for i, (n, _) in enumerate(channels)
    )


def _study_name(members: Sequence[ScanEntry], root: Path) -> str:
    base = Path(os.path.abspath(root.parent if root.is_file() else root))
    folders = [os.path.abspath(p.parent) for e in members for p in e.paths]
    common = Path(os.path.commonpath(folders))
    if not common.is_relative_to(base):  # files from an archive are unpacked outside of the searched folder
        return members[0].name.rpartition("__")[0] or members[0].name
    return name_from_path(common.relative_to(base)) if common != base else members[0].name
