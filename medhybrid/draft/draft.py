"""Draft of a study's config: layout, channels, labels and subjects, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medhybrid.draft.studies import StudyRules


@dataclass(frozen=True, slots=True)
class DraftChannel:
    """Channel of a draft; `is_optional` if some cases lack it."""

    name: str
    modality: str
    reason: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class DraftLabel:
    """Label of a draft.

    Attributes
    ----------
    values : tuple of int
        Value in the mask files; several for a region.
    n_cases : int
        Number of sampled cases that contain it.
    median_ml : float
        Median volume in these cases.
    """

    name: str
    values: tuple[int, ...]
    n_cases: int = 0
    median_ml: float = 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft of a study's config.

    Attributes
    ----------
    root : Path
        Folder for `data.root`.
    table : list of list of str
        Lines of a table of cases that must be written, with the column names first; empty if the dataset has a list.
    ignore_value : int, optional
        Value of voxels whose label is unknown.
    are_enclosed : bool
        Whether scribbles of the background enclose those of several labels.
    is_colour : bool
        Whether the images are files with red, green and blue.
    remarks : tuple of str
        Values that the draft could not determine, and files that it does not use.
    splits : str
        File of folds for `data.splits`; empty for the default.
    may_overlap : bool
        Whether each label has a separate mask file.
    ignores_others : bool
        Whether masks have segments or files that are no labels.
    masks : tuple of Path
        Files of the reference masks.
    is_anywhere : bool
        Whether the labels lie at other places in each case, as lesions do.
    sided : tuple of (str, str)
        Labels that may be the right and the left one of a pair, although their names do not say so.
    """

    name: str
    root: Path
    layout: str
    source: str
    channels: tuple[DraftChannel, ...]
    labels: tuple[DraftLabel, ...]
    cases: tuple[str, ...]
    n_sampled: int
    subject_pattern: str | None
    subject_reason: str
    ignore_value: int | None = None
    are_enclosed: bool = False
    class_order: tuple[int, ...] = ()
    table: list[list[str]] = field(default_factory=list)
    rules: StudyRules | None = None
    remarks: tuple[str, ...] = ()
    median_spacing_mm: tuple[float, ...] = ()
    median_shape: tuple[int, ...] = ()
    splits: str = ""
    is_colour: bool = False
    may_overlap: bool = False
    ignores_others: bool = False
    masks: tuple[Path, ...] = ()
    is_anywhere: bool = False
    sided: tuple[tuple[str, str], ...] = ()

    @property
    def n_cases(self) -> int:
        """Return the number of cases that can be used."""
        return len(self.cases)
