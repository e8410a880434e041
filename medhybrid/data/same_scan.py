"""Grouping of the image files of a folder by scan: file names of the same scan differ only in the channel.

Words for acquisition or processing (`mprage`, `ax`, `acq-...`) are ignored. `pre` and `post` are such words if they tell T1
without and with contrast agent apart; otherwise they tell two scans apart, before and after an operation. In a folder with a
single study, files may have any names, except names that begin with different patient numbers (`p1_T1`, `p2_FLAIR`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from medhybrid.data.channel_words import without_channel
from medhybrid.data.channels import IMAGE_SUFFIX, Rules, explain
from medhybrid.names import same_file_name
from medhybrid.scans import ScanEntry

NUMBER = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's file names: the case, then the number of the channel."""

ENTITIES = re.compile(r"(?<![a-z0-9])(?:acq|rec|dir|desc|space|res|ce|part|run|mod|echo|inv)-[a-z0-9]+", re.IGNORECASE)
"""BIDS entities that describe an image and not a subject."""

WORDS = (
    "ax axial cor coronal sag sagittal tra trans transversal transverse 2d 3d w weighted image img scan series ser mr mri ct "
    "mprage mp2rage tse tfl fse se gre spgr fspgr bravo space spc cube vista stir fs fatsat iso hr lr highres lowres "
    "pre post ce gd contrast native raw orig original brain head bet ss stripped skull n4 bias corrected denoised reg "
    "registered coreg coregistered resampled norm normalised normalized mni crop cropped defaced"
)
OF_IMAGES = frozenset(WORDS.split())
"""Words for the acquisition or processing of an image."""

SIDES = ("pre", "post")
"""Words for an image without and with contrast agent, or for a scan before and after an operation."""

AGENTS = ("contrast", "ce", "gd", "gad", "km", "c")
"""Words that after one of `SIDES` mean the contrast agent."""

RUN = re.compile(r"(?<![a-z0-9])run-([a-z0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileName:
    """Parsed name of an image file.

    Attributes
    ----------
    channels : tuple of int
        Indices of the channels that the name contains.
    number : int, optional
        Number of the channel in nnU-Net's form.
    rest : tuple of str
        Other words, which identify the scan.
    side, whole_side : str
        The only word of `SIDES` in the name, without and with the words of its channels; otherwise empty.
    run : str
        The value of the BIDS entity `run`.
    """

    channels: tuple[int, ...]
    number: int | None
    rest: tuple[str, ...]
    side: str = ""
    whole_side: str = ""
    run: str = ""

    @property
    def is_contradiction(self) -> bool:
        """Return whether name and number are of different channels."""
        return self.number is not None and bool(self.channels) and self.number not in self.channels


def read_file_name(
    entry: ScanEntry, channels: Sequence[tuple[str, bool]], rules: Rules, folder: str, told: str | None = None
) -> FileName:
    """Parse a file name into channel and scan; `told` is its channel in `channels.csv`."""
    name: str = unicodedata.normalize("NFC", IMAGE_SUFFIX.sub("", entry.paths[0].name))
    numbered = NUMBER.fullmatch(name)
    number = int(numbered[2]) if numbered is not None and int(numbered[2]) < len(channels) else None
    rest = numbered[1] if numbered is not None and number is not None else name
    if told is None:
        named = [i for i, (n, _) in enumerate(channels) if explain(entry, rules.get(n), n, folder)]
    else:
        named = [i for i, (n, _) in enumerate(channels) if same_file_name(n) == same_file_name(told)]
    for i in named:
        channel = channels[i][0]
        rule = rules.get(channel)
        pattern = rule if isinstance(rule, str) else (rule.description or "") if rule is not None else ""
        rest = without_channel(rest, channel)
        for text in re.findall(r"[^*?\[\]]*[^\W_][^*?\[\]]*", re.sub(r"\[.*?\]", "*", pattern)):
            rest = re.sub(re.escape(unicodedata.normalize("NFC", text)), " ", rest, flags=re.IGNORECASE)
    words = re.findall(r"[^\W_]+", ENTITIES.sub(" ", rest).casefold())
    kept = tuple(w for w in words if w not in OF_IMAGES and not re.fullmatch(r"\d+mm", w))
    run = RUN.search(rest)
    return FileName(
        tuple(named), number, kept, _side_of(rest), _side_of(name), run[1].lower().lstrip("0") if run else ""
    )


def _side_of(text: str) -> str:
    words: list[str] = re.findall(r"[^\W_]+", text.casefold())
    found = {w for w, after in pairwise([*words, ""]) if w in SIDES and after not in AGENTS}
    return found.pop() if len(found) == 1 else ""


def split_by_name(
    entries: Sequence[ScanEntry],
    channels: Sequence[tuple[str, bool]],
    rules: Rules,
    folder: str,
    table: Mapping[str, str],
    *,
    is_flat: bool,
) -> list[list[ScanEntry]]:
    """Split the files of a folder by scan.

    All files form one group if their names do not distinguish scans, or if the table lists them all.

    Parameters
    ----------
    is_flat : bool
        Whether the folder is the searched one, which may contain many studies. Other folders contain a single study, unless
        the names begin with different patient numbers.
    """
    names = {e.name: read_file_name(e, channels, rules, folder, table.get(e.name)) for e in entries}
    named = [e for e in entries if names[e.name].channels]
    rests = sorted({names[e.name].rest for e in named})
    is_ambiguous = any(sum(i in names[e.name].channels for e in named) > 1 for i in range(len(channels)))
    is_told = all(e.name in table for e in named)
    is_one = len(rests) > 1 and () in rests and is_ambiguous
    if is_told or is_one or not (is_flat or _are_numbers_of_patients(rests)):
        return [list(entries)]
    groups = [[e for e in named if names[e.name].rest == rest] for rest in rests]
    apart = [scan for group in groups for scan in _split_by_time(group, names, channels)]
    return apart if len(apart) > 1 else [list(entries)]


def _split_by_time(
    files: list[ScanEntry], names: Mapping[str, FileName], channels: Sequence[tuple[str, bool]]
) -> list[list[ScanEntry]]:
    """Split files with the same words by operation (`pre`, `post`), and by run if all have one."""
    sides, runs = ({e.name: getattr(names[e.name], word) for e in files} for word in ("side", "run"))
    if set(sides.values()) >= set(SIDES) and not _is_contrast([names[e.name] for e in files], channels):
        found = sides
    elif len(set(runs.values())) > 1 and all(runs.values()):
        found = runs
    else:
        return [files]
    groups = [[e for e in files if found[e.name] == value] for value in sorted(set(found.values()))]
    return [scan for group in groups for scan in _split_by_time(group, names, channels)]


def _is_contrast(files: Sequence[FileName], channels: Sequence[tuple[str, bool]]) -> bool:
    """Return whether `pre` and `post` mean the contrast agent: of two T1 channels, and of no common channel."""
    pre, post = ({i for f in files if f.whole_side == word for i in f.channels} for word in SIDES)
    are_t1 = [any(re.match(r"t1(?!\d)", channels[i][0], re.IGNORECASE) for i in found) for found in (pre, post)]
    return all(are_t1) and not pre & post


def _are_numbers_of_patients(rests: Sequence[tuple[str, ...]]) -> bool:
    """Return whether names begin with the same word and different numbers, such as `sub-01` and `sub-02`."""
    found = [re.match(r"([^\W\d_]+)(\d+)", "".join(rest)) for rest in rests]
    words = {m[1] for m in found if m}
    return all(found) and len(words) == 1 and len({int(m[2]) for m in found if m}) > 1
