"""Names of the segments in the masks of a dataset: 3D Slicer's `.seg.nrrd`, DICOM SEG and RTSTRUCT.

The values of such masks differ between files, so that labels are assigned by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.layouts import Case
from medhybrid.data.layouts.dataset_names import joined_words
from medhybrid.data.load import load_image
from medhybrid.draft.observers import masks_alike, refuse_observers
from medhybrid.draft.places import Place, opposite_sides, place_of
from medhybrid.errors import MedHybridError
from medhybrid.scans.dicom.references import Masks, read_masks, reference_kind, reference_names
from medhybrid.scans.slicer_segments import segments_of_nrrd

SHOWN = 5

MAX_MEASURED = 4
"""Number of cases in which segments are measured."""


def count_segments(cases: Sequence[Case]) -> dict[str, int]:
    """Return the names of all segments with the number of masks that have them."""
    masks = [c.mask for c in cases if c.mask is not None]
    if any(len(m.names) > 1 for m in masks):
        return count_names([m.names for m in masks])
    return count_names([_names_of(m.paths) for m in masks])


def count_names(masks: Iterable[Sequence[str]]) -> dict[str, int]:
    """Count the masks that have each segment; another spelling (`Tumor`, `tumour`) counts as the first one."""
    spelling: dict[tuple[str, ...], str] = {}
    counts: Counter[str] = Counter()
    for names in masks:
        counts.update({spelling.setdefault(joined_words(n), n) for n in names})
    return {name: counts[name] for name in spelling.values()}


def on_missing(counts: Mapping[str, int], n_masks: int) -> tuple[str, ...]:
    """Return a remark on labels for which some masks have no file or segment.

    Parameters
    ----------
    counts : mapping
        Label to the number of masks that have it.
    """
    lacking = {name: n_masks - n for name, n in counts.items() if n < n_masks}
    if not lacking:
        return ()
    shown = ", ".join(f"{name} in {n}" for name, n in list(lacking.items())[:SHOWN])
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    return (
        f"some of the {n_masks} masks have no file or segment for a label ({shown}{more}): it counts as absent there. "
        "If it is in the image and was not drawn, list the labels of each mask: see docs/reference/data.md",
    )


def measure_segments(
    cases: Sequence[Case], labels: Sequence[str], config: DataConfig
) -> tuple[dict[str, float], tuple[tuple[str, str], ...]]:
    """Measure a few DICOM SEG or RTSTRUCT masks; cases that cannot be read are skipped.

    Returns
    -------
    volumes_ml : dict
        Segment to its median volume.
    sides : tuple of (str, str)
        Labels that always lie on opposite sides; see `opposite_sides`.

    Raises
    ------
    DataError
        If segments in different files of an image are nearly the same, as those of two readers.
    """
    known = {joined_words(n): n for n in labels}
    values = {n: v for v, n in enumerate(labels, start=1)}
    found: dict[str, list[float]] = {}
    places: list[Place] = []
    alike: list[dict[tuple[str, str], float]] = []
    for case in cases[:: max(1, len(cases) // MAX_MEASURED)][:MAX_MEASURED]:
        with suppress(MedHybridError, OSError):
            image = load_image(case, config, ScansConfig())
            masks: Masks = {}
            file_of: dict[str, Path] = {}
            for path in case.mask.paths if case.mask is not None else ():
                own = read_masks(path, image, [n for n in reference_names(path) if joined_words(n) in known])
                masks, file_of = masks | own, file_of | dict.fromkeys(own, path)
            if len(set(file_of.values())) > 1:
                alike.append({p: dice for p, dice in masks_alike(masks).items() if file_of[p[0]] != file_of[p[1]]})
            joint = np.zeros(image.grid.shape, np.uint16)
            for name, mask in masks.items():
                found.setdefault(known[joined_words(name)], []).append(float(mask.sum()) * image.grid.voxel_ml)
                joint[mask] = values[known[joined_words(name)]]
            places += [place] if (place := place_of(joint, image.affine)) else []
    refuse_observers(alike)
    volumes_ml = {name: float(np.median(volumes)) for name, volumes in found.items()}
    return volumes_ml, opposite_sides(places, {n: (v,) for n, v in values.items()})


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Return the names of the segments in all files of a mask."""
    names = names_in_mask(paths[0])
    return names + [n for p in paths[1:] for n in names_in_mask(p)] if names else []


def names_in_mask(path: Path) -> list[str]:
    """Return the names of the segments of a mask; empty for a mask of values, and for one that cannot be read."""
    with suppress(MedHybridError, OSError):
        if not path.is_file():
            return []
        return reference_names(path) if reference_kind(path) else list(segments_of_nrrd(path))
    return []
