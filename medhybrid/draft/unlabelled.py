"""The value of voxels without a label in the masks of a dataset that does not declare it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from medhybrid.data.json_names import IGNORE, plain_name
from medhybrid.draft.label_names import label_names
from medhybrid.draft.samples import Samples

VOID = 255
"""Value that many datasets have for voxels without a label, such as borders, beside the values 1, 2, ... of labels."""

MOST = 0.5
"""Share of a scan above which an unnamed value is no structure, where background (0) has some of the others."""

MIN_VALUES = 2
"""Values of a mask without which it has one label: that of the label, and that of voxels without one."""

LEAST, NEARLY_ALL = 1e-6, 0.9
"""Least share of the background in a mask; share of the masks in which both must hold."""


def find_unlabelled(samples: Samples, named: Collection[int]) -> int | None:
    """Return the value of voxels without a label; None if the masks have none, or it is uncertain.

    It is the only value without a name, above all others: 255 beside several labels, or the value of most voxels, as in
    scribbles, where background is marked in a few voxels only.

    Parameters
    ----------
    named : collection of int
        Values with a name; empty if the dataset names none. Then only 255 beside small values counts.
    """
    *values, last = sorted(samples.volumes_ml) or [0]
    is_border = last == VOID and _is_beside(samples, last)
    if not named:  # grey values of classes are further apart
        return VOID if is_border and len(values) > 1 and values[-1] <= 2 * len(values) else None
    if not values or last in named or not set(values) <= set(named) or last < max(named):
        return None
    return last if is_border or _fills_scans(samples, last) else None


def names_of_values(root: Path, samples: Samples) -> tuple[dict[str, int], str, int | None]:
    """Return names of label values from a file below a folder, the file's name, and the value of voxels without a label.

    The file may give this value a word for it (`unlabelled`), or no name. Names are empty without such a file.
    """
    values = set(samples.volumes_ml)
    given, source = label_names(root, values)
    if not given and len(values) > 1:
        last = max(values)
        if _fills_scans(samples, last) or (last == VOID and _is_beside(samples, last)):
            given, source = label_names(root, values - {last})
    if not given:
        return {}, "", find_unlabelled(samples, ())
    void = [v for n, v in given.items() if plain_name(n) in IGNORE]
    named = {n: v for n, v in given.items() if v not in void}
    return named, source, void[0] if len(void) == 1 else find_unlabelled(samples, given.values())


def are_enclosed(samples: Samples, ignored: int | None) -> bool:
    """Return whether scribbles of the background enclose those of structures in each mask, and no mask lacks a label."""
    names = samples.sizes_ml.keys()
    are_complete = all(names <= by_case.keys() for by_case in samples.volumes_ml.values())
    return ignored is not None and are_complete and samples.enclosed == names and _fills_scans(samples, ignored)


def is_background_beyond(samples: Samples, ignored: int | None) -> bool:
    """Return whether voxels beyond the scribbles are drafted as background: scribbles of several labels are enclosed.

    A single label may have several objects, such as lesions, of which some have no scribble.
    """
    return are_enclosed(samples, ignored) and len(samples.volumes_ml) > MIN_VALUES


def on_enclosed(samples: Samples, ignored: int | None) -> tuple[str, ...]:
    """Return a remark on `data.beyond_scribbles`, if scribbles of the background enclose the structures."""
    if not are_enclosed(samples, ignored):
        return ()
    if is_background_beyond(samples, ignored):
        return (
            "voxels outside the box around all scribbles of a case are taken for background (data.beyond_scribbles): remove "
            "this line if a scan has structures without a scribble",
        )
    return (
        "the scribbles of the background enclose the label: if each of its objects has a scribble, "
        "data.beyond_scribbles: background makes better use of them",
    )


def _is_beside(samples: Samples, value: int) -> bool:
    """Return whether most masks with a value have other values, too: it is no other form of a label in other masks."""
    others = [by_case.keys() for v, by_case in samples.volumes_ml.items() if v != value]
    cases = samples.volumes_ml[value].keys()
    return 2 * sum(any(c in o for o in others) for c in cases) > len(cases)


def on_most_voxels(samples: Samples) -> list[str]:
    """Return a remark on the largest value if it has most voxels, in a dataset that names no value."""
    values = sorted(samples.volumes_ml)
    if len(values) < 2 or not _fills_scans(samples, values[-1]):
        return []
    return [
        f"the value {values[-1]} has most voxels of the masks: if these have no label, as beside scribbles, remove it from "
        f"data.labels and set data.ignore_value: {values[-1]}"
    ]


def _fills_scans(samples: Samples, value: int) -> bool:
    """Return whether a value has most voxels of nearly every mask, and the background some of the others."""
    of_value, sizes = samples.volumes_ml[value], samples.sizes_ml
    background = {c: ml - sum(v.get(c, 0.0) for v in samples.volumes_ml.values()) for c, ml in sizes.items()}
    n_most = sum(of_value.get(c, 0.0) > MOST * ml for c, ml in sizes.items())
    n_background = sum(background[c] > LEAST * ml for c, ml in sizes.items())
    return min(n_most, n_background) >= NEARLY_ALL * len(sizes) > 0
