"""Conversion of the segments of a DICOM SEG, an RTSTRUCT or a `.seg.nrrd` to a label map, by their names."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import DataConfig
from medhybrid.data.label_values import round_labels, unknown_values
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.errors import DataError
from medhybrid.names import same_text
from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import Masks, read_masks, reference_names
from medhybrid.scans.slicer_segments import Segments, segments_of_nrrd


class UnknownLabelError(DataError):
    """A mask with values that are not labels."""

    code = "unknown_label"


@dataclass(frozen=True, slots=True)
class SegmentRules:
    """Rules for the conversion of segments to labels.

    Attributes
    ----------
    labels : mapping
        Label names and their values.
    patterns : mapping
        Label to a pattern for names of segments. A label without a pattern takes the segments that have its name.
    other_segments, overlaps : str
        As in `DataConfig`.
    other_values : str
        Values of a `.seg.nrrd` that none of its segments has: ``ignore`` makes them background, ``refuse`` is an error.
    """

    labels: Mapping[str, int]
    patterns: Mapping[str, str] = field(default_factory=dict)
    other_segments: str = "refuse"
    overlaps: str = "refuse"
    other_values: str = "refuse"

    @classmethod
    def of(cls, config: DataConfig) -> SegmentRules:
        """Return the rules of a config."""
        return cls(config.labels, config.segments, config.other_segments, config.overlaps)


def read_label_map(paths: Sequence[Path], image: Scan, config: DataConfig, *, case: str) -> NDArray[np.generic]:
    """Read a DICOM SEG or RTSTRUCT as a label map (X, Y, Z) with the values of `config.labels`, on the image's grid.

    Several files are one mask, with other segments in each.

    Raises
    ------
    DataError
        If the segments do not match the labels, or labels overlap and `config.overlaps` is ``refuse``.
    ScanError
        If a file cannot be read, or belongs to another image.
    """
    rules = SegmentRules.of(config)
    names_of = {path: reference_names(path) for path in paths}
    chosen = match_names([n for names in names_of.values() for n in names], rules, case=case)
    wanted = {name for names in chosen.values() for name in names}
    masks: Masks = {}
    for path, names in names_of.items():
        if len(paths) == 1 or not wanted.isdisjoint(names):
            masks |= read_masks(path, image, wanted)
    return merge(masks, chosen, image.grid.shape, rules, case=case)


def label_map_of(path: Path, array: NDArray[np.generic], rules: SegmentRules, *, case: str) -> NDArray[np.generic]:
    """Convert the values of a mask file to a label map, by the names of segments if the file has them.

    Files of 3D Slicer contain the name of the segment for each value, and the values differ between files. In other files, the
    values are those of the labels.

    Parameters
    ----------
    array : (C, X, Y, Z) ndarray
        Values of the file. Several channels are layers of overlapping segments.

    Returns
    -------
    (1, X, Y, Z) ndarray
        Label map; `array` itself for a file without segments.

    Raises
    ------
    DataError
        If the segments do not match the labels, or labels overlap and `rules.overlaps` is ``refuse``.
    """
    segments = segments_of_nrrd(path)
    if not segments:
        return array
    chosen = match_names(list(segments), rules, case=case)
    array = round_labels(array)
    if rules.other_values == "refuse":
        _refuse_unlisted(segments, array, case)
    masks = {
        name: np.any([array[layer] == value for layer, value in segments[name]], axis=0)
        for names in chosen.values()
        for name in names
    }
    x, y, z = array.shape[1:]
    return merge(masks, chosen, (x, y, z), rules, case=case)[None]


def _refuse_unlisted(segments: Segments, array: NDArray[np.generic], case: str) -> None:
    """Raise `UnknownLabelError` if a layer has values without a segment, from edits in other tools: they would be lost."""
    for layer, values in enumerate(array):
        listed = {value: name for name, places in segments.items() for at, value in places if at == layer}
        if unknown := unknown_values(values, listed):
            raise UnknownLabelError(
                f"case {case}: mask has values without a segment in its file",
                expected=", ".join(f"{v} ({n})" for v, n in listed.items()) or "0",
                found=", ".join(unknown),
                remedy="add the segment in 3D Slicer, or correct the mask",
            )


def match_names(names: Sequence[str], rules: SegmentRules, *, case: str) -> dict[str, tuple[str, ...]]:
    """Assign the names of segments to labels, regardless of case and Unicode form.

    A label without a pattern and without a segment of its name takes the only segment with the same words: `Tumor` is
    `tumour`.

    Raises
    ------
    DataError
        If a segment matches two labels, if several have the same words as a label, if no segment matches any label, or if a
        segment matches no label and `rules.other_segments` is ``refuse``.
    """
    chosen = {
        label: tuple(
            n
            for n in names
            if fnmatch.fnmatchcase(same_text(n), same_text(rules.patterns.get(label, glob.escape(label))))
        )
        for label in rules.labels
    }
    _add_other_spellings(chosen, names, rules, case)
    taken = [n for group in chosen.values() for n in group]
    if doubled := sorted({n for n in taken if taken.count(n) > 1}):
        raise DataError(
            f"case {case}: a segment matches two labels",
            expected="one label per segment",
            found=", ".join(doubled[:5]),
            remedy="make data.segments more precise",
        )
    others = [n for n in names if n not in taken]
    if not taken or (others and rules.other_segments == "refuse"):
        raise DataError(
            f"case {case}: {'some segments are not' if taken else 'no segment is'} among the labels",
            expected=", ".join(rules.patterns.get(label, label) for label in rules.labels),
            found=", ".join(others[:8]) or "no segment",
            remedy="add them to data.segments" + (", or set data.other_segments=ignore" if taken else ""),
        )
    return chosen


def _add_other_spellings(
    chosen: dict[str, tuple[str, ...]], names: Sequence[str], rules: SegmentRules, case: str
) -> None:
    """Assign segments that have the same words as a label without segment, in place."""
    taken = {n for group in chosen.values() for n in group}
    for label in rules.labels:
        if chosen[label] or label in rules.patterns:
            continue
        alike = [n for n in names if n not in taken and joined_words(n) == joined_words(label)]
        if len(alike) > 1:
            raise DataError(
                f"case {case}: several segments may be {label}",
                expected="one segment",
                found=", ".join(alike[:5]),
                remedy="set a pattern for it in data.segments",
            )
        chosen[label] = tuple(alike)


def merge(
    masks: Masks, chosen: dict[str, tuple[str, ...]], shape: tuple[int, int, int], rules: SegmentRules, *, case: str
) -> NDArray[np.generic]:
    """Merge the masks of segments into a label map; raise `DataError` if labels overlap and `overlaps` is ``refuse``."""
    values = rules.labels
    out = np.zeros(shape, np.min_scalar_type(max(values.values())))
    for label, names in chosen.items():
        for name in names:
            if name not in masks:
                continue
            taken = masks[name] & (out != 0) & (out != values[label])
            if taken.any() and rules.overlaps == "refuse":
                other = next(n for n, v in values.items() if v == out[taken][0])
                raise DataError(
                    f"case {case}: segments of {other} and {label} overlap",
                    expected="one label per voxel",
                    found=f"{int(taken.sum())} voxels in both",
                    remedy="set data.overlaps=last to use the later one in data.labels",
                )
            out[masks[name]] = values[label]
    return out
