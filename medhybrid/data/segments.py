"""Segments of a DICOM SEG or structures of an RTSTRUCT to one label map, by their names."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhybrid.config import DataConfig
from medhybrid.errors import DataError
from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import Masks, read_masks, reference_names


def read_label_map(path: Path, image: Scan, config: DataConfig, *, case: str) -> NDArray[np.generic]:
    """Label map (X, Y, Z) with the values of `config.labels`, on the image's grid.

    Raises
    ------
    DataError
        If names and labels do not fit, or labels overlap where they may not.
    ScanError
        If the file cannot be read, or does not fit the image.
    """
    chosen = match_names(reference_names(path), config, case=case)
    masks = read_masks(path, image, {name for names in chosen.values() for name in names})
    return merge(masks, chosen, image.grid.shape, config, case=case)


def match_names(names: Sequence[str], config: DataConfig, *, case: str) -> dict[str, tuple[str, ...]]:
    """The names that make up each label.

    Raises
    ------
    DataError
        If a name fits two labels, none fits any, or one fits no label where that is refused.
    """
    chosen = {
        label: tuple(
            n for n in names if fnmatch.fnmatch(n.strip().casefold(), config.segments.get(label, label).casefold())
        )
        for label in config.labels
    }
    taken = [n for group in chosen.values() for n in group]
    if doubled := sorted({n for n in taken if taken.count(n) > 1}):
        raise DataError(
            f"case {case}: a segment fits two labels",
            found=", ".join(doubled[:5]),
            remedy="make data.segments more precise",
        )
    others = [n for n in names if n not in taken]
    if not taken or (others and config.other_segments == "refuse"):
        raise DataError(
            f"case {case}: {'some segments are not' if taken else 'no segment is'} among the labels",
            expected=", ".join(config.segments.get(label, label) for label in config.labels),
            found=", ".join(others[:8]) or "no segment",
            remedy="name them in data.segments" + (", or set data.other_segments=ignore" if taken else ""),
        )
    return chosen


def merge(
    masks: Masks, chosen: dict[str, tuple[str, ...]], shape: tuple[int, int, int], config: DataConfig, *, case: str
) -> NDArray[np.generic]:
    """One label map; raises `DataError` where labels overlap and may not."""
    values = config.labels
    out = np.zeros(shape, np.min_scalar_type(max(values.values())))
    for label, names in chosen.items():
        for name in names:
            if name not in masks:
                continue
            taken = masks[name] & (out != 0) & (out != values[label])
            if taken.any() and config.overlaps == "refuse":
                other = next(n for n, v in values.items() if v == out[taken][0])
                raise DataError(
                    f"case {case}: segments of {other} and {label} overlap",
                    expected="one label a voxel",
                    found=f"{int(taken.sum())} voxels in both",
                    remedy="set data.overlaps=last, so that the later of data.labels wins",
                )
            out[masks[name]] = values[label]
    return out
