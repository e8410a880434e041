"""Folds: which cases train and which validate, never two scans of one subject on both sides."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medhybrid.config import DataConfig
from medhybrid.data.layouts import Case, Note
from medhybrid.data.layouts.case import read_json
from medhybrid.errors import DataError
from medhybrid.names import printable_path
from medhybrid.remote import local_copy

SPLITS = DataConfig.model_fields["splits"].default
NNUNET_SPLITS = "splits_final.json"

SHOWN = 5
"""Names in a message; the others are counted."""


class Fold(BaseModel):
    """One fold, by case name."""

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
    ) -> Fold:
        """Of the cases that train, those of one part of their subjects validate and the others train.

        Parameters
        ----------
        subjects : mapping
            Case to subject; cases that it lacks are left out.
        unlabelled : mapping, optional
            Case to subject of those without a mask, which train unless their subject validates.
        """
        groups = sorted({subjects[name] for name in self.train if name in subjects})
        n_parts = min(n_parts, len(groups))
        if n_parts < 2:
            raise DataError("the training cases cannot be parted", expected="two subjects", found=str(len(groups)))
        if not 0 <= part < n_parts:
            raise DataError(f"inner part {part} does not exist", expected=f"0 to {n_parts - 1}")
        order = np.random.default_rng(seed).permutation(len(groups))
        chosen = {groups[i] for k, i in enumerate(order) if k % n_parts == part}
        names, others = [name for name in self.train if name in subjects], unlabelled or {}
        return Fold(
            train=tuple(n for n in names if subjects[n] not in chosen)
            + tuple(n for n, subject in others.items() if subject not in chosen),
            validation=tuple(n for n in names if subjects[n] in chosen),
        )

    def limited(self, n: int, seed: int) -> Fold:
        """At most `n` cases train; those of a smaller number are among those of a larger one."""
        if n >= len(self.train):
            return self
        order = np.random.default_rng(seed).permutation(len(self.train))[:n]
        return Fold(train=tuple(self.train[i] for i in sorted(order)), validation=self.validation)


def make_folds(cases: Sequence[Case], n_folds: int, seed: int) -> list[Fold]:
    """Folds of whole subjects, shuffled by seed, each subject with a mask validating once; what has none trains in each.

    So the folds of scans alone are those of the labelled dataset that they belong to.
    """
    subjects = sorted({c.subject for c in cases if c.is_labelled} or {c.subject for c in cases})
    if len(subjects) < 2:
        raise DataError(
            "folds need at least two subjects",
            found=f"{len(subjects)} in {len(cases)} cases",
            remedy="check data.root and data.layout: medhybrid inspect lists the scans",
        )
    n_folds = min(n_folds, len(subjects))
    order = np.random.default_rng(seed).permutation(len(subjects))
    fold_of = {subjects[i]: k % n_folds for k, i in enumerate(order)}
    return [
        Fold(
            train=tuple(c.name for c in cases if fold_of.get(c.subject) != k),
            validation=tuple(c.name for c in cases if fold_of.get(c.subject) == k),
        )
        for k in range(n_folds)
    ]


def load_folds(config: DataConfig, cases: Sequence[Case]) -> tuple[list[Fold], str]:
    """Return the folds of the dataset's own file, of its list of cases, or made ones; and where they are from.

    Raises
    ------
    DataError
        If the file is damaged, a subject stands on both sides of a fold, or a side of a fold names no case of the dataset.
    """
    path = splits_file(config)
    if path is not None:
        known = {_normalise(c.name): c.name for c in cases}
        folds = [
            Fold(train=_named_alike(f.train, known), validation=_named_alike(f.validation, known))
            for f in _read_folds(path)
        ]
        check_folds(folds, cases, str(path))
        return folds, path.name
    if any(c.fold is not None for c in cases):
        folds = _listed_folds(cases)
        check_folds(folds, cases, "the folds in the list of cases")
        return folds, "as the list of cases has them"
    return make_folds(cases, config.n_folds, config.split_seed), f"made with seed {config.split_seed}"


def _named_alike(names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return each name once, in the Unicode form that its case has."""
    return tuple(dict.fromkeys(known.get(_normalise(n), n) for n in names))


