"""Splitting of frames at repeated positions into volumes by their headers, or refusal with the reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.interleaved import KIND_TRAITS
from medhybrid.scans.dicom.moments import unwrapped

TRAIT_ORDER = ("stack", "type", "echo", "inversion", "b", "time", "acquisition", "trigger", "clock")
"""Order in which traits are tried to separate volumes. Other traits follow."""

TIMES = ("trigger", "time", "offset", "clock")
"""Traits that order the frames of one position, if each position was acquired separately."""

NO_DIFFERENCE = (
    "ContentDate",
    "ContentTime",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "InstanceNumber",
    "LargestImagePixelValue",
    "SmallestImagePixelValue",
    "WindowCenter",
    "WindowWidth",
)
"""Attributes that do not identify the volume of a frame."""

MAX_NAMED = 6

ABSENT = "none"
"""Name of the volume whose frames have no value of a trait."""

MIN_SLICES = 3
"""Number of slices from which on any attribute may separate volumes: it cannot fit so many positions by chance."""

MAX_TRIED = 20
"""Largest number of attributes that are tried."""


def tell_apart(frames: Sequence[Frame], slots: np.ndarray, *, series: str) -> dict[str, list[Frame]]:
    """Split frames at repeated positions into volumes, by name.

    Parameters
    ----------
    slots : (N,) int ndarray
        Index of each frame's position along the normal. Some positions occur several times.

    Raises
    ------
    SeriesError
        If the headers do not separate the volumes, or a volume lacks slices.
    """
    frames = _across_midnight(frames)
    repeats, n_positions = int(np.bincount(slots).max()), int(slots.max()) + 1
    parts = _by_traits(frames, slots) or _by_runs(frames, slots, repeats)
    if parts is None:
        _refuse_incomplete(frames, slots, series)
        parts = _by_ranks(frames, slots, repeats) or _by_attributes(frames, slots) or _by_files(frames, slots)
    if n_positions == 1:
        raise SeriesError(
            f"{series}: {len(frames)} images of a single slice, such as the times of a cine",
            code="multi_volume",
            series=series,
            expected="at least two slice positions",
            found="1",
            remedy="export each image as a separate series, or convert them to PNG",
        )
    if parts is None or any(len(p) < 2 for p in parts.values()):
        whole = len(frames) == repeats * n_positions
        raise SeriesError(
            f"{series}: {len(frames)} images at {n_positions} slice positions cannot be separated by their headers",
            code="multi_volume" if whole else "duplicate_slice",
            series=series,
            expected="one image per position",
            found=_differences(frames, slots),
            remedy="split time points, echoes or repeats into separate series",
        )
    return parts


def _across_midnight(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames with times after midnight a day later, if their headers have no dates."""
    try:
        seconds = [float(f.traits.get("clock", "")) for f in frames]
    except ValueError:
        return frames
    moved = unwrapped(seconds)
    if moved == seconds:
        return frames
    return [replace(f, traits={**f.traits, "clock": f"{s:.6f}"}) for f, s in zip(frames, moved, strict=True)]


def _by_traits(frames: Sequence[Frame], slots: np.ndarray) -> dict[str, list[Frame]] | None:
    """Split frames by the usual traits, or else by any trait."""
    names = [t for t in trait_names(frames) if len({f.traits.get(t, "") for f in frames}) > 1]
    usual = [t for t in names if t in TRAIT_ORDER]
    return (
        _by_some_of(usual, frames, slots)
        or _by_some_of(names, frames, slots)
        or _by_some_of(names, frames, slots, with_empty=True)
    )


def trait_names(frames: Sequence[Frame]) -> list[str]:
    """Return the names of all traits, with the usual ones first."""
    return list(dict.fromkeys([*TRAIT_ORDER, *(t for f in frames for t in f.traits)]))


def _by_some_of(
    varying: Sequence[str], frames: Sequence[Frame], slots: np.ndarray, *, with_empty: bool = False
) -> dict[str, list[Frame]] | None:
    """Split frames by the first combination of one, two or three traits that gives complete volumes.

    With `with_empty`, frames without a trait may be a volume of at least three slices, such as those without contrast agent.
    """
    for n in (1, 2, 3):
        for chosen in combinations(varying, n):
            parts: dict[Hashable, list[int]] = {}
            for i, f in enumerate(frames):
                parts.setdefault(tuple(f.traits.get(t, "") for t in chosen), []).append(i)
            has_empty = any(any(not v for v in key) for key in parts)  # type: ignore[attr-defined]
            if len(parts) < 2 or (has_empty and not (with_empty and slots.max() + 1 >= MIN_SLICES)):
                continue
            if all(len(p) == slots.max() + 1 == len(set(slots[p])) for p in parts.values()):
                names = part_names(chosen, sorted(parts, key=sort_key))
                return {names[key]: [frames[i] for i in parts[key]] for key in sorted(parts, key=sort_key)}
    return None


