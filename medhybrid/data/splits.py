"""Folds: training and validation cases, with all scans of a subject on the same side."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import DataConfig
from medhybrid.data.channels import IMAGE_SUFFIX
from medhybrid.data.layouts import Case, Note
from medhybrid.data.layouts.case import read_json
from medhybrid.data.layouts.parts import part_of
from medhybrid.errors import DataError, reason_of
from medhybrid.names import printable_path
from medhybrid.remote import local_copy

SPLITS = DataConfig.model_fields["splits"].default
NNUNET_SPLITS = "splits_final.json"

SHOWN = 5
"""Number of names in a message; further names are only counted."""


class Fold(BaseModel):
    """Training and validation cases of a fold, by name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    train: tuple[str, ...]
    validation: tuple[str, ...]

    def inner(
        self,
        part: int,
        subjects: Mapping[str, str],
        n_parts: int,
        seed: int,
        unlabelled: Mapping[str, str] | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> Fold:
        """Return an inner validation split: the training cases, divided into training and validation cases by subject.

        Parameters
        ----------
        part : int
            Part of the subjects that validates.
        subjects : mapping
            Case to subject. Other cases are excluded.
        n_parts : int
            Number of parts.
        seed : int
            Seed for the division.
        unlabelled : mapping, optional
            Case to subject for cases without a mask. They train, unless their subject validates.
        kinds : mapping, optional
            Subject to its labels, for partly labelled cases; see `make_folds`.

        Raises
        ------
        DataError
            If the training cases have fewer than two subjects, or the part does not exist.
        """
        groups = sorted({subjects[name] for name in self.train if name in subjects})
        n_parts = min(n_parts, len(groups))
        if n_parts < 2:
            raise DataError(
                "the inner validation split is not possible",
                expected="training cases of at least two subjects",
                found=str(len(groups)),
                remedy="add subjects; if the cases are of different subjects, correct data.subject_pattern",
            )
        if not 0 <= part < n_parts:
            raise DataError(f"training.inner_fold {part} does not exist", expected=f"0 to {n_parts - 1}")
        part_of = _deal({g: (kinds or {}).get(g, "") for g in groups}, n_parts, seed)
        chosen = {g for g in groups if part_of[g] == part}
        names, others = [name for name in self.train if name in subjects], unlabelled or {}
        return Fold(
            train=tuple(n for n in names if subjects[n] not in chosen)
            + tuple(n for n, subject in others.items() if subject not in chosen),
            validation=tuple(n for n in names if subjects[n] in chosen),
        )

    def limited(self, n: int, seed: int) -> Fold:
        """Limit the fold to `n` training cases. Those for a smaller `n` are a subset of those for a larger one."""
        if n >= len(self.train):
            return self
        order = np.random.default_rng(seed).permutation(len(self.train))[:n]
        return Fold(train=tuple(self.train[i] for i in sorted(order)), validation=self.validation)


def make_folds(cases: Sequence[Case], n_folds: int, seed: int) -> list[Fold]:
    """Draw folds by subject. Each subject with a mask validates in exactly one fold; subjects without masks always train.

    The folds of a dataset are therefore the same with and without reading its masks. Partly labelled subjects with the same
    labels are spread over the folds, so that each label can be learnt and validated in each fold if it has enough subjects. The
    cases of a single subject all train, and none validates.
    """
    subjects = sorted({c.subject for c in cases if c.is_labelled} or {c.subject for c in cases})
    if len(subjects) < 2:
        return [Fold(train=tuple(c.name for c in cases), validation=())]
    n_folds = min(n_folds, len(subjects))
    kinds = kinds_of_subjects({c.name: (c.subject, c.annotated) for c in cases})
    fold_of = _deal({s: kinds.get(s, "") for s in subjects}, n_folds, seed)
    return [
        Fold(
            train=tuple(c.name for c in cases if fold_of.get(c.subject) != k),
            validation=tuple(c.name for c in cases if fold_of.get(c.subject) == k),
        )
        for k in range(n_folds)
    ]


def kinds_of_subjects(cases: Mapping[str, tuple[str, Sequence[str] | None]]) -> dict[str, str]:
    """Return a text of the labels of each subject that has partly labelled cases.

    Parameters
    ----------
    cases : mapping
        Case to its subject and its labels; None for all labels.
    """
    labels: dict[str, set[str]] = {}
    for subject, annotated in cases.values():
        if annotated is not None:
            labels.setdefault(subject, set()).update(annotated)
    return {subject: "\n".join(sorted(found)) for subject, found in labels.items()}


def _deal(kinds: Mapping[str, str], n_parts: int, seed: int) -> dict[str, int]:
    """Return the part of each subject, in random order; subjects of the same kind are spread evenly over the parts."""
    rng = np.random.default_rng(seed)
    dealt: list[str] = []
    for kind in sorted(set(kinds.values())):
        alike = sorted(s for s, k in kinds.items() if k == kind)
        dealt += [alike[i] for i in rng.permutation(len(alike))]
    return {subject: k % n_parts for k, subject in enumerate(dealt)}


def load_folds(config: DataConfig, cases: Sequence[Case]) -> tuple[list[Fold], str]:
    """Load the folds of a dataset from its file of folds or list of cases, or draw them; also return their origin.

    Raises
    ------
    DataError
        If the file is damaged, a subject is on both sides of a fold, or a side of a fold has no case of the dataset.
    """
    path = splits_file(config)
    if path is not None:
        folds = with_names_of(read_folds(path), [c.name for c in cases])
        check_folds(folds, cases, str(path))
        return folds, path.name
    if any(c.fold is not None for c in cases):
        folds = _listed_folds(cases)
        check_folds(folds, cases, "the folds in the list of cases")
        return folds, "from the list of cases"
    return make_folds(cases, config.n_folds, config.split_seed), f"drawn with seed {config.split_seed}"


def are_folds_drawn(config: DataConfig, cases: Sequence[Case]) -> bool:
    """Return whether a dataset has neither a file of folds nor folds in its list of cases."""
    return splits_file(config) is None and all(c.fold is None for c in cases)


def with_names_of(folds: Sequence[Fold], cases: Sequence[str]) -> list[Fold]:
    """Return folds with the names of cases as the dataset spells them."""
    known = {_normalise(c): c for c in cases}
    return [Fold(train=_named_alike(f.train, known), validation=_named_alike(f.validation, known)) for f in folds]


def _named_alike(names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names without duplicates, in the Unicode form of the case names; those of files are without suffix."""
    return tuple(dict.fromkeys(known.get(_normalise(n)) or known.get(_normalise(_stem_of(n)), n) for n in names))


def _stem_of(name: str) -> str:
    return IMAGE_SUFFIX.sub("", name.replace("\\", "/").rpartition("/")[2])


def _normalise(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def splits_file(config: DataConfig) -> Path | None:
    """Return the path of a dataset's file of folds; None if folds are to be drawn.

    Raises
    ------
    DataError
        If the file of the config does not exist. Only the file of the default name may be absent.
    """
    if not config.splits:
        return None
    path = local_copy(config.root or ".") / config.splits
    if path.is_file():
        return path
    if os.path.lexists(path) or config.splits != SPLITS:
        link = f"a broken link to {printable_path(os.readlink(path))}" if path.is_symlink() else ""
        raise DataError(
            f"data.splits={printable_path(config.splits)} is not a file of folds",
            expected=f"a file {printable_path(path)}",
            found=link or ("a folder or special file" if path.exists() else "no such file"),
            remedy="correct the name, or set data.splits=null to draw folds",
        )
    return None


def _notes_on_files(config: DataConfig) -> list[Note]:
    """Return notes on duplicate names in the file of folds, and on an unused file of folds of nnU-Net."""
    path = splits_file(config)
    if path is not None:
        sides = [side for f in read_folds(path) for side in (f.train, f.validation)]
        doubled = sorted({n for side in sides for n, count in Counter(map(_normalise, side)).items() if count > 1})
        message = f"{len(doubled)} names are duplicates on a side of a fold; each is used once"
        return [Note(path.name, message, _shown(doubled))] if doubled else []
    if config.splits != SPLITS or not (local_copy(config.root or ".") / NNUNET_SPLITS).is_file():
        return []
    return [
        Note(NNUNET_SPLITS, "the file of folds is not used", "", f"set data.splits={NNUNET_SPLITS} to use its folds")
    ]


def read_folds(path: Path) -> list[Fold]:
    """Read the folds of a file: a list of folds, folds by name, or one fold.

    Cases for testing are on no side, or validate if no others do.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    try:
        listed = read_json(path)
        if isinstance(listed, dict):
            is_fold = any(isinstance(names, list) for names in listed.values())
            listed = [listed] if is_fold else [f for f in listed.values() if isinstance(f, dict)]
        if not listed:
            raise ValueError("an empty list")
        return [_fold_of({part_of(k) or k: names for k, names in f.items()}) for f in listed]
    except (DataError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(
            f"{path} is not a valid file of folds",
            expected='[{"train": [...], "validation": [...]}, ...]',
            found=reason_of(error),
        ) from error


def _fold_of(sides: Mapping[str, Sequence[str]]) -> Fold:
    train, validation = sides["train"], sides.get("validation") or sides["test" if "test" in sides else "validation"]
    if any(isinstance(names, str | Mapping) for names in (train, validation)):
        raise TypeError("sides of a fold that are no lists of names")
    return Fold(train=tuple(train), validation=tuple(validation))


def _listed_folds(cases: Sequence[Case]) -> list[Fold]:
    """Return the folds of the list of cases: those with a fold's number validate, the others train.

    Raises
    ------
    DataError
        If the numbers do not start at 0 or have a gap: `training.fold` would be another fold than in the list.
    """
    numbers = sorted({c.fold for c in cases if c.fold is not None and c.fold >= 0})
    if numbers and numbers != list(range(len(numbers))):
        raise DataError(
            "the folds in the list of cases are not numbered from 0, as training.fold is",
            expected=f"the numbers 0 to {len(numbers) - 1}, each with a usable case",
            found=_shown([str(n) for n in numbers]),
            remedy="number the folds from 0, without a gap",
        )
    return [
        Fold(
            train=tuple(c.name for c in cases if c.fold != k),
            validation=tuple(c.name for c in cases if c.fold == k),
        )
        for k in numbers
    ]


def notes_on_folds(
    folds: Sequence[Fold], cases: Sequence[Case], source: str, config: DataConfig | None = None
) -> list[Note]:
    """Return notes on names in folds that are not cases of the dataset, and on cases without a fold."""
    known = {c.name for c in cases}
    named = {n for fold in folds for n in (*fold.train, *fold.validation)}
    notes = [] if config is None else _notes_on_files(config)
    if unknown := sorted(named - known):
        notes.append(
            Note(
                source,
                f"{len(unknown)} names in folds are not cases of the dataset and are skipped",
                _shown(unknown),
                "correct the names, or add the cases",
            )
        )
    if not any(f.validation for f in folds):
        message = f"{len(cases)} cases of one subject: all train and none validates, so the model is not scored"
        remedy = "add a second subject; if the cases are of several subjects, correct data.subject_pattern"
        notes.append(Note(source, message, remedy=remedy))
    if unnamed := sorted(known - named):
        notes.append(Note(source, f"{len(unnamed)} cases are not in any fold and are not used", _shown(unnamed)))
    return notes


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_folds(folds: Sequence[Fold], cases: Sequence[Case], source: str) -> None:
    """Raise `DataError` if a subject is on both sides of a fold, or a side has no case of the dataset."""
    subject = {c.name: c.subject for c in cases}
    for k, fold in enumerate(folds):
        if not fold.train or not fold.validation:
            raise DataError(f"{source}: fold {k} has no cases for training or validation")
        for side, names in (("train", fold.train), ("validation", fold.validation)):
            if not any(n in subject for n in names):
                raise DataError(
                    f"{source}: none of the names under {side} of fold {k} is a case of the dataset",
                    expected=_shown(sorted(subject)),
                    found=_shown(names),
                    remedy="correct the names",
                )
        train = {subject.get(n, n) for n in fold.train}
        both = sorted(train & {subject.get(n, n) for n in fold.validation})
        if both:
            raise DataError(
                f"{source}: fold {k} has the same subjects in training and validation",
                expected="all cases of a subject on one side",
                found=", ".join(both[:5]),
                remedy="correct the folds, or the subjects (data.subject_pattern, or the column subject)",
            )
