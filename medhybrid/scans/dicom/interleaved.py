"""Slices of several kinds at alternating positions: not one volume, though there is one slice at each position.

A trait such as the echo time partitions such a stack into regular sub-stacks that interleave. Variation that real volumes
have is left alone: a value that differs slice by slice, grows along the stack, or changes between concatenated blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.frames import Frame
from medhybrid.scans.dicom.traits import TRAITS, dimension_name

KIND_TRAITS = (
    "stack",
    "echo",
    "inversion",
    "b",
    "direction",
    "type",
    "flip",
    "sequence",
    "contrast",
    "kvp",
    "kernel",
    "filter",
    "units",
    "rescale",
    "photometric",
    "component",
    "asl",
    "velocity",
    "repetition",
)
"""Traits that say of which kind a slice is. Two kinds never belong in one volume."""

TIME_TRAITS = ("time",)
"""Traits that say which time point a slice belongs to. Slices that were excited together share them, at regular distances."""

PASS_TRAITS = ("acquisition", "trigger", "cardiac", "respiratory", "offset")
"""Traits that alternate in one volume that was acquired in several passes, as interleaved slices are."""

CLOCK = "clock"
"""Interleaved acquisition gives neighbouring slices other times in every volume."""

PASS_DIMENSIONS = (
    *(dimension_name(TRAITS[trait][-1]) for trait in (*PASS_TRAITS, CLOCK)),
    "acquisition_number",
    "frame_reference_date_time",
    "trigger_time",
    "actual_cardiac_trigger_delay_time",
    "nominal_cardiac_trigger_time_prior_to_r_peak",
    "actual_respiratory_trigger_delay_time",
    "nominal_percentage_of_respiratory_phase",
)
"""The same as dimensions of an enhanced file."""

CONTRAST_TRAITS = {"echo": 0.02, "b": 0.02}
"""Numbers that no volume has several of, in whatever order, and how much of themselves they vary between slices."""

STEPPED_TRAITS = {"flip": 0.1, "inversion": 0.1, "kvp": 0.05, "repetition": 1 / 3}
"""Numbers that may vary slice by slice; a few values of several slices each are kinds."""

MAX_STEPS = 4

REPEATED_TRAITS = ("sequence", "filter", "contrast", "time", "direction", "stack")
"""Texts of which a few, of several slices each, are kinds. No contrast agent is a kind, too."""

DIRECTION_TOLERANCE = 0.05
"""How far the parts of a unit vector may differ within a kind."""

TEXT_TRAITS = ("kernel", "rescale", "units", "photometric", "component", "asl")
"""Texts that no volume has several of, in whatever order; a slice that lacks one says nothing."""

COMPONENTS = {
    **dict.fromkeys(("M", "MAGNITUDE", "M_FFE", "M_SE", "M_IR"), "magnitude"),
    **dict.fromkeys(("P", "PHASE", "PHASE MAP", "P_FFE", "P_SE"), "phase"),
    **dict.fromkeys(("R", "REAL", "R_FFE", "R_SE", "R_IR"), "real"),
    **dict.fromkeys(("I", "IMAGINARY", "I_FFE", "I_SE", "I_IR"), "imaginary"),
}
"""Words of an image type that say which part of a complex number the values are."""

CONTENTS = {
    **dict.fromkeys(("W", "WATER"), "water"),
    **dict.fromkeys(("F", "FAT"), "fat"),
    **dict.fromkeys(("FF", "FAT_FRACTION", "FATFRACTION"), "fat fraction"),
    **dict.fromkeys(("IP", "IN_PHASE", "INPHASE"), "in phase"),
    **dict.fromkeys(("OP", "OUT_PHASE", "OPP_PHASE", "OUTPHASE", "OUT_OF_PHASE", "OPPOSED_PHASE"), "out of phase"),
    **dict.fromkeys(("ADC", "ADC_UNSPECIFIED"), "apparent diffusion coefficient"),
    **dict.fromkeys(("EADC", "EXP_ADC", "EXPADC"), "exponential diffusion coefficient"),
    **dict.fromkeys(("TRACE", "TRACEW", "TRACE_WEIGHTED", "ISOTROPIC"), "trace"),
    **dict.fromkeys(("FA", "FRACTIONAL_ANISOTROPY"), "fractional anisotropy"),
    **dict.fromkeys(("T1 MAP", "T1_MAP"), "T1"),
    **dict.fromkeys(("T2 MAP", "T2_MAP"), "T2"),
    **dict.fromkeys(("T2_STAR MAP", "T2_STAR_MAP", "T2STAR"), "T2*"),
    **dict.fromkeys(("R2_STAR MAP", "R2_STAR_MAP", "R2STAR"), "R2*"),
}
"""Words of an image type that say what the values show. Other words may vary within volumes."""


def find_interleaved(frames: Sequence[Frame], slots: np.ndarray) -> tuple[str, list[str]] | None:
    """Find the trait by which slices of several kinds alternate.

    Parameters
    ----------
    frames : sequence of Frame
        One a position.
    slots : (N,) int ndarray
        The number of each frame's position along the normal.

    Returns
    -------
    tuple of str and list of str, or None
        The trait and its values in order, each of a regular sub-stack; None where the frames are of one kind.

    """
    ordered = [frames[i] for i in np.argsort(slots)]
    others = (*KIND_TRAITS, *TIME_TRAITS, *PASS_TRAITS, *PASS_DIMENSIONS, CLOCK)
    dimensions = [t for t in ordered[0].traits if t not in others]
    for trait in (*KIND_TRAITS, *TIME_TRAITS, *dimensions):
        values = [f.traits.get(trait, "") for f in ordered]
        if _alternate(values, is_time=trait not in KIND_TRAITS):
            return trait, sorted(set(values), key=values.index)
    return None


def refuse_several_kinds(frames: Sequence[Frame], *, series: str) -> None:
    """Refuse slices of several kinds in one stack, in whatever order; raises `SeriesError`."""
    for trait, tolerance in CONTRAST_TRAITS.items():
        first, other = _different_numbers([f.traits.get(trait, "") for f in frames], tolerance)
        _refuse_two(frames, trait, first, other, series)
    for trait, tolerance in STEPPED_TRAITS.items():
        values = _without_notation([f.traits.get(trait, "") for f in frames])
        counts = Counter(v for v in values if v)
        if len(counts) <= MAX_STEPS and min(counts.values(), default=0) > 1:  # a few, of several slices each
            first, other = _different_numbers(values, tolerance)
            _refuse_two(frames, trait, first, other, series)
    for trait in TEXT_TRAITS:
        _refuse_two(frames, trait, *_different_texts([f.traits.get(trait, "").upper() for f in frames]), series)
    for trait in REPEATED_TRAITS:
        _refuse_two(frames, trait, *_different_repeats([f.traits.get(trait, "") for f in frames], trait), series)
    types = [f.traits.get("type", "").upper().split("\\")[2:] for f in frames]
    for words in (COMPONENTS, CONTENTS):
        _refuse_two(frames, "type", *_different_texts([_word_of(t, words) for t in types]), series)
    for place in range(max(map(len, types))):
        values = [t[place] if len(t) > place else "" for t in types]
        _refuse_two(frames, "type", *_different_repeats(values, "type"), series)


def _refuse_two(frames: Sequence[Frame], trait: str, first: int, other: int | None, series: str) -> None:
    if other is None:
        return
    one, two = (frames[i].traits.get(trait, "").replace("\\", " ") or "none" for i in (first, other))
    raise SeriesError(
        f"{series}: slices of several kinds at different positions",
        code="multi_volume",
        series=series,
        expected=f"one {trait} in all slices",
        found=f"{trait} {one} in {frames[first].name} and {two} in {frames[other].name}",
        remedy="export each kind as a series of its own",
    )


def _word_of(words: Sequence[str], meanings: Mapping[str, str]) -> str:
    """Return the meaning of the last of an image type's words that has one; empty where none has."""
    return next((meanings[w] for w in reversed(words) if w in meanings), "")


