"""Remarks of a draft on its cases: sizes, modalities, labels of partly labelled cases, and cases that are left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medhybrid.config.data import MAX_LABELS
from medhybrid.data.channel_words import names_channel
from medhybrid.data.json_names import JsonNames
from medhybrid.data.layouts import Case
from medhybrid.data.layouts.datalist import datalists_below
from medhybrid.draft.pairs import Pair
from medhybrid.draft.samples import Samples
from medhybrid.draft.unlabelled import on_enclosed
from medhybrid.draft.words import CT_WORDS, MR_WORDS, names_group
from medhybrid.errors import DataError
from medhybrid.names import printable_path

MAX_FOLDERS, MIN_CASES = 4, 3
"""Largest number of folders that may be datasets, and least number of cases in each."""

ONE_CHANNEL = "one channel has all of them; to train on one, move the others away"

SEQUENCES = ("T1", "T1ce", "T2", "FLAIR", "DWI", "ADC", "PD", "SWI")
"""Sequences that are looked for in the names of images."""

OBJECTS_MARGIN = 4
"""Masks that are not sampled may have more objects, by up to this factor."""


def on_modalities(cases: Sequence[Case], root: Path) -> list[str]:
    """Return a remark if the images of a single channel are CT and MR, or of several sequences, by their names."""
    files = [f.paths[0] for c in cases if len(c.images) == 1 and (f := c.images[0]) is not None]
    images = [str(p.relative_to(root) if p.is_relative_to(root) else p) for p in files]
    n_ct, n_mr = (sum(bool(words.search(path)) for path in images) for words in (CT_WORDS, MR_WORDS))
    both = sum(bool(CT_WORDS.search(path) and MR_WORDS.search(path)) for path in images)
    if not both and n_ct and n_mr:
        return [f"{n_ct} images are CT and {n_mr} MR by their names: {ONE_CHANNEL}"]
    several = {s: n for s in SEQUENCES if (n := sum(names_channel(p.name, s) for p in files))}
    if len(several) < 2 or sum(several.values()) != len(files):
        return []
    shown = ", ".join(f"{n} {s}" for s, n in several.items())
    return [f"the images are of several sequences by their names ({shown}): {ONE_CHANNEL}"]


def on_background(samples: Samples, names: JsonNames | None, ignored: int | None) -> tuple[str, ...]:
    """Return remarks on voxels that may be no background, or of which this is not known."""
    return (*on_enclosed(samples, ignored), *on_corners(samples, ignored), *on_zero(names))


def on_corners(samples: Samples, ignored: int | None) -> tuple[str, ...]:
    """Return a remark on masks whose background may have another value than 0: a label is in each of their corners."""
    n_inverted = sum(bool(c) and 0 not in c and c != {ignored} for c in samples.in_corners)
    if n_inverted <= len(samples.in_corners) / 2:
        return ()
    return (
        f"{n_inverted} of {len(samples.in_corners)} sampled masks have a label in each corner, where background is expected: "
        "medhybrid takes 0 for the background",
    )


def on_zero(names: JsonNames | None) -> tuple[str, ...]:
    """Return a remark on a structure with the value 0, which counts as background."""
    if names is None or not names.zero:
        return ()
    zero = ascii(names.zero)[1:-1][:60]
    return (
        f"{printable_path(names.path.name)} gives 0 the name {zero}: medhybrid takes 0 for the background. If it is a "
        "structure, save the masks with another value for it",
    )


def check_objects(n_objects: int) -> int:
    """Return the largest value of masks that number up to some objects; raise `DataError` if a label has not so many values."""
    if n_objects > MAX_LABELS:
        raise DataError(
            "the masks number their objects",
            expected=f"at most {MAX_LABELS} of them",
            found=f"{n_objects} in one mask",
            remedy="save the masks with 0 for the background and 1 for all objects",
        )
    return min(OBJECTS_MARGIN * n_objects, MAX_LABELS)


def on_sizes(samples: Samples) -> tuple[str, ...]:
    """Return a remark on image files that state no pixel size."""
    if not samples.n_sizeless:
        return ()
    return (
        f"{samples.n_sizeless} of {samples.n_raster} sampled image files state no pixel size: 1 mm is assumed, so that lengths "
        "in mm count pixels",
    )


def on_partly(n_cases: int) -> tuple[str, ...]:
    """Return a remark on cases whose masks have only some labels, which the dataset names for each case."""
    if not n_cases:
        return ()
    return (
        f"{n_cases} cases are partly labelled: the labels below need the names that the dataset's list has for them",
    )


def left_out(cases: Sequence[Case]) -> tuple[str, ...]:
    """Return a remark on cases that cannot be used, with the first reason."""
    problems = [str(c.problem) for c in cases if c.problem is not None]
    return (f"{len(problems)} of {len(cases)} cases cannot be used: {problems[0]}",) if problems else ()


def on_sides(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a remark on labels that may be two sides of a structure."""
    if not pairs:
        return ()
    one, other = pairs[0]
    more = f", and {len(pairs) - 1} more pairs" if pairs[1:] else ""
    return (
        f"{one} and {other} always lie on opposite sides{more}, and their names do not say so: mirroring is off. If they are "
        "the right and the left one of a structure, name them so in data.labels (kidney_right, kidney_left), and remove "
        "prepare.mirror_axes: mirroring then exchanges them",
    )


def on_lists_below(root: Path) -> tuple[str, ...]:
    """Return a remark on data lists in folders of a dataset: their cases for testing, folds and channels are not used."""
    return tuple(
        f"{printable_path(path)} is not used, nor its parts and folds: copy it to the dataset's folder, with paths from there"
        for path in datalists_below(root)[:3]
    )


def on_folders(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return a remark if a few folders have images and masks each, and may be datasets of other structures."""
    by_folder: dict[str, set[str]] = {}
    n_cases: Counter[str] = Counter()
    for pair in pairs:
        files = [pair.mask, *pair.images.values()]
        folders = {f.parts[0] for f in files if len(f.parts) > 1}
        if len(folders) != 1:
            return ()
        folder = folders.pop()
        n_cases[folder] += 1
        by_folder.setdefault(folder, set()).update(pair.images)
    names = sorted(by_folder)
    are_few = 1 < len(names) <= MAX_FOLDERS and min(n_cases.values()) >= MIN_CASES
    if not are_few or any(names_group(n) or re.search(r"\d", n) for n in names):
        return ()
    shown = ", ".join(map(printable_path, names))
    return (
        f"the folders {shown} are one dataset with the same labels. If they are several datasets, give the folder of one",
    )
