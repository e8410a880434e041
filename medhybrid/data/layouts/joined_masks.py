"""DICOM masks of an image in several files: a SEG or RTSTRUCT for each organ."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medhybrid.data.layouts.case import Files
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.data.sides import LEFT, RIGHT, WORD
from medhybrid.errors import DataError, MedHybridError
from medhybrid.names import printable_path
from medhybrid.scans import ScanEntry
from medhybrid.scans.dicom.mask_owner import series_drawn_on
from medhybrid.scans.dicom.references import KINDS, reference_kind, reference_names
from medhybrid.scans.walk import visible_files

MIN_PLURAL = 3
"""Length of a word above which an `s` at its end may be that of a plural."""


def join_masks(masks: Sequence[ScanEntry]) -> list[ScanEntry]:
    """Return masks, with the SEG, or the RTSTRUCT, that refer to the same series and have different segments as one entry.

    Others may be those of several readers, and stay separate: see `are_parts`.
    """
    groups: dict[tuple[object, ...], list[ScanEntry]] = {}
    for entry in masks:
        groups.setdefault((entry.modality, *_series_of(entry.paths)), []).append(entry)
    found: list[ScanEntry] = []
    for (modality, *series), members in groups.items():
        paths = tuple(sorted({p for m in members for p in m.paths}))
        if modality in KINDS and series and len(members) > 1 and are_parts(paths):
            found.append(replace(members[0], paths=paths))
        else:
            found += members
    return found


def are_parts(paths: Sequence[Path]) -> bool:
    """Return whether each of several SEG or RTSTRUCT has segments of other structures, so that together they are one mask.

    Names that share a word, other than those of the two sides, may be of one structure: `GTV_JS` and `GTV_MK`.
    """
    seen: list[tuple[frozenset[str], frozenset[str]]] = []
    for path in paths:
        try:
            own = [_words(n) for n in reference_names(path)]
        except MedHybridError:
            return False
        if not own or any(_are_alike(a, b) for a in own for b in seen):
            return False
        seen += own
    return True


def _words(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the words for a side in a name, and its other words without numbers."""
    words = {_singular(w.casefold()) for w in WORD.findall(name) if not w.isdecimal()}
    sides = {"left" for w in words & {*LEFT}} | {"right" for w in words & {*RIGHT}}
    return frozenset(sides), frozenset(words - {*LEFT, *RIGHT}) or frozenset({""})


def _singular(word: str) -> str:
    """Return a word in one spelling, without the `s` of a plural: `tumours` is `tumor`."""
    return joined_words(word.removesuffix("s") if len(word) > MIN_PLURAL else word)[0]


def _are_alike(a: tuple[frozenset[str], frozenset[str]], b: tuple[frozenset[str], frozenset[str]]) -> bool:
    are_two_sides = bool(a[0]) and bool(b[0]) and a[0] != b[0]
    return bool(a[1] & b[1]) and not are_two_sides


def _series_of(paths: Sequence[Path]) -> list[str]:
    """Return the series to which all of these files refer; empty if they differ, or refer to none."""
    found: list[set[str]] = []
    for path in paths:
        with suppress(MedHybridError):
            found.append(series_drawn_on(path) - {""})
    return sorted(found[0]) if len(found) == len(paths) and all(f == found[0] for f in found) else []


def references_of(mask: Files, case: str) -> tuple[Path, ...]:
    """Return the SEG or RTSTRUCT files of a mask, also if it is a folder with nothing else; empty for a mask of another kind.

    Raises
    ------
    DataError
        If there are several that are not parts of one mask.
    """
    if mask.names:
        return ()
    paths = mask.paths
    if len(paths) == 1 and paths[0].is_dir():
        paths = tuple(visible_files(paths[0]))
    if not paths or not all(p.is_file() and reference_kind(p) for p in paths):
        return ()
    names = [joined_words(n) for p in paths for n in dict.fromkeys(reference_names(p))] if len(paths) > 1 else []
    if len(set(names)) < len(names):
        raise DataError(
            f"case {case}: its mask has several files, which may be of several readers",
            expected="one DICOM SEG or RTSTRUCT, or several that have different segments",
            found=", ".join(printable_path(p.name) for p in paths[:4]),
            remedy="give the path of the right file",
        )
    return paths