def _different_repeats(values: Sequence[str], trait: str) -> tuple[int, int | None]:
    """Return the places of two texts of which a few stand in several slices each; None where there are none.

    Times of few slices are those of slices that were excited together; stacks may follow each other.
    """
    kept = _without_direction_jitter(values) if trait == "direction" else _without_notation(values)
    counts = Counter(v for v in kept if v or trait == "contrast")
    fewest = min(counts.values(), default=0)
    if fewest < 2 or not 2 <= len(counts) <= (fewest if trait == "time" else max(MAX_STEPS, fewest)):
        return 0, None
    if trait == "stack" and sum(a != b for a, b in pairwise(kept)) < len(counts):
        return 0, None
    first, other = sorted(kept.index(v) for v in counts)[:2]
    return first, other


def _without_direction_jitter(values: Sequence[str]) -> list[str]:
    """Return directions in which nearly equal ones are written alike."""
    kept: dict[str, np.ndarray] = {}
    result = []
    for value in values:
        try:
            vector = np.array([float(v) for v in value.split("\\")])
        except ValueError:
            result.append("")  # absent, or a frame without one
            continue
        near = (
            k for k, v in kept.items() if v.shape == vector.shape and np.abs(v - vector).max() <= DIRECTION_TOLERANCE
        )
        result.append(next(near, value))
        kept.setdefault(result[-1], vector)
    return result


def _different_texts(values: Sequence[str]) -> tuple[int, int | None]:
    """Return the places of two texts that differ and are not empty; None where there are none."""
    places = {v: k for k, v in reversed(list(enumerate(_without_notation(values)))) if v}
    first, *others = sorted(places.values()) or [0]
    return first, others[0] if others else None


def _alternate(values: Sequence[str], *, is_time: bool) -> bool:
    """Return whether each value is at regular distances of more than one position, at least twice.

    Times that repeat in few groups of many slices are kinds; in many groups of few slices, those were excited together.
    """
    places: dict[str, list[int]] = {}
    for k, value in enumerate(_without_notation(values)):
        places.setdefault(value, []).append(k)
    if len(places) < 2 or (is_time and len(places) > min(map(len, places.values()))):
        return False
    for at in places.values():
        steps = set(np.diff(at).tolist())
        if len(steps) != 1 or steps == {1}:
            return False
    return True


def _without_notation(values: Sequence[str]) -> list[str]:
    """Return values in which equal numbers and texts are written alike; numbers within a thousandth count as equal."""
    kept: list[tuple[str, float | None]] = []
    result = []
    for value in values:
        text = value.strip().rstrip("\\")
        try:
            number = float(text)
        except ValueError:
            number = None
        same = next(
            (t for t, n in kept if t == text or (n is not None and number is not None and _is_near(n, number))), None
        )
        if same is None:
            kept.append((text, number))
        result.append(text if same is None else same)
    return result


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-3 * max(abs(a), abs(b))


def _different_numbers(values: Sequence[str], tolerance: float) -> tuple[int, int | None]:
    """Return the places of two values that differ by more than a part of the larger one; None where there are none."""
    numbers = []
    for k, value in enumerate(values):
        try:
            numbers.append((float(value), k))
        except ValueError:
            continue  # absent, or several values
    if not numbers:
        return 0, None
    (least, first), (most, last) = min(numbers), max(numbers)
    if most - least <= tolerance * max(abs(most), abs(least)):
        return first, None
    return first, last