def sort_key(key: Hashable) -> tuple[tuple[int, float, str], ...]:
    """Return a key that sorts numbers by value, and texts alphabetically, after an empty value."""

    def one(v: str) -> tuple[int, float, str]:
        if not v:
            return (-1, 0.0, "")
        try:
            return (0, float(v), "")
        except ValueError:
            return (1, 0.0, v)

    return tuple(one(v) for v in key)  # type: ignore[attr-defined]


def part_names(chosen: Sequence[str], keys: Sequence[Hashable]) -> dict[Hashable, str]:
    """Return the volumes' names from traits and numbers. Free text of headers is never used: it may identify a patient."""
    columns = list(zip(*keys, strict=True))
    numbered = [sorted(set(c), key=lambda v: sort_key((v,))) for c in columns]
    names = {}
    for key in keys:
        words = []
        for trait, value, known in zip(chosen, key, numbered, strict=True):  # type: ignore[call-overload]
            shown = _show_value(trait, value, known)
            words.append(f"{'time' if trait == 'clock' else trait}_{shown}")
        names[key] = "_".join(words)
    return names


def _show_value(trait: str, value: str, known: Sequence[str]) -> str:
    """Return a unique b-value itself, `none` for an absent value, or else the number of the value among the known ones."""
    if not value:
        return ABSENT
    given = [v for v in known if v]
    try:
        weightings = [f"{float(v):g}" for v in given] if trait == "b" else []
    except ValueError:
        weightings = []
    is_clear = len(set(weightings)) == len(given)
    return weightings[given.index(value)] if is_clear else str(given.index(value) + 1)


def _by_runs(frames: Sequence[Frame], slots: np.ndarray, repeats: int) -> dict[str, list[Frame]] | None:
    """Split volumes that were acquired consecutively: each run of instance numbers has every position once, in one order."""
    numbers = [f.number for f in frames]
    n = int(slots.max()) + 1
    if None in numbers or len(set(numbers)) != len(frames) or len(frames) != repeats * n:
        return None
    order = sorted(range(len(frames)), key=lambda i: numbers[i] or 0)
    runs = [order[i : i + n] for i in range(0, len(order), n)]
    first = slots[runs[0]].tolist()
    if any(slots[run].tolist() != first for run in runs) or sorted(first) != list(range(n)):
        return None
    return {f"time_{i}": [frames[j] for j in run] for i, run in enumerate(runs, start=1)}


def _by_ranks(frames: Sequence[Frame], slots: np.ndarray, repeats: int) -> dict[str, list[Frame]] | None:
    """Split phases of separately acquired positions by the order of their times. The times differ between positions."""
    places = [[f for f, at in zip(frames, slots, strict=True) if at == slot] for slot in range(int(slots.max()) + 1)]
    if any(len(p) != repeats or any(_varies(t, p) for t in KIND_TRAITS) for p in places):
        return None
    for trait in TIMES:
        try:
            times = np.array([float(f.traits.get(trait, "")) for f in frames])
        except ValueError:
            continue
        parts: dict[str, list[Frame]] = {f"phase_{n}": [] for n in range(1, repeats + 1)}
        for slot in range(int(slots.max()) + 1):
            here = sorted(np.flatnonzero(slots == slot).tolist(), key=lambda i: times[i])
            numbers = [n for i in here if (n := frames[i].number) is not None]
            if len(set(times[here])) < repeats or numbers != sorted(numbers):
                break
            for part, i in zip(parts.values(), here, strict=True):
                part.append(frames[i])
        else:
            return parts
    return None


def _by_attributes(frames: Sequence[Frame], slots: np.ndarray) -> dict[str, list[Frame]] | None:
    """Split frames by the first other attribute of their headers that gives complete volumes of at least three slices."""
    most, n_positions = int(np.bincount(slots).argmax()), int(slots.max()) + 1
    here = [f for f, slot in zip(frames, slots, strict=True) if slot == most][:2]
    if n_positions < MIN_SLICES or len(frames) % n_positions:
        return None
    try:
        read = cache(_read_file)
        one, other = (_attributes_of(f, read) for f in here)
        differing = list(dict.fromkeys([*_differing(one, other), "ContentTime"]))[:MAX_TRIED]
        of_headers: dict[int, dict[str, str]] = {}
        described = []
        for f in frames:
            header, *groups = _attributes_of(f, read)
            if id(header) not in of_headers:
                of_headers[id(header)] = _first_values([header], differing)
            described.append(of_headers[id(header)] | _first_values(groups, differing))
    except Exception:  # a damaged header: the series is refused with its reason
        return None
    for name in differing:
        parts: dict[str, list[int]] = {}
        for i, values in enumerate(described):
            parts.setdefault(values.get(name, ""), []).append(i)
        if (
            "" not in parts
            and len(parts) > 1
            and all(len(p) == n_positions == len(set(slots[p])) for p in parts.values())
        ):
            ordered = sorted(parts, key=lambda v: sort_key((v,)))
            return {f"volume_{n}": [frames[i] for i in parts[v]] for n, v in enumerate(ordered, start=1)}
    return None


