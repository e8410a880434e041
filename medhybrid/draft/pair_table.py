"""Table of cases for pairs of images and masks, with the subject, part and fold of each case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.draft.assignments import Assignments, find_assignments
from medhybrid.draft.pairs import Pair, Pairs
from medhybrid.draft.subjects import (
    SUBJECT_WORD,
    are_coarser,
    named_subject_folders,
    subject_pattern,
    subjects_of_folders,
)
from medhybrid.draft.words import name_without_kind, stem_of

PART_WORDS = re.compile(r"(?<![a-z0-9])(train|training|tr|val|valid|validation|dev|eval|evaluation)_")
"""Words of folders for training and validation in the names of cases."""

NO_CHANNEL = re.compile(
    r"^(\d+|copy|backup|old|new|aug\w*|follow\w*|baseline|visit\w*|ses\w*|tp\d+)$|copy|backup", re.IGNORECASE
)
"""Names of optional channels that look like those of visits or copies."""


@dataclass(frozen=True, slots=True)
class PairTable:
    """Lines of a table of cases, with the names of the columns first.

    Attributes
    ----------
    optional : frozenset of str
        Channels that some cases lack.
    subject_reason : str
        Origin of the subjects.
    """

    lines: list[list[str]]
    channels: tuple[str, ...]
    optional: frozenset[str]
    subject_reason: str
    remarks: tuple[str, ...]


def table_of_pairs(root: Path, pairs: Pairs) -> PairTable:
    """Return the table of pairs.

    Subjects are those of the dataset's table, of the names of the cases, or of folders. The cases of a subject in both parts
    make the parts useless: these are then not used.
    """
    order = tuple(sorted(pairs.channels, key=lambda c: (-pairs.channels[c], c)))
    channels = unique_names(tuple(re.sub(r"[^\w.+-]+", "_", c).strip("_") or "image" for c in order))
    cases = [p.case for p in pairs.pairs]
    plain = [PART_WORDS.sub("", c) if any(p.part for p in pairs.pairs) else c for c in cases]
    testing: dict[str, list[Path]] = {}
    for path in pairs.testing:
        testing.setdefault(_name_of_test(path, order), []).append(path)
    tests = list(testing)
    found, of_tests, reason = _subjects(pairs, plain, tests)
    tested = set(of_tests)
    n_shared = sum(s in tested for s in found)
    of_both = (
        f"{n_shared} cases train although an image for testing has their subject by its name: numbers seem to start again "
        "in the folder for testing"
    )
    if 2 * n_shared > len(cases):  # most of the cases: numbers start again, or the parts are visits
        of_tests = [f"test {s}" for s in of_tests]
    have_same_names = any(p.part for p in pairs.pairs) and len(set(plain)) < len(plain)
    others = {
        p.case: set() if have_same_names else _other_names(p) | set(found[i : i + 1]) for i, p in enumerate(pairs.pairs)
    }
    given = find_assignments(root, others)
    remarks = [*given.remarks, *([of_both] if 2 * n_shared > len(cases) else [])]
    if given.subjects and not _are_finer([given.subjects[c] for c in cases], found):
        found = [given.subjects[c] for c in cases]
        reason = f"{len(set(found))} subjects of the dataset's table"
    elif given.subjects:
        remarks.append(f"the subjects of the table divide those of the names: {reason}")
        given.subjects = {}
    parts = {p.case: p.part for p in pairs.pairs}
    if any(parts.values()):
        listed = {c for c, part in given.parts.items() if part == "test"}
        parts = {c: "test" if c in listed else part or "train" for c, part in parts.items()}
        parts, divided = _undivided_parts(parts, plain, found or plain, may_restart=not given.subjects)
        remarks += divided
    elif given.parts:
        listed_parts = {c: given.parts[c] for c in cases}  # the table may have another order
        parts, divided = _undivided_parts(listed_parts, cases, found or cases, may_restart=False)
        remarks += divided
    if given.folds and any(parts.get(c) == "validation" and int(n) < 0 for c, n in given.folds.items()):
        given.folds = {}
        remarks.append("the folds of the table are not used: cases for validation are in none")
    if given.folds:
        parts = {case: "test" if part == "test" else "" for case, part in parts.items()}
    folds, divided = _undivided_folds(given.folds, dict(zip(cases, found or cases, strict=True)))
    remarks += divided
    columns = {
        "subject": _named_by_part(found, cases, parts, given) if found else None,
        "split": [parts[c] or "train" for c in cases] if any(parts.values()) else None,
        "fold": [folds[c] for c in cases] if folds else None,
    }
    if pairs.testing and columns["split"] is None:
        columns["split"] = ["train"] * len(cases)
    used = {name: values for name, values in columns.items() if values is not None and name not in channels}
    lines = [["case", *used, "mask", *channels]]
    for i, pair in enumerate(pairs.pairs):
        files = [str(root / pair.images[c]) if c in pair.images else "" for c in order]
        lines.append([pair.case, *(values[i] for values in used.values()), str(root / pair.mask), *files])
    for i, (name, paths) in enumerate(testing.items()):
        values = {"subject": of_tests[i] if i < len(of_tests) else f"test {name}", "split": "test", "fold": "-1"}
        by_channel = {_channel_in(path, channels): str(root / path) for path in reversed(paths)}
        row = [by_channel.get(c, "") for c in channels]
        lines.append([f"test_{i + 1}_{name}", *(values[c] for c in used), "", *row])
    optional = frozenset(c for c, name in zip(channels, order, strict=True) if pairs.channels[name] < len(cases))
    if len(optional) == len(channels):
        optional = frozenset(channels[1:])
    if doubtful := [c for c in channels if c in optional and NO_CHANNEL.search(c)]:
        remarks.append(f"check the optional channels {', '.join(doubtful)}: their names are those of visits or copies")
    return PairTable(lines, channels, optional, reason, tuple(remarks))


def unique_names(channels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names with numbers where several channels have the same one."""
    plain = [c.strip() or f"channel_{i}" for i, c in enumerate(channels)]
    return tuple(c if plain.count(c) == 1 else f"{c}_{plain[: i + 1].count(c)}" for i, c in enumerate(plain))


