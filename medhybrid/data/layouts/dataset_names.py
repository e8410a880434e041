"""Comparison of the labels and channels in a dataset's own file with the config, to detect exchanged values and positions."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.channel_words import names_channel
from medhybrid.data.layouts.case import Case, read_json, strip_suffix
from medhybrid.errors import DataError
from medhybrid.names import printable_path, same_text

NUMBER = re.compile("[0-9]{1,9}")
"""Value of a label or position of a channel. Other digits, such as circled ones, are text."""

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+|[^\w\s.\-]")
BACKGROUND = "background"


def refuse_contradictions(path: Path, config: DataConfig) -> None:
    """Raise `DataError` if a label or channel of the config has another value or position in the dataset's own file.

    Files are assigned by value and position. With a contradiction, a label or channel would be trained under a wrong name.

    Parameters
    ----------
    path : Path
        File of the dataset, which may be absent.
    """
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict):
        return
    labels = _numbers_by_name(_with_regions(values.get("labels"), values.get("regions_class_order")))
    name = printable_path(path.name)
    ignored = {value for label, value in labels.items() if label.lower() == "ignore"}
    if found := [f"{n}: {v}" for n, v in config.labels.items() if v in ignored]:
        raise DataError(
            "a label of the config has the dataset's value for `ignore`",
            expected=f"labels without the value of `ignore` in {name}",
            found=", ".join(found),
            remedy="remove it from data.labels, and set data.ignore_value to it",
        )
    named_channels = values.get("channel_names", values.get("modality"))
    if isinstance(named_channels, list):
        named_channels = dict(enumerate(map(str, named_channels)))
    channels = {n.lower(): number for n, number in _numbers_by_name(named_channels).items()}
    places = {c.name: i for i, c in enumerate(config.channels)}
    known = {n: value for n in config.labels if (value := _value_of(n, labels)) is not None}
    named = {n: _place_of(n, place, channels) for n, place in places.items()}
    for kind, ours, theirs in (("labels", config.labels, known), ("channels", places, named)):
        if other := [n for n, v in ours.items() if theirs.get(n, v) != v]:
            raise DataError(
                f"data.{kind} contradicts {name}",
                expected=", ".join(f"{n}: {theirs[n]}" for n in other),
                found=", ".join(f"{n}: {ours[n]}" for n in other),
                remedy=f"change data.{kind} to match {name}",
            )


def refuse_exchanged(cases: Sequence[Case], config: DataConfig) -> tuple[Case, ...]:
    """Add a problem to cases whose channels, assigned by column or position, contradict the words in their file names.

    A word that all files of a case have, such as the name of its patient, is ignored. If file names have no such word, the
    names of their folders count.
    """
    channels = [c.name for c in config.channels]
    return tuple(_without_exchanged(c, channels, config) if c.problem is None else c for c in cases)


def _without_exchanged(case: Case, channels: Sequence[str], config: DataConfig) -> Case:
    if len(channels) < 2 or len(case.images) != len(channels):
        return case
    paths = {n: files.paths[0] for n, files in zip(channels, case.images, strict=True) if files}
    words: dict[str, set[str]] = {n: set() for n in paths}
    for texts in ({n: p.name for n, p in paths.items()}, {n: p.parent.name for n, p in paths.items()}):
        named = {n: {c for c in channels if _names(strip_suffix(text), c, config)} for n, text in texts.items()}
        common = set.intersection(*named.values()) if len(named) > 1 else set()
        words = {n: found or named[n] - common for n, found in words.items()}
    wrong = {n: found for n, found in words.items() if found and n not in found}
    if not wrong:
        return case
    problem = DataError(
        f"case {case.name}: the names of its files are of other channels than their places in the list or table",
        expected=f"one file for each channel, in the order {', '.join(channels)}",
        found=", ".join(f"{printable_path(paths[n].name)} for {n}" for n in wrong),
        remedy="correct the list, the columns or data.channels; if the names are wrong, set data.channel_map to patterns "
        "that fit them",
    )
    return replace(case, problem=problem)


def _names(text: str, channel: str, config: DataConfig) -> bool:
    """Return whether a file name has a channel's name as a word, or matches the pattern of `data.channel_map`."""
    rule = config.channel_map.get(channel)
    if rule is None:
        return names_channel(text, channel)
    pattern = rule if isinstance(rule, str) else rule.description
    return pattern is not None and fnmatch.fnmatchcase(same_text(text), same_text(pattern))


