"""Detection of interleaved volumes: slices of several kinds at alternating positions, with one slice per position.

A trait such as the echo time splits such a stack into regular interleaved stacks. Variation within real volumes is accepted: a
value that differs from slice to slice, increases along the stack, or changes between concatenated blocks.
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
"""Traits that define the kind of a slice. Two kinds never belong to one volume."""

TIME_TRAITS = ("time",)
"""Traits that define the time point of a slice. Simultaneously excited slices share a value, at regular distances."""

PASS_TRAITS = ("acquisition", "trigger", "cardiac", "respiratory", "offset")
"""Traits that may alternate within one volume, if it was acquired in several interleaved passes."""

CLOCK = "clock"
"""Trait of the acquisition time. In interleaved acquisition, it alternates within every volume."""

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
"""The same traits as dimensions of an enhanced file."""

CONTRAST_TRAITS = {"echo": 0.02, "b": 0.02}
"""Numeric traits with a single value per volume, with their relative tolerance between slices."""

STEPPED_TRAITS = {"flip": 0.1, "inversion": 0.1, "kvp": 0.05, "repetition": 1 / 3}
"""Numeric traits that may vary from slice to slice, with their relative tolerance. A few repeated values are kinds."""

SAME_NUMBER = 1e-3
"""Relative difference of numbers that count as equal."""

MAX_STEPS = 4
"""Largest number of repeated values that count as kinds."""

REPEATED_TRAITS = ("sequence", "filter", "contrast", "time", "direction", "stack")
"""Text traits of which a few repeated values are kinds. For `contrast`, an empty value (no agent) is a kind too."""

DIRECTION_TOLERANCE = 0.05
"""Largest difference between components of gradient directions of one kind."""

TEXT_TRAITS = ("kernel", "rescale", "units", "photometric", "component", "asl")
"""Text traits with a single value per volume. Slices without a value are ignored."""

COMPONENTS = {
    **dict.fromkeys(("M", "MAGNITUDE", "M_FFE", "M_SE", "M_IR"), "magnitude"),
    **dict.fromkeys(("P", "PHASE", "PHASE MAP", "P_FFE", "P_SE"), "phase"),
    **dict.fromkeys(("R", "REAL", "R_FFE", "R_SE", "R_IR"), "real"),
    **dict.fromkeys(("I", "IMAGINARY", "I_FFE", "I_SE", "I_IR"), "imaginary"),
}
"""Words of ImageType for the component of a complex image."""

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
"""Words of ImageType for the content of the values. Other words may vary within a volume."""


def find_interleaved(frames: Sequence[Frame], slots: np.ndarray) -> tuple[str, list[str]] | None:
    """Find a trait that alternates between slices of several kinds.

    Parameters
    ----------
    frames : sequence of Frame
        The frames, one per position.
    slots : (N,) int ndarray
        Index of each frame's position along the normal.

    Returns
    -------
    tuple of str and list of str, or None
        The trait and its value in each frame, where nearly equal numbers are one value; each value has a regular stack of
        slices. None if all frames are of one kind.
    """
    order = np.argsort(slots)
    ordered = [frames[i] for i in order]
    others = (*KIND_TRAITS, *TIME_TRAITS, *PASS_TRAITS, *PASS_DIMENSIONS, CLOCK)
    dimensions = [t for t in ordered[0].traits if t not in others]
    # without rescaling in some slices, there is no kind of rescaling: the slices of such a stack are refused
    is_partly_rescaled = len({f.is_rescaled for f in frames}) > 1
    for trait in (*KIND_TRAITS, *TIME_TRAITS, *dimensions):
        if trait == "rescale" and is_partly_rescaled:
            continue
        tolerance = (CONTRAST_TRAITS | STEPPED_TRAITS).get(trait, SAME_NUMBER)
        values = _without_notation([f.traits.get(trait, "") for f in ordered], tolerance)
        if _alternate(values, is_time=trait not in KIND_TRAITS):
            return trait, [value for _, value in sorted(zip(order.tolist(), values, strict=True))]
    return None


def refuse_several_kinds(frames: Sequence[Frame], *, series: str) -> None:
    """Raise `SeriesError` for slices of several kinds in one stack, regardless of their order."""
    for trait, tolerance in CONTRAST_TRAITS.items():
        first, other = _different_numbers([f.traits.get(trait, "") for f in frames], tolerance)
        _refuse_two(frames, trait, first, other, series)
    for trait, tolerance in STEPPED_TRAITS.items():
        values = _without_notation([f.traits.get(trait, "") for f in frames])
        counts = Counter(v for v in values if v)
        if len(counts) <= MAX_STEPS and min(counts.values(), default=0) > 1:  # a few values, each of several slices
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
        remedy="export each kind as a separate series",
    )


def _word_of(words: Sequence[str], meanings: Mapping[str, str]) -> str:
    """Return the meaning of the last known word of ImageType, or an empty string."""
    return next((meanings[w] for w in reversed(words) if w in meanings), "")


def _different_repeats(values: Sequence[str], trait: str) -> tuple[int, int | None]:
    """Return the indices of two different values, if a few values repeat in several slices each; else None as second.

    Time values of few slices are ignored, as of simultaneously excited slices. Consecutive stacks are accepted.
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
    """Return directions with nearly equal ones replaced by the same text."""
    kept: dict[str, np.ndarray] = {}
    result = []
    for value in values:
        try:
            vector = np.array([float(v) for v in value.split("\\")])
        except ValueError:
            result.append("")  # absent, or a frame without direction
            continue
        near = (
            k for k, v in kept.items() if v.shape == vector.shape and np.abs(v - vector).max() <= DIRECTION_TOLERANCE
        )
        result.append(next(near, value))
        kept.setdefault(result[-1], vector)
    return result


def _different_texts(values: Sequence[str]) -> tuple[int, int | None]:
    """Return the indices of two different texts that are not empty; else None as second."""
    places = {v: k for k, v in reversed(list(enumerate(_without_notation(values)))) if v}
    first, *others = sorted(places.values()) or [0]
    return first, others[0] if others else None


def _alternate(values: Sequence[str], *, is_time: bool) -> bool:
    """Return True if each value repeats at a regular distance of more than one position.

    Few time values with many slices each are kinds. Many time values with few slices each are simultaneously excited slices.
    """
    places: dict[str, list[int]] = {}
    for k, value in enumerate(values):
        places.setdefault(value, []).append(k)
    if len(places) < 2 or (is_time and len(places) > min(map(len, places.values()))):
        return False
    for at in places.values():
        steps = set(np.diff(at).tolist())
        if len(steps) != 1 or steps == {1}:
            return False
    return True


def _without_notation(values: Sequence[str], tolerance: float = SAME_NUMBER) -> list[str]:
    """Return values with equal numbers and texts replaced by the same text. Numbers within the tolerance count as equal."""
    kept: list[tuple[str, float | None]] = []
    result = []
    for value in values:
        text = value.strip().rstrip("\\")
        try:
            number = float(text)
        except ValueError:
            number = None
        same = next(
            (
                t
                for t, n in kept
                if t == text or (n is not None and number is not None and _is_near(n, number, tolerance))
            ),
            None,
        )
        if same is None:
            kept.append((text, number))
        result.append(text if same is None else same)
    return result


def _is_near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def _different_numbers(values: Sequence[str], tolerance: float) -> tuple[int, int | None]:
    """Return the indices of the smallest and largest value, if they differ by more than the tolerance; else None as second.

    Parameters
    ----------
    tolerance : float
        Largest difference, as a part of the larger absolute value.
    """
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
