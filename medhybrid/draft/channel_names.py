"""Names of the channels of pairs: one spelling for each, without words for groups of cases."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from medhybrid.draft.words import folder_words, names_sequence, stem_of, words_of

MAX_WORDS = 4
"""Least number of separators in a name that is not that of a channel, but of folders and series."""

WEIGHTING = re.compile(r"(t|pd)\d*w?", re.IGNORECASE)
"""Name of a channel that differs from others only by its number, and yet is another sequence."""


def join_spellings(found: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return channels under one spelling each (`FLAIR` and `flair`, `T1` and `T1w`), if no case has both of them."""
    several = Counter(name for channels in found.values() for name in channels)
    forms: dict[str, list[str]] = {}
    for name in several:
        forms.setdefault(re.sub(r"(?<![a-z0-9])(t1|t2|pd)w(?![a-z0-9])", r"\1", name.casefold()), []).append(name)
    chosen: dict[str, str] = {}
    for names in forms.values():
        is_apart = all(sum(n in channels for n in names) <= 1 for channels in found.values())
        best = max(names, key=lambda n: several[n])
        chosen |= {n: best if is_apart else n for n in names}
    return {mask: {chosen[n]: p for n, p in channels.items()} for mask, channels in found.items()}


def without_groups(found: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return channels without words for groups of cases (`HGG`, `fold0`): folders in which a case has all its channels."""
    groups: Counter[str] = Counter()
    for channels in found.values():
        if len(channels) > 1:
            in_folders = [
                {w for f in p.parts[:-1] for w in folder_words(f)} - set(words_of(stem_of(p)))
                for p in channels.values()
            ]
            named = [set(words_of(n)) for n in channels]
            groups.update(set.intersection(*named, *in_folders))
    n_several = sum(len(channels) > 1 for channels in found.values())
    words = {w for w, n in groups.items() if n < n_several}
    if len(words) < 2:
        return found
    folders = {f for channels in found.values() for p in channels.values() for f in p.parts[:-1]}
    named = [set(folder_words(f)) for f in folders]
    words |= {w for w in groups if any(w in of_folder and words & of_folder for of_folder in named)}
    made: dict[Path, dict[str, Path]] = {}
    for mask, channels in found.items():
        plain = {"_".join(w for w in n.split("_") if w.lower() not in words) or "image": p for n, p in channels.items()}
        made[mask] = plain if len(plain) == len(channels) else channels
    return made


def as_one_channel(found: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return the channel `image` where each case has one image, with identifiers in its name or in one of several folders.

    Identifiers are dates, for example, or words that no other case has. Folders such as `subset0` and `subset1` are parts of a
    dataset, unless they name sequences or modalities.
    """
    names = {name for channels in found.values() for name in channels}
    is_single = all(len(channels) == 1 for channels in found.values())
    is_long = all(name.count("_") >= MAX_WORDS for name in names)
    are_identifiers = len(names) > max(2, len(found) / 2) and all(re.search(r"\d{3}", name) for name in names)
    of_folders = len(names) > 1 and all(
        name == "image" or not set(words_of(name)) & set(words_of(stem_of(path)))
        for channels in found.values()
        for name, path in channels.items()
    )
    are_numbered = len({re.sub(r"\d+", "", name) for name in names}) == 1 and not any(map(WEIGHTING.fullmatch, names))
    are_parts = of_folders and (are_numbered or not any(map(names_sequence, names)))
    is_unique = len(found) > 2 and len(names) == len(found)
    if found and is_single and (is_long or are_identifiers or are_parts or is_unique):
        return {mask: {"image": next(iter(channels.values()))} for mask, channels in found.items()}
    return _without_folders(found) if found and is_single and len(names) > 1 else found


def _without_folders(found: dict[Path, dict[str, Path]]) -> dict[Path, dict[str, Path]]:
    """Return single channels without the words of folders, if these name no sequences and the words of the files are the same.

    `batch_1/p1_ct` and `batch_2/p2_ct` are one channel.
    """
    of_files, of_folders = set(), set()
    for channels in found.values():
        for name, path in channels.items():
            in_file = set(words_of(stem_of(path)))
            of_files.add("_".join(w for w in name.split("_") if w.lower() in in_file))
            of_folders |= {w for w in name.split("_") if w.lower() not in in_file}
    if len(of_files) > 1 or any(map(names_sequence, of_folders)):
        return found
    return {m: {next(iter(of_files)) or "image": next(iter(of.values()))} for m, of in found.items()}