def _by_files(frames: Sequence[Frame], slots: np.ndarray) -> dict[str, list[Frame]] | None:
    """Split frames by their files, if each file has every position once, in the order of the instance numbers."""
    files: dict[Path, list[int]] = {}
    for i, f in enumerate(frames):
        files.setdefault(f.path, []).append(i)
    numbers = {path: frames[found[0]].number for path, found in files.items()}
    n_positions = int(slots.max()) + 1
    are_whole = all(len(found) == n_positions == len(set(slots[found])) for found in files.values())
    if n_positions < 2 or not are_whole or None in numbers.values() or len(set(numbers.values())) < len(files):
        return None
    ordered = sorted(files, key=lambda path: numbers[path] or 0)
    return {f"volume_{n}": [frames[i] for i in files[path]] for n, path in enumerate(ordered, start=1)}


def _first_values(datasets: Sequence[Any], names: Collection[str]) -> dict[str, str]:
    """Return the first value of each attribute in data sets, at any depth."""
    found: dict[str, str] = {}
    for dataset in datasets:
        for element in dataset.iterall():
            name = element.keyword or f"({element.tag.group:04x},{element.tag.element:04x})"
            if name in names:
                found.setdefault(name, str(element.value))
    return found


def _varies(trait: str, frames: Sequence[Frame]) -> bool:
    return len({f.traits.get(trait, "") for f in frames}) > 1


def _refuse_incomplete(frames: Sequence[Frame], slots: np.ndarray, series: str) -> None:
    """Refuse volumes that a trait separates, if some of them lack slices."""
    n_positions = int(slots.max()) + 1
    for trait in (t for t in trait_names(frames) if _varies(t, frames)):
        parts: dict[Hashable, list[int]] = {}
        for i, f in enumerate(frames):
            parts.setdefault((f.traits.get(trait, ""),), []).append(i)
        sizes = [len(p) for p in parts.values()]
        is_apart = ("",) not in parts and all(len(set(slots[p])) == len(p) for p in parts.values())
        if not is_apart or max(sizes) < n_positions or not n_positions / 2 < min(sizes) < n_positions:
            continue
        names = part_names((trait,), sorted(parts, key=sort_key))
        short = min(parts, key=lambda key: len(parts[key]))
        missing = sorted(set(range(n_positions)) - set(slots[parts[short]].tolist()))
        beside = next(f for i, f in enumerate(frames) if slots[i] == missing[0])
        raise SeriesError(
            f"{series}: a slice is missing in one of {len(parts)} volumes",
            code="missing_slice",
            series=series,
            expected=f"{n_positions} slices in each",
            found=f"{len(parts[short])} in {names[short]}; the first is missing at the position of {beside.name}",
            remedy=f"export the complete series again, or remove all slices of {names[short]}",
        )


def _differences(frames: Sequence[Frame], slots: np.ndarray) -> str:
    differs = [
        f"{t} ({len({f.traits.get(t, '') for f in frames})} values)" for t in trait_names(frames) if _varies(t, frames)
    ]
    if differs:
        return "different values of " + ", ".join(differs)
    most = int(np.bincount(slots).argmax())
    one, other = [f for f, slot in zip(frames, slots, strict=True) if slot == most][:2]
    try:
        names = list(dict.fromkeys(_differing(*(_attributes_of(f, _read_file) for f in (one, other)))))
    except Exception:  # the series is refused in any case; a damaged header must not hide the reason
        return "no attribute that separates them"
    if not names:
        return "no attribute that differs"
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"attributes that differ at one position, but do not separate volumes: {', '.join(names[:MAX_NAMED])}{more}"


def _read_file(path: Path) -> tuple[Any, Any]:
    """Read the header of a file without functional groups of frames, and these groups, or None."""
    import pydicom

    header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups:
        del header.PerFrameFunctionalGroupsSequence
    return header, groups


def _attributes_of(frame: Frame, read: Callable[[Path], tuple[Any, Any]]) -> list[Any]:
    """Return the data sets that describe a frame: the header, and its functional groups in an enhanced file."""
    header, groups = read(Path(frame.path))
    return [header, groups[frame.index]] if groups else [header]


def _differing(one: Sequence[Any], other: Sequence[Any]) -> Iterator[str]:
    """Yield the names of the attributes that differ between data sets, at any depth."""
    if len(one) != len(other):
        yield "the number of items"
    for a, b in zip(one, other, strict=False):
        for tag in sorted({*a.keys(), *b.keys()}):
            known = a if tag in a else b
            element = known[tag]
            name = element.keyword or f"({tag.group:04x},{tag.element:04x})"
            if element.VR == "UI" or name in NO_DIFFERENCE:
                continue
            if tag not in a or tag not in b:
                yield name
            elif element.VR == "SQ":
                yield from _differing(a[tag].value, b[tag].value)
            elif a[tag].value != b[tag].value:
                yield name
