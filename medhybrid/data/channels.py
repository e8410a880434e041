"""Channel assignment: the scan of a study for each channel, by rules or by a table, with the reason.

A rule is a pattern for names and descriptions, or several conditions on header fields that must all hold. A channel without a
rule matches scans that have its name as a word. The name of the study's folder is ignored, because all its scans share it.
A table `channels.csv` in the folder of scans (columns `scan`, `channel`) overrides the rules for the listed scans. An
ambiguous assignment is an error.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from medhybrid.config import ChannelRule
from medhybrid.data.channel_words import names_channel
from medhybrid.errors import DataError, MedHybridError
from medhybrid.names import name_from_path, same_file_name
from medhybrid.scans import ScanEntry
from medhybrid.scans.contrast import has_contrast_agent, is_blank
from medhybrid.tables import read_table

Rules = Mapping[str, str | ChannelRule]
TABLE = "channels.csv"
IMAGE_SUFFIX = re.compile(
    r"\.(nii\.gz|nii|seg\.nrrd|nrrd|nhdr|mha|mhd|hdr|png|jpe?g|(?:ome\.)?tiff?|bmp|gif|p[gpn]m)$", re.IGNORECASE
)
"""Suffixes of files that can be read as an image. An `.img` file is read through its `.hdr`."""

CONDITIONS = {
    "echo_time_ms": "echo time",
    "inversion_time_ms": "inversion time",
    "repetition_time_ms": "repetition time",
}


class HasPart(Protocol):
    """Scan in one or several files, with the name of its volume in them."""

    @property
    def part(self) -> str: ...


def channel_assignment_of(entries: Sequence[HasPart | None]) -> str:
    """Return the channel assignment as text: for each channel, its volume, or `-` if it is missing.

    The text is empty if a single entry holds the whole scan.
    """
    if len(entries) == 1 and entries[0] is not None and not entries[0].part:
        return ""
    return "|".join("-" if e is None else f"+{e.part}" for e in entries)


@dataclass(frozen=True, slots=True)
class Match:
    """Scan that is assigned to a channel (None for a missing optional channel), with the reason."""

    entry: ScanEntry | None
    reason: str


class ScanTable(UserDict[str, str]):
    """Scan name to channel. Names in either Unicode form are found."""

    def __setitem__(self, name: str, channel: str) -> None:
        super().__setitem__(unicodedata.normalize("NFC", name), channel)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(unicodedata.normalize("NFC", name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(unicodedata.normalize("NFC", name))


def read_channel_table(root: Path) -> ScanTable:
    """Read scan name to channel from `channels.csv` in `root`; empty if the file does not exist.

    Raises
    ------
    DataError
        If a column is missing, or two rows have the same scan.
    """
    path = root / TABLE
    if not path.is_file():
        return ScanTable()
    table = read_table(path)
    scan, channel = table.column("scan"), table.column("channel")
    if scan is None or channel is None:
        raise DataError(f"{TABLE} lacks columns", expected="scan, channel", found=", ".join(table.columns))
    found = ScanTable()
    for line, row in table.rows:
        place = PurePosixPath(row[scan].replace("\\", "/"))
        name = row[scan] if len(place.parts) < 2 else name_from_path(place.parent / IMAGE_SUFFIX.sub("", place.name))
        if name in found:
            raise DataError(
                f"{TABLE}: line {line} repeats a scan",
                expected="one line per scan",
                found=row[scan],
                remedy="remove one",
            )
        found[name] = row[channel]
    return found


def match_channels(
    entries: Sequence[ScanEntry],
    channels: Sequence[tuple[str, bool]],
    rules: Rules,
    *,
    case: str,
    table: Mapping[str, str] | None = None,
    folder: str = "",
) -> tuple[Match, ...]:
    """Assign a scan of a study to each channel.

    Parameters
    ----------
    channels : sequence of (str, bool)
        Channel names, and whether they are optional.
    rules : mapping
        Channel name to rule. A channel without a rule matches scans that have its name as a word.
    table : mapping, optional
        Scan name to channel. It overrides the rules.
    folder : str
        Name of the study's folder, with which the names of its scans begin. It is ignored in the search for channel names.

    Raises
    ------
    DataError
        If a channel matches several scans, a scan matches several channels, or a channel that is not optional matches none.
    """
    table = table or {}
    found: list[Match] = []
    for name, optional in channels:
        rule = rules.get(name)
        named = [e for e in entries if same_file_name(table.get(e.name, "")) == same_file_name(name)]
        reasons = {e.name: why for e in entries if e.name not in table and (why := explain(e, rule, name, folder))}
        hits = named or [e for e in entries if e.name in reasons]
        if len(hits) > 1:
            raise DataError(
                f"study {case}: channel {name} is ambiguous",
                expected=f"one scan that matches {_tell(rule, name)}",
                found="; ".join(f"{e.name} ({reasons.get(e.name, TABLE)})" for e in hits[:4]),
                remedy=f"make data.channel_map more precise, or name the scan in {TABLE}",
            )
        if not hits and not optional:
            raise DataError(
                f"study {case}: channel {name} is missing",
                expected=f"one scan that matches {_tell(rule, name)}",
                found=", ".join(e.name for e in entries[:6]) or "no image",
                remedy=f"set data.channel_map, or name the scan in {TABLE}",
            )
        reason = TABLE if named else reasons[hits[0].name] if hits else "missing, optional"
        found.append(Match(hits[0] if hits else None, f"{name}: {hits[0].name if hits else 'none'} ({reason})"))
    _refuse_shared(found, channels, case)
    return tuple(found)


def _refuse_shared(found: Sequence[Match], channels: Sequence[tuple[str, bool]], case: str) -> None:
    taken: dict[str, str] = {}
    for match, (name, _) in zip(found, channels, strict=True):
        if match.entry is None:
            continue
        if other := taken.get(match.entry.name):
            raise DataError(
                f"study {case}: one scan matches two channels",
                expected=f"one scan for {other}, one for {name}",
                found=match.entry.name,
                remedy=f"make data.channel_map more precise, or name the scans in {TABLE}",
            )
        taken[match.entry.name] = name


def refuse_lost(
    match: Callable[[Sequence[ScanEntry]], tuple[Match, ...]],
    found: Sequence[Match],
    entries: Sequence[ScanEntry],
    lost: Sequence[ScanEntry],
) -> None:
    """Raise `DataError` if a missing channel is in a file that cannot be read, with the problem of that file.

    Parameters
    ----------
    match : callable
        Function that assigns scans to channels.
    found : sequence of Match
        Its result for `entries`.
    lost : sequence of ScanEntry
        Scans of the same study that cannot be read.
    """
    if all(m.entry is not None for m in found):
        return
    for entry in lost:
        try:
            matched = match([*entries, entry])
        except MedHybridError:  # with the unreadable scan, the assignment is not decidable
            continue
        if entry in [m.entry for m in matched]:
            raise DataError(
                f"the channel in {entry.name} cannot be used",
                found=entry.problem,
                remedy="export it again, or remove it",
            )


def explain(entry: ScanEntry, rule: str | ChannelRule | None, channel: str, folder: str = "") -> str:
    """Return the reason why a scan matches a rule; empty if it does not match."""
    if rule is None:
        return f"named {channel}" if any(names_channel(t, channel) for t in texts_of(entry, folder)) else ""
    if isinstance(rule, str):
        return f"matches {rule}" if matches(entry, rule, folder) else ""
    made, reasons = entry.acquisition, []
    if rule.description is not None:
        if not matches(entry, rule.description, folder):
            return ""
        reasons.append(f"matches {rule.description}")
    if rule.sequence is not None:
        texts = [str(made.get(k, "")) for k in ("sequence", "scanning_sequence", "protocol")]
        if not any(fnmatch.fnmatchcase(same_file_name(t), same_file_name(rule.sequence)) for t in texts if t):
            return ""
        reasons.append(f"sequence {rule.sequence}")
    if rule.contrast is not None:
        agent = made.get("contrast_agent", "")
        has_agent = False if is_blank(agent) else has_contrast_agent(agent)
        if entry.kind != "dicom" or has_agent != rule.contrast:
            return ""
        reasons.append("contrast agent" if has_agent else "no contrast agent")
    for field, words in CONDITIONS.items():
        limits = getattr(rule, field)
        if limits is None:
            continue
        value = made.get(field)
        if not isinstance(value, float) or not limits[0] <= value <= limits[1]:
            return ""
        reasons.append(f"{words} {value:g} ms")
    return ", ".join(reasons)


def _tell(rule: str | ChannelRule | None, channel: str) -> str:
    if rule is None:
        return f"the word {channel} in a file name or series description"
    if isinstance(rule, str):
        return rule
    return ", ".join(f"{k} {v}" for k, v in rule.model_dump(exclude_none=True).items())


def matches(entry: ScanEntry, pattern: str, folder: str = "") -> bool:
    """Return whether a pattern matches the name or series description of an entry, regardless of case and Unicode form."""
    wanted = same_file_name(pattern)
    return any(fnmatch.fnmatchcase(same_file_name(text), wanted) for text in texts_of(entry, folder))


def texts_of(entry: ScanEntry, folder: str = "") -> tuple[str, ...]:
    """Return the texts that may contain the channel: name within the study's folder, its last part, series description."""
    last = entry.name.rsplit("__", 1)[-1]
    below = f"__{entry.name[len(folder) + 2 :]}" if folder and entry.name.startswith(f"{folder}__") else entry.name
    texts = (last if folder == entry.name else below, below.removeprefix("__"), last, entry.description)
    return tuple(dict.fromkeys(t for t in texts if t))


def unused_rows(
    table: Mapping[str, str], entries: Sequence[ScanEntry], channels: Sequence[tuple[str, bool]]
) -> list[str]:
    """Return, as text, the rows of `channels.csv` with an unknown scan or channel; an empty channel is allowed."""
    names = {unicodedata.normalize("NFC", e.name) for e in entries}
    known = {same_file_name(n) for n, _ in channels}
    return [
        f"{scan}: {channel or 'no channel'}{'' if scan in names else ' (unknown scan)'}"
        for scan, channel in table.items()
        if scan not in names or (channel.strip() and same_file_name(channel.strip()) not in known)
    ]
