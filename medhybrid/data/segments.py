"""Segments of a DICOM SEG, an RTSTRUCT or a `.seg.nrrd` to one label map, by their names."""

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
from medhybrid.errors import DataError
from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import Masks, read_masks, reference_names
from medhybrid.scans.slicer_segments import Segments, segments_of_nrrd


class UnknownLabelError(DataError):
    """A mask that holds values that are no label."""

    code = "unknown_label"


@dataclass(frozen=True, slots=True)
class SegmentRules:
    """How segments become labels.

    Attributes
    ----------
    labels : mapping
        Label names and their values.
    patterns : mapping
        Label to a pattern on names of segments; a label without one takes segments of its own name.
    other_segments, overlaps : str
        As in `DataConfig`.
    other_values : str
        ``ignore`` takes values of a `.seg.nrrd` that none of its segments has as background; else they are refused.
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


def read_label_map(path: Path, image: Scan, config: DataConfig, *, case: str) -> NDArray[np.generic]:
    """Read a DICOM SEG or RTSTRUCT as a label map (X, Y, Z) with the values of `config.labels`, on the image's grid.

    Raises
    ------
    DataError
        If names and labels do not fit, or labels overlap where they may not.
    ScanError
        If the file cannot be read, or does not fit the image.
    """
    rules = SegmentRules.of(config)
    chosen = match_names(reference_names(path), rules, case=case)
    masks = read_masks(path, image, {name for names in chosen.values() for name in names})
    return merge(masks, chosen, image.grid.shape, rules, case=case)


def label_map_of(path: Path, array: NDArray[np.generic], rules: SegmentRules, *, case: str) -> NDArray[np.generic]:
    """Return the label map of a file that was read, with labels by name where the file names its segments.

    Files of 3D Slicer name the segment of each value, and values differ from file to file. In other files the values are those
    of the labels.

    Parameters
    ----------
    array : (C, X, Y, Z) ndarray
        Values of the file; several channels are layers of overlapping segments.

    Returns
    -------
    (1, X, Y, Z) ndarray, or `array` itself for a file without segments.

    Raises
    ------
    DataError
        If names and labels do not fit, or labels overlap where they may not.
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
    """Raise `UnknownLabelError` where a layer holds values that no segment has: edited elsewhere, they would be background."""
    for layer, values in enumerate(array):
        listed = {value: name for name, places in segments.items() for at, value in places if at == layer}
        if unknown := unknown_values(values, listed):
            raise UnknownLabelError(
                f"case {case}: mask holds values that no segment of its file has",
                expected=", ".join(f"{v} ({n})" for v, n in listed.items()) or "0",
                found=", ".join(unknown),
                remedy="add the segment in 3D Slicer, or correct the mask",
            )


def match_names(names: Sequence[str], rules: SegmentRules, *, case: str) -> dict[str, tuple[str, ...]]:
    """The names that make up each label.

    Raises
    ------
    DataError
        If a name fits two labels, none fits any, or one fits no label where that is refused.
    """
    chosen = {
        label: tuple(
            n
            for n in names
            if fnmatch.fnmatch(n.strip().casefold(), rules.patterns.get(label, glob.escape(label)).casefold())
        )
        for label in rules.labels
    }
    taken = [n for group in chosen.values() for n in group]
    if doubled := sorted({n for n in taken if taken.count(n) > 1}):
        raise DataError(
            f"case {case}: a segment fits two labels",
            found=", ".join(doubled[:5]),
            remedy="make data.segments more precise",
        )
    others = [n for n in names if n not in taken]
    if not taken or (others and rules.other_segments == "refuse"):
        raise DataError(
            f"case {case}: {'some segments are not' if taken else 'no segment is'} among the labels",
            expected=", ".join(rules.patterns.get(label, label) for label in rules.labels),
            found=", ".join(others[:8]) or "no segment",
            remedy="name them in data.segments" + (", or set data.other_segments=ignore" if taken else ""),
        )
    return chosen


def merge(
    masks: Masks, chosen: dict[str, tuple[str, ...]], shape: tuple[int, int, int], rules: SegmentRules, *, case: str
) -> NDArray[np.generic]:
    """One label map; raises `DataError` where labels overlap and may not."""
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
                    expected="one label a voxel",
                    found=f"{int(taken.sum())} voxels in both",
                    remedy="set data.overlaps=last, so that the later of data.labels wins",
                )
            out[masks[name]] = values[label]
    return out