def _other_names(pair: Pair) -> set[str]:
    """Return other names of a case: those of its files and folders, with and without words for masks or images."""
    files = [pair.mask, *pair.images.values()]
    names = {stem_of(f) for f in files} | {part for f in files for part in f.parts[:-1]}
    return names | {name_without_kind(n) for n in names}


def _name_of_test(path: Path, channels: Sequence[str]) -> str:
    """Return the name of an image for testing: that of its file, or of its folders if it has only that of a channel."""
    name = _without_channel(name_without_kind(stem_of(path)), channels)
    if re.search(r"\d", name) and name.lower() not in {c.lower() for c in channels}:
        return name
    folders = [f for f in path.parts[:-1] if re.search(r"\d", f)]
    return "_".join(folders) or name


def _channel_in(path: Path, channels: Sequence[str]) -> str:
    """Return the channel whose name a file has at its end; the first one otherwise."""
    return next((c for c in channels if re.search(rf"(?<![a-z0-9]){re.escape(c)}$", stem_of(path), re.I)), channels[0])


def _without_channel(name: str, channels: Sequence[str]) -> str:
    """Return the name of an image without the word of a channel at its end."""
    words = "|".join(re.escape(c) for c in channels if c != "image")
    return re.sub(rf"[\W_]+(?:{words})$", "", name, flags=re.IGNORECASE) if words else name