def _value_of(label: str, theirs: Mapping[str, int]) -> int | None:
    """Return a label's value in a dataset, regardless of case, separators and the order of words; None if unknown."""
    for form in (joined_words, _words):
        alike = {value for name, value in theirs.items() if form(name) == form(label)}
        if alike:
            return alike.pop() if len(alike) == 1 else None
    return None


def joined_words(name: str) -> tuple[str, ...]:
    """Return a label's words as one text for comparison, regardless of case, separators and spelling (`tumour`).

    Numbers stay apart: `LN 1-1` is not `LN 11`.
    """
    text = ""
    for word in _in_order(name):
        text += f"_{word}" if text[-1:].isdigit() and word[0].isdigit() else word
    return (text,)


def _words(name: str) -> tuple[str, ...]:
    return tuple(sorted(_in_order(name)))


def _in_order(name: str) -> list[str]:
    found = [w.casefold() for w in WORD.findall(unicodedata.normalize("NFKC", name))]
    return [w.replace("tumour", "tumor").replace("oedema", "edema") for w in found]


def _place_of(channel: str, place: int, theirs: Mapping[str, int]) -> int:
    """Return a channel's position in a dataset, compared by words (T1 matches T1w); `place` if it is unknown there."""
    name = channel.strip().lower()
    if name in theirs:
        return theirs[name]
    alike = [
        number for other, number in theirs.items() if names_channel(other, channel) or names_channel(channel, other)
    ]
    return alike[0] if alike and place not in alike else place


def _with_regions(labels: object, order: object) -> dict[Any, Any]:
    """Convert nnU-Net's regions (lists of values) to label values, by `regions_class_order` or by their nesting.

    By nesting, a region gets the value that no smaller region within it has. Labels in a list that starts with the background
    are numbered from 0.
    """
    if isinstance(labels, list) and labels and joined_words(str(labels[0])) == (BACKGROUND,):
        labels = dict(enumerate(map(str, labels)))
    if not isinstance(labels, dict):
        return {}
    foreground = {
        n: v for n, v in labels.items() if joined_words(str(n)) != (BACKGROUND,) and str(n).lower() != "ignore"
    }
    regions = {n: {x for x in v if isinstance(x, int)} for n, v in foreground.items() if isinstance(v, list)}
    if not regions:
        return labels
    if isinstance(order, list) and len(order) == len(foreground):
        return labels | dict(zip(foreground, order, strict=True))
    values = {n: {v} for n, v in foreground.items() if isinstance(v, int)} | regions
    own = {n: v - set().union(*(o for o in values.values() if o < v)) for n, v in regions.items()}
    return labels | {n: left.pop() if len(left) == 1 else None for n, left in own.items()}


def _numbers_by_name(values: object) -> dict[str, int]:
    """Return names to numbers, also from version 1 of nnU-Net, which maps numbers to names. Duplicate names are omitted."""
    if not isinstance(values, dict):
        return {}
    pairs = [(k, v) if NUMBER.fullmatch(str(v)) else (v, k) for k, v in values.items()]
    numbered = [(str(n).strip(), int(str(number))) for n, number in pairs if NUMBER.fullmatch(str(number))]
    names = [name.lower() for name, _ in numbered]
    return {name: number for name, number in numbered if names.count(name.lower()) == 1}
