"""Labels of masks that are read by the names of their segments or files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.label_values import round_labels
from medhybrid.data.layouts import Case
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.draft.draft import DraftLabel
from medhybrid.draft.observers import masks_alike, refuse_observers
from medhybrid.errors import DataError, MedHybridError
from medhybrid.scans.reader import read_label_scan

MIN_SHARED = 0.9
"""Share of the voxels that a mask has in common with all others together, if it is one of all labels."""

MAX_MEASURED = 2
"""Number of cases in which masks with a file for each label are measured."""

MAX_OBSERVERS = 8
"""Masks of more files are not compared: these are labels."""


def labels_by_name(cases: Sequence[Case], counts: dict[str, int]) -> tuple[tuple[DraftLabel, ...], list[str], bool]:
    """Return a label for each segment, since masks with segments are read by their names; remarks; and if some are left out.

    Labels with a file each are in order of their volume in a few cases, the largest first. A file with several values
    that is one of all labels together is left out.

    Raises
    ------
    DataError
        If two files have nearly the same mask in each case, as those of two observers, or a file is no mask of one label.
    """
    sizes: dict[str, list[float]] = {}
    combined: set[str] = set()
    alike: list[dict[tuple[str, str], float]] = []
    odd_files: dict[str, Path] = {}
    soft_files: dict[str, Path] = {}
    masks = [c.mask for c in cases if c.mask is not None and c.mask.names]
    known = {joined_words(n): n for n in counts}
    for files in masks[:: max(1, len(masks) // MAX_MEASURED)][:MAX_MEASURED]:
        several: dict[str, NDArray[np.bool_]] = {}
        single: dict[str, NDArray[np.bool_]] = {}
        inside: NDArray[np.bool_] | None = None
        for name, path in zip(files.names, files.paths, strict=True):
            if (label := known.get(joined_words(name))) is None:
                continue
            with suppress(MedHybridError, OSError):
                mask = read_label_scan(path)
                array: NDArray[Any] = round_labels(mask.array)
                if array.dtype.kind == "f" and (array != np.rint(array)).any():
                    soft_files[label] = path
                elif np.count_nonzero(np.unique(array)) > 1:
                    several[label] = array > 0
                    odd_files[label] = path
                elif volume := float(np.count_nonzero(array)) * mask.grid.voxel_ml:
                    sizes.setdefault(label, []).append(volume)
                    if len(files.names) <= MAX_OBSERVERS:
                        single[label] = array > 0
                    inside = array > 0 if inside is None or inside.shape != array.shape else inside | (array > 0)
        alike.append(masks_alike(single))
        if inside is not None:
            joint = inside
            combined |= {n for n, of in several.items() if of.shape == joint.shape and _are_equal(of, joint)}
    refuse_observers(alike)
    if soft_files:
        name, path = next(iter(soft_files.items()))
        raise DataError(
            f"the file of the label {name} has values that are not whole numbers, as probabilities and smoothed masks have",
            expected="0 outside the label, and one whole number inside",
            found=path.name,
            remedy="save the masks with a threshold, or from their source without interpolation",
        )
    if odd := {n: path for n, path in odd_files.items() if n not in combined}:
        name, path = next(iter(odd.items()))
        raise DataError(
            f"the file of the label {name} has several values, beside files of other labels",
            expected="a file with one value for each label, or one file with all labels",
            found=path.name,
            remedy="list the masks with several values in a table cases.csv with the columns case, mask and one per channel, "
            "or move the other files to another folder",
        )
    combined = combined if len(combined) < len(counts) else set()
    counts = {n: c for n, c in counts.items() if n not in combined}
    volumes = {n: float(np.median(found)) for n, found in sizes.items()}
    ordered = sorted(counts, key=lambda n: -volumes.get(n, 0.0)) if masks else list(counts)
    labels = tuple(DraftLabel(n, (i,), counts[n], volumes.get(n, 0.0)) for i, n in enumerate(ordered, start=1))
    what = "files" if masks else "segments"
    remarks = [f"the labels are the {what} in the {len(cases)} masks; their values are free"]
    if combined:
        remarks.append(f"files with several labels are left out: {', '.join(sorted(combined)[:8])}")
    return labels, remarks, bool(combined)


def _are_equal(mask: NDArray[np.bool_], others: NDArray[np.bool_]) -> bool:
    return bool((mask & others).sum() >= MIN_SHARED * max(mask.sum(), others.sum()))
