"""Agreement of two reviewers of the same masks, by their files of marks (`review.json`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medhybrid.errors import DataError
from medhybrid.metrics.agreement import Kappa, cohen_kappa
from medhybrid.names import printable_path
from medhybrid.review.marks import Mark, Marks, read_marks_file


@dataclass(frozen=True, slots=True)
class MarkedTwice:
    """Decisions of two reviewers on one mask."""

    case: str
    first: Mark
    second: Mark

    @property
    def is_disputed(self) -> bool:
        """Return whether the decisions differ."""
        return self.first.decision != self.second.decision


@dataclass(frozen=True, slots=True)
class ReviewerAgreement:
    """Agreement of two reviewers.

    Attributes
    ----------
    cases : tuple of MarkedTwice
        Cases on which both decided; disputed ones first.
    kappa : Kappa
        Cohen's kappa of the decisions.
    by_one : tuple of str
        Cases on which only one of them decided.
    """

    names: tuple[str, str]
    cases: tuple[MarkedTwice, ...]
    kappa: Kappa
    by_one: tuple[str, ...]


def compare_reviewers(first: Path, second: Path) -> ReviewerAgreement:
    """Compare the marks of two reviewers.

    Parameters
    ----------
    first, second : Path
        Files that `medhybrid review` saved or a report downloaded.

    Raises
    ------
    DataError
        If a file is damaged, the files are of other masks, or no mask has a decision of both.
    """
    one, other = read_marks_file(first), read_marks_file(second)
    if one.key and other.key and one.key != other.key:
        raise DataError(
            "the reviewers marked masks of different models or calls",
            expected="two files for one output folder of predict",
            found=f"{printable_path(first)}: {one.key[:12]}; {printable_path(second)}: {other.key[:12]}",
            remedy="let both mark the masks of the same folder",
        )
    decided = [{case: mark for case, mark in marks.marks.items() if mark.decision} for marks in (one, other)]
    common = [c for c in decided[0] if c in decided[1] and _are_of_one_mask(decided[0][c], decided[1][c])]
    if not common:
        raise DataError(
            "no mask has a decision of both reviewers",
            expected="marks of the same masks",
            found=f"{len(decided[0])} and {len(decided[1])} decisions",
        )
    cases = [MarkedTwice(case, decided[0][case], decided[1][case]) for case in common]
    pairs = [(str(c.first.decision), str(c.second.decision)) for c in cases]
    return ReviewerAgreement(
        _names(one, other, (first, second)),
        tuple(sorted(cases, key=lambda c: (not c.is_disputed, c.case))),
        cohen_kappa(pairs),
        tuple(sorted(set(decided[0]) ^ set(decided[1]))),
    )


def rows_of_reviewers(agreement: ReviewerAgreement) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table of the cases, disputed ones first."""
    columns = ["case", *agreement.names, "comments"]
    rows = [
        [
            c.case,
            str(c.first.decision),
            str(c.second.decision),
            " / ".join(filter(None, (c.first.comment, c.second.comment))),
        ]
        for c in agreement.cases
    ]
    return columns, rows


def _are_of_one_mask(first: Mark, second: Mark) -> bool:
    return not first.of or not second.of or first.of == second.of


def _names(one: Marks, other: Marks, paths: Sequence[Path]) -> tuple[str, str]:
    """Return the names of the reviewers, or of their files where a name is missing or both are equal."""
    found = []
    for marks, path in zip((one, other), paths, strict=True):
        names = list(dict.fromkeys(m.reviewer for m in marks.marks.values() if m.reviewer))
        found.append(names[0] if len(names) == 1 else printable_path(path))
    if found[0] == found[1]:
        found = [printable_path(path) for path in paths]
    return found[0], found[1]