def _are_finer(subjects: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether subjects divide others, as eyes divide a person, and join none."""
    pairs = set(zip(subjects, others, strict=True)) if others else set()
    return len(pairs) == len(set(subjects)) > len(set(others)) > 0


def _undivided_folds(folds: Mapping[str, str], subjects: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return folds numbered from 0, or none if they divide a subject or there is only one; and a remark."""
    numbers = {case: int(text) for case, text in folds.items()}
    known = sorted({n for n in numbers.values() if n >= 0})
    of_subjects: dict[str, set[int]] = {}
    for case, n in numbers.items():
        of_subjects.setdefault(subjects[case], set()).add(n)
    if divided := sorted(s for s, of in of_subjects.items() if len(of) > 1):
        return {}, [f"the folds of the table are not used: the scans of {divided[0]} are in several"]
    if folds and len(known) < 2:
        return {}, ["the folds of the table are not used: these cases are in one fold only"]
    place = {n: str(i) for i, n in enumerate(known)}
    return {case: place.get(n, "-1") for case, n in numbers.items()}, []


def _subjects(pairs: Pairs, names: Sequence[str], tests: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Return the subjects of the pairs and of the images for testing, or nothing if each case is one; and the reason.

    The names of files count without folders, if they are unique: the scans of a person may be in several folders.
    """
    stems = [name_without_kind(stem_of(p.mask)) for p in pairs.pairs]
    if len(set(stems)) == len(stems) and subject_pattern(stems)[0] is not None:
        names = stems
    if all(n == n.casefold() for n in names):  # names of folders are in lower case
        tests = [t.casefold() for t in tests]
    may_share = 2 * len(set(stems) & set(tests)) <= len(tests)  # otherwise numbers start again
    pattern, reason = subject_pattern(names)
    if pattern is None and tests and may_share:  # the second visits may all be for testing
        joint, _ = subject_pattern([*names, *tests])
        if joint and len({m[1] for n in names if (m := re.search(joint, n))}) == len(names):
            pattern = joint
    of_folders = subjects_of_folders([p.mask for p in pairs.pairs])
    named = named_subject_folders([p.mask for p in pairs.pairs])
    if named is not None and len(set(named)) == len(named):
        of_tests = [m[1].casefold() if (m := SUBJECT_WORD.search(t)) else t for t in tests]
        reason = "each folder is another subject, by its name"
        return (named, of_tests, reason) if may_share and set(named) & set(of_tests) else ([], [], reason)
    if of_folders is not None and (pattern is None or are_coarser(of_folders, names, pattern)):
        return of_folders, [], f"{len(set(of_folders))} folders are the subjects"
    if pattern is None:
        return [], [], reason  # data.subject_pattern can still be set
    found, of_tests = ([m[1] if (m := re.search(pattern, n)) else n for n in of] for of in (names, tests))
    if len(set(found)) == len(found) and not (may_share and set(found) & set(of_tests)):
        return [], [], reason
    return found, of_tests if may_share else [f"test {s}" for s in of_tests], reason


def _named_by_part(
    subjects: Sequence[str], cases: Sequence[str], parts: Mapping[str, str], given: Assignments
) -> list[str]:
    """Return the subjects with the word of their part, if folders name it: numbers may start again in each part."""
    if given.subjects or given.parts:
        return list(subjects)
    return [f"{parts[c]}_{s}".strip("_") for c, s in zip(cases, subjects, strict=True)]


def _undivided_parts(
    parts: Mapping[str, str], names: Sequence[str], subjects: Sequence[str], *, may_restart: bool
) -> tuple[dict[str, str], list[str]]:
    """Return the parts of cases, without them if subjects are in both of training and validation; and a remark.

    If numbers may start again in each part, cases of both may have the same names; otherwise, an equal subject is one person.
    """
    by_part: dict[str, tuple[set[str], set[str]]] = {"train": (set(), set()), "validation": (set(), set())}
    for part, name, subject in zip(parts.values(), names, subjects, strict=True):
        of_cases, of_subjects = by_part.get(part or "train", (set(), set()))
        of_cases.add(name)
        of_subjects.add(subject)
    (cases, own), (other_cases, others) = by_part.values()
    both = sorted(own & others)
    if not both or (may_restart and cases & other_cases):
        return dict(parts), []
    remark = (
        f"the parts for training and validation are not used: {len(both)} subjects are in both, such as {both[0]}; folds are "
        "drawn by subject"
    )
    return {case: "test" if part == "test" else "" for case, part in parts.items()}, [remark]
