"""Labels of masks that are read by the names of their segments or files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from medhybrid.data.layouts import Case
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.draft.draft import DraftLabel
from medhybrid.errors import MedHybridError
from medhybrid.scans.reader import read_label_scan

MAX_MEASURED = 2
"""Number of cases in which masks with a file for each label are measured."""


def labels_by_name(cases: Sequence[Case], counts: dict[str, int]) -> tuple[tuple[DraftLabel, ...], list[str]]:
    """Return a label for each segment, since masks with segments are read by their names; and a remark.

    Labels with a file each are in order of their volume in a few cases, the largest first.
    """
    sizes: dict[str, list[float]] = {}
    masks = [c.mask for c in cases if c.mask is not None and c.mask.names]
    known = {joined_words(n): n for n in counts}
    for files in masks[:: max(1, len(masks) // MAX_MEASURED)][:MAX_MEASURED]:
        for name, path in zip(files.names, files.paths, strict=True):
            with suppress(MedHybridError, OSError):
                mask = read_label_scan(path)
                volume = float(np.count_nonzero(mask.array)) * mask.grid.voxel_ml
                if volume and joined_words(name) in known:
                    sizes.setdefault(known[joined_words(name)], []).append(volume)
    volumes = {n: float(np.median(found)) for n, found in sizes.items()}
    ordered = sorted(counts, key=lambda n: -volumes.get(n, 0.0)) if masks else list(counts)
    labels = tuple(DraftLabel(n, (i,), counts[n], volumes.get(n, 0.0)) for i, n in enumerate(ordered, start=1))
    what = "files" if masks else "segments"
    return labels, [f"the labels are the {what} in the {len(cases)} masks; their values are free"]
