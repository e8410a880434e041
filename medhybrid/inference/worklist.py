"""Which scans of a folder a model can be run on, and which files make up each."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medhybrid.config import ScansConfig
from medhybrid.data.channels import Rules, match_channels, read_table
from medhybrid.errors import DataError, MedHybridError
from medhybrid.scans import Discovery, Scan, ScanEntry
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.reader import read_entry, stack_channels


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One scan to predict.

    Attributes
    ----------
    entries : tuple
        One entry that holds all channels, or one a channel, None where it is missing.
    problem : str
        Why it cannot be predicted, else empty.
    reasons : tuple of str
        Why each scan of a study was taken for its channel.
    """

    case: str
    entries: tuple[ScanEntry | None, ...]
    problem: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order."""
        return tuple(p for e in self.entries if e is not None for p in e.paths)

    @property
    def is_burned_in(self) -> bool:
        """Whether a header says that text is part of the pixels."""
        return any(e.is_burned_in for e in self.entries if e is not None)

    def read(self, channels: Sequence[str], options: ScansConfig | None = None) -> Scan:
        """Read the scan with its channels; raises `ScanError`."""
        if len(self.entries) == 1 and self.entries[0] is not None:
            return read_entry(self.entries[0], self.case, options)
        scans = [None if e is None else read_entry(e, self.case, options) for e in self.entries]
        return stack_channels(scans, channels, case=self.case, options=options)


@dataclass(frozen=True, slots=True)
class WorkList:
    """What there is to do, and what was left aside because it is no scan."""

    items: tuple[WorkItem, ...]
    left_aside: tuple[ScanEntry, ...]

    def deidentified(self, deidentifier: Deidentifier) -> WorkList:
        """The same work under names by keyed hash."""
        items = tuple(_deidentified(i, deidentifier) for i in self.items)
        aside = tuple(replace(e, name=deidentifier.name(e.uid or e.name)) for e in self.left_aside)
        return WorkList(tuple(sorted(items, key=lambda i: i.case)), aside)


def _deidentified(item: WorkItem, deidentifier: Deidentifier) -> WorkItem:
    identity = "|".join(f"{e.uid or e.name} {e.part}" for e in item.entries if e is not None) or item.case
    case = deidentifier.name(identity)
    return replace(item, case=case, problem=without_names(item.problem, item, case), reasons=())


def without_names(message: str, item: WorkItem, case: str) -> str:
    """A message in which the names of files, folders and scans are replaced."""
    for number, path in enumerate(item.files, start=1):
        message = message.replace(str(path), f"file {number}").replace(path.name, f"file {number}")
    folders = {path.parent.name for path in item.files}
    names = {item.case, *(e.name for e in item.entries if e is not None), *folders}
    for name in sorted(names, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", case, message)
    return message


def make_worklist(found: Discovery, channels: Sequence[tuple[str, bool]], channel_map: Rules) -> WorkList:
    """Turn entries into scans for a model with these channels (name, optional).

    With one channel every image is a scan. With several, a file that holds them all is a scan; other images are put together
    by study (the folder of files, the StudyInstanceUID of series) with the channel map.
    """
    aside = [e for e in found.entries if e.left_aside]
    broken = [e for e in found.entries if e.problem]
    images = [e for e in found.entries if not e.problem and not e.left_aside]
    items = [WorkItem(e.name, (e,), e.problem) for e in broken]
    if len(channels) == 1:
        items += [WorkItem(re.sub(r"_0000$", "", e.name), (e,)) for e in images]
    else:
        whole = [e for e in images if e.n_channels == len(channels)]
        items += [WorkItem(e.name, (e,)) for e in whole]
        items += _studies([e for e in images if e not in whole], channels, channel_map, found.root)
    names = [i.case for i in items]
    if len(set(names)) != len(names):
        doubled = sorted({n for n in names if names.count(n) > 1})
        raise DataError("two scans would get the same name", found=", ".join(doubled[:5]), remedy="rename one of them")
    return WorkList(tuple(sorted(items, key=lambda i: i.case)), tuple(aside))


def _studies(
    entries: Sequence[ScanEntry], channels: Sequence[tuple[str, bool]], channel_map: Rules, root: Path
) -> list[WorkItem]:
    table = read_table(root if root.is_dir() else root.parent)
    groups: dict[str, list[ScanEntry]] = {}
    for e in entries:
        numbered = re.fullmatch(r"(.+)_\d{4}", e.name)
        groups.setdefault(f"file {numbered.group(1)}" if numbered else e.study, []).append(e)
    items = []
    for key, members in groups.items():
        case = key.removeprefix("file ") if key.startswith("file ") else _study_name(members, root)
        reasons: tuple[str, ...] = ()
        try:
            if key.startswith("file "):
                matched = _numbered(members, channels, case)
            else:
                found = match_channels(members, channels, channel_map, case=case, table=table)
                matched, reasons = tuple(m.entry for m in found), tuple(m.reason for m in found)
            items.append(WorkItem(case, matched, reasons=reasons))
        except MedHybridError as error:
            items.append(WorkItem(case, tuple(members), str(error)))
    return items


def _numbered(
    members: Sequence[ScanEntry], channels: Sequence[tuple[str, bool]], case: str
) -> tuple[ScanEntry | None, ...]:
    """nnU-Net's file names: <case>_0000, <case>_0001, one a channel."""
    by_number = {int(e.name[-4:]): e for e in members}
    if absent := [n for i, (n, optional) in enumerate(channels) if i not in by_number and not optional]:
        raise DataError(f"study {case}: channels are missing", expected=", ".join(absent))
    return tuple(by_number.get(i) for i in range(len(channels)))


def _study_name(members: Sequence[ScanEntry], root: Path) -> str:
    base = root.parent if root.is_file() else root
    folders = [str(p.parent) for e in members for p in e.paths]
    common = Path(os.path.commonpath(folders)).relative_to(base)
    return "__".join(common.parts) or members[0].name