def _normalise(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def splits_file(config: DataConfig) -> Path | None:
    """Return the dataset's own file of folds; None where folds are to be made.

    Raises
    ------
    DataError
        If the config names one that is not there; that of the default name may be absent.
    """
    if not config.splits:
        return None
    path = local_copy(config.root or ".") / config.splits
    if path.is_file():
        return path
    if os.path.lexists(path) or config.splits != SPLITS:
        link = f"a link to {printable_path(os.readlink(path))}, which is not there" if path.is_symlink() else ""
        raise DataError(
            f"data.splits={printable_path(config.splits)} is no file of folds",
            expected=f"a file {printable_path(path)}",
            found=link or ("a folder, or no plain file" if path.exists() else "no such file"),
            remedy="correct the name; data.splits=null makes folds",
        )
    return None


def _notes_on_files(config: DataConfig) -> list[Note]:
    """Name what a file of folds names twice, and nnU-Net's file of folds where no other is used and nobody asked for it."""
    path = splits_file(config)
    if path is not None:
        sides = [side for f in _read_folds(path) for side in (f.train, f.validation)]
        doubled = sorted({n for side in sides for n, count in Counter(map(_normalise, side)).items() if count > 1})
        message = f"{len(doubled)} names stand twice on one side of a fold; they count once"
        return [Note(path.name, message, _shown(doubled))] if doubled else []
    if config.splits != SPLITS or not (local_copy(config.root or ".") / NNUNET_SPLITS).is_file():
        return []
    return [Note(NNUNET_SPLITS, "the file of folds is not used", "", f"data.splits={NNUNET_SPLITS} takes its folds")]


def _read_folds(path: Path) -> list[Fold]:
    try:
        listed = read_json(path)
        if not listed:
            raise ValueError("an empty list")
        return [Fold(train=tuple(f["train"]), validation=tuple(f.get("validation", f.get("val", ())))) for f in listed]
    except (DataError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(
            f"{path} holds no folds", expected='[{"train": [...], "validation": [...]}, ...]', found=str(error)[:200]
        ) from error


def _listed_folds(cases: Sequence[Case]) -> list[Fold]:
    """Return a fold for each number in the list of cases: those with the number validate, the others train.

    Raises
    ------
    DataError
        If the numbers do not begin at 0 or one is left out: `training.fold` would name another fold than the list.
    """
    numbers = sorted({c.fold for c in cases if c.fold is not None and c.fold >= 0})
    if numbers and numbers != list(range(len(numbers))):
        raise DataError(
            "the folds in the list of cases are not numbered from 0 on, as training.fold counts them",
            expected=f"the numbers 0 to {len(numbers) - 1}, each in a case that can be used",
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
    """Name the entries of folds that are not cases of the dataset, and the cases that are in no fold."""
    known = {c.name for c in cases}
    named = {n for fold in folds for n in (*fold.train, *fold.validation)}
    notes = [] if config is None else _notes_on_files(config)
    if unknown := sorted(named - known):
        notes.append(
            Note(
                source,
                f"{len(unknown)} names are not cases of the dataset and are skipped",
                _shown(unknown),
                "correct the names, or add the cases",
            )
        )
    if unnamed := sorted(known - named):
        notes.append(
            Note(source, f"{len(unnamed)} cases are in no fold: they neither train nor validate", _shown(unnamed))
        )
    return notes


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_folds(folds: Sequence[Fold], cases: Sequence[Case], source: str) -> None:
    """Raise `DataError` if a case or its subject is on both sides, or a fold has an empty side."""
    subject = {c.name: c.subject for c in cases}
    for k, fold in enumerate(folds):
        if not fold.train or not fold.validation:
            raise DataError(f"{source}: fold {k} has an empty side")
        for side, names in (("train", fold.train), ("validation", fold.validation)):
            if not any(n in subject for n in names):
                raise DataError(
                    f"{source}: no name under {side} of fold {k} is a case of the dataset",
                    expected=_shown(sorted(subject)),
                    found=_shown(names),
                    remedy="correct the names",
                )
        train = {subject.get(n, n) for n in fold.train}
        both = sorted(train & {subject.get(n, n) for n in fold.validation})
        if both:
            raise DataError(f"{source}: fold {k} has subjects on both sides", found=", ".join(both[:5]))
