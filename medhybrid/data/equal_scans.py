"""Cases whose scans are equal, such as copies under another name: they must not be on both sides of a fold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.checks import Finding
from medhybrid.data.layouts import Case
from medhybrid.data.splits import Fold

SHOWN = 5


def hash_values(image: NDArray[np.generic]) -> str:
    """Return a hash of the shape and the values of an image (C, X, Y, Z); empty if all its channels are constant."""
    if all(channel.min() == channel.max() for channel in image):
        return ""
    digest = hashlib.sha256(str(image.shape).encode())
    for channel in image:
        for part in channel:
            digest.update(np.ascontiguousarray(part, np.float32).tobytes())
    return digest.hexdigest()[:32]


def equal_scans(hashes: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of cases with the same hash; those without one are in no group."""
    groups: dict[str, list[str]] = {}
    for case, found in hashes.items():
        if found:
            groups.setdefault(found, []).append(case)
    return [sorted(names) for names in groups.values() if len(names) > 1]


def join_subjects(cases: Sequence[Case], groups: Sequence[Sequence[str]]) -> list[Case]:
    """Return the cases with one subject for all subjects that share a scan, also over several scans."""
    subjects = {c.name: c.subject for c in cases}
    joined = {s: s for s in subjects.values()}

    def first(subject: str) -> str:
        while joined[subject] != subject:
            subject = joined[subject]
        return subject

    for names in groups:
        found = sorted({first(subjects[n]) for n in names})
        for subject in found[1:]:
            joined[subject] = found[0]
    return [replace(c, subject=first(c.subject)) for c in cases]


def findings_on_equal_scans(
    groups: Sequence[Sequence[str]], subjects: Mapping[str, str], folds: Sequence[Fold], *, are_drawn: bool
) -> list[Finding]:
    """Return a warning on equal scans of different subjects, and one for each fold that has them on both sides.

    Parameters
    ----------
    subjects : mapping
        Case to the subject that the dataset names.
    are_drawn : bool
        Whether the folds were drawn with `join_subjects`.
    """
    apart = [g for g in groups if len({subjects[n] for n in g}) > 1]
    if not apart:
        return []
    shown = "; ".join(", ".join(g[:SHOWN]) for g in apart[:SHOWN])
    found = [
        _finding(
            f"{len(apart)} scans are in several cases of different subjects",
            "each scan once",
            shown,
            "remove the copies; until then, they count as one subject" if are_drawn else "remove the copies",
        )
    ]
    for k, fold in enumerate([] if are_drawn else folds):
        train, validation = set(fold.train), set(fold.validation)
        if both := [g for g in apart if not train.isdisjoint(g) and not validation.isdisjoint(g)]:
            found.append(
                _finding(
                    f"fold {k} validates on {len(both)} scans that also train: its Dice is too high",
                    "each scan on one side of a fold",
                    "; ".join(", ".join(g[:SHOWN]) for g in both[:SHOWN]),
                    "correct the folds",
                )
            )
    return found


def _finding(message: str, expected: str, found: str, remedy: str) -> Finding:
    return Finding(
        code="equal_scans",
        severity="warning",
        where="dataset",
        message=message,
        expected=expected,
        found=found,
        remedy=remedy,
    )
