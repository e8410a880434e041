"""What a dataset's own file calls its labels and channels, compared with the config: by number, they would be exchanged."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medhybrid.config import DataConfig
from medhybrid.data.channel_words import names_channel
from medhybrid.data.layouts.case import read_json
from medhybrid.errors import DataError
from medhybrid.names import printable_path

NUMBER = re.compile("[0-9]{1,9}")
"""The value of a label, or the place of a channel: other digits, such as circled ones, are text."""

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+|[^\w\s.\-]")
BACKGROUND = "background"


def refuse_contradictions(path: Path, config: DataConfig) -> None:
    """Raise `DataError` where the dataset's own file gives a label or channel of the config another value or place.

    Joined by value or number, they would be learnt under the name of another.

    Parameters
    ----------
    path : Path
        The file, which may be absent.
    """
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict):
        return
    labels = _numbers_by_name(_with_regions(values.get("labels"), values.get("regions_class_order")))
    name = printable_path(path.name)
    ignored = {value for label, value in labels.items() if label.lower() == "ignore"}
    if found := [f"{n}: {v}" for n, v in config.labels.items() if v in ignored]:
        raise DataError(
            "a label of the config is one that the dataset ignores",
            expected=f"labels without the value that {name} names `ignore`",
            found=", ".join(found),
            remedy="take it out of data.labels; masks that hold the value cannot be used yet",
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
                remedy=f"give the {kind} the values of {name}",
            )


def _value_of(label: str, theirs: Mapping[str, int]) -> int | None:
    """Return the value that a dataset gives a label: case, separators and the order of words do not count; None if unknown."""
    for form in (_joined, _words):
        alike = {value for name, value in theirs.items() if form(name) == form(label)}
        if alike:
            return alike.pop() if len(alike) == 1 else None
    return None


def _joined(name: str) -> tuple[str, ...]:
    return ("".join(_in_order(name)),)


def _words(name: str) -> tuple[str, ...]:
    return tuple(sorted(_in_order(name)))


def _in_order(name: str) -> list[str]:
    found = [w.casefold() for w in WORD.findall(unicodedata.normalize("NFKC", name))]
    return [w.replace("tumour", "tumor").replace("oedema", "edema") for w in found]


def _place_of(channel: str, place: int, theirs: Mapping[str, int]) -> int:
    """Return the place that a dataset gives a channel, compared by words (T1 and T1w are one); its own where it tells none."""
    name = channel.strip().lower()
    if name in theirs:
        return theirs[name]
    alike = [
        number for other, number in theirs.items() if names_channel(other, channel) or names_channel(channel, other)
    ]
    return alike[0] if alike and place not in alike else place


def _with_regions(labels: object, order: object) -> dict[Any, Any]:
    """Give regions, which are lists of values, the value that only they have: by `regions_class_order`, or as they are nested.

    Labels in a list that begins with the background are numbered from 0.
    """
    if isinstance(labels, list) and labels and _joined(str(labels[0])) == (BACKGROUND,):
        labels = dict(enumerate(map(str, labels)))
    if not isinstance(labels, dict):
        return {}
    foreground = {n: v for n, v in labels.items() if _joined(str(n)) != (BACKGROUND,) and str(n).lower() != "ignore"}
    regions = {n: {x for x in v if isinstance(x, int)} for n, v in foreground.items() if isinstance(v, list)}
    if not regions:
        return labels
    if isinstance(order, list) and len(order) == len(foreground):
        return labels | dict(zip(foreground, order, strict=True))
    values = {n: {v} for n, v in foreground.items() if isinstance(v, int)} | regions
    own = {n: v - set().union(*(o for o in values.values() if o < v)) for n, v in regions.items()}
    return labels | {n: left.pop() if len(left) == 1 else None for n, left in own.items()}


def _numbers_by_name(values: object) -> dict[str, int]:
    """Return names to numbers; version 1 of nnU-Net maps numbers to names. Names given twice are left out."""
    if not isinstance(values, dict):
        return {}
    pairs = [(k, v) if NUMBER.fullmatch(str(v)) else (v, k) for k, v in values.items()]
    numbered = [(str(n).strip(), int(str(number))) for n, number in pairs if NUMBER.fullmatch(str(number))]
    names = [name.lower() for name, _ in numbered]
    return {name: number for name, number in numbered if names.count(name.lower()) == 1}
