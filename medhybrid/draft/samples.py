"""Values of some cases: modality of the channels, labels in the masks, and their volumes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.even_sample import sample_step
from medhybrid.data.label_values import round_labels
from medhybrid.data.layouts import Case
from medhybrid.draft.segments import names_in_mask
from medhybrid.errors import MedHybridError
from medhybrid.geometry import spacing_mm
from medhybrid.scans.reader import read_scan

MAX_CASES = 12
MAX_VOXELS = 400_000_000
"""No further case is read once so many voxels were read."""

CT_WORDS = re.compile(r"(?<![a-z])(ct|cta|cect|ncct|ldct|cbct|hounsfield)(?![a-z])", re.IGNORECASE)
MR_WORDS = re.compile(
    r"(?<![a-z])(mri?|mrt|t1\w*|t2\w*|flair|dwi|adc|swi|pd\w*|dce|dti|bold|lge|bssfp|cine|dixon|ir|mprage|space|vibe|tof)(?![a-z])",
    re.IGNORECASE,
)
OTHER_WORDS = re.compile(
    r"(?<![a-z])(pet|suv|us|ultrasound|x-?ray|dx|cr|oct|rgb|red|green|blue|r|g|b|fundus|dermoscop\w*|microscop\w*|nonorm|histolog\w*"
    r"|probability|photo\w*|rescale\w*)(?![a-z])",
    re.IGNORECASE,
)
CT_AIR, CT_BONE = -400, 250
"""Hounsfield units: values below the first and above the second, in integers, are those of a CT."""


@dataclass(frozen=True, slots=True)
class ChannelValues:
    """Range of a channel in one case."""

    low: float
    high: float
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Samples:
    """Values of the cases that were read.

    Attributes
    ----------
    n_channels : int
        Largest number of channels; 0 if no image was read.
    volumes_ml : dict
        For each value in the masks, its volume in each case that has it, by case.
    """

    n_read: int
    n_channels: int
    channels: tuple[tuple[ChannelValues, ...], ...]
    volumes_ml: dict[int, dict[str, float]]
    median_spacing_mm: tuple[float, ...] = ()
    median_shape: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()

    def volumes_of(self, values: Sequence[int]) -> list[float]:
        """Return the joint volume of some values in each case that has one of them."""
        cases: dict[str, float] = {}
        for value in values:
            for case, volume in self.volumes_ml.get(value, {}).items():
                cases[case] = cases.get(case, 0.0) + volume
        return list(cases.values())

    def modality(self, index: int, name: str) -> tuple[str, str]:
        """Return the modality of a channel and the reason: its name, otherwise its values."""
        found = [case[index] for case in self.channels if index < len(case)]
        looks_ct = (
            bool(found)
            and all(v.is_whole for v in found)
            and (sum(v.low <= CT_AIR and v.high >= CT_BONE for v in found) > len(found) / 2)
        )
        if CT_WORDS.search(name):
            if found and all(v.low >= 0 and v.high <= 255 for v in found):
                return "other", f"the name {name} stands for CT, but the values are 0 to 255, not Hounsfield units"
            return "CT", f"the channel's name {name}"
        if OTHER_WORDS.search(name):
            return "other", f"the channel's name {name}"
        if MR_WORDS.search(name):
            return "MR", f"the channel's name {name}"
        if looks_ct:
            return "CT", "values as Hounsfield units"
        return "MR", "by default, since name and values give no modality; MR scales each scan by its own values"


def read_samples(cases: Sequence[Case], channels: Sequence[str]) -> Samples:
    """Read some evenly spread cases. A case that cannot be read is left out with a remark."""
    step = max(1, len(cases) / MAX_CASES)
    chosen = [cases[int(i * step)] for i in range(min(MAX_CASES, len(cases)))]
    values: list[tuple[ChannelValues, ...]] = []
    volumes: dict[int, dict[str, float]] = {}
    spacings, shapes, remarks, n_voxels = [], [], [], 0
    for case in chosen:
        if n_voxels > MAX_VOXELS:
            break
        try:
            image, grid = _image_of(case)
            mask, voxel_ml = _mask_of(case)
        except (MedHybridError, OSError, ValueError) as error:
            remarks.append(f"{case.name} cannot be read: {error}"[:200])
            continue
        n_voxels += int(np.prod(grid[1]))
        values.append(image)
        spacings.append(grid[0])
        shapes.append(grid[1])
        numbers, counts = np.unique(mask, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number != 0 and float(number).is_integer():
                volumes.setdefault(int(number), {})[case.name] = count * voxel_ml
    return Samples(
        len(values),
        max((len(v) for v in values), default=0),
        tuple(values),
        dict(sorted(volumes.items())),
        tuple(float(v) for v in np.median(spacings, axis=0)) if spacings else (),
        tuple(int(v) for v in np.median(shapes, axis=0)) if shapes else (),
        tuple(remarks[:3]),
    )


def _image_of(case: Case) -> tuple[tuple[ChannelValues, ...], tuple[tuple[float, ...], tuple[int, ...]]]:
    found: list[ChannelValues] = []
    grid: tuple[tuple[float, ...], tuple[int, ...]] = ((), ())
    for files in case.images:
        if files is None:
            found.append(ChannelValues(0.0, 0.0, False))
            continue
        scan = read_scan(files.paths[0] if len(files.paths) == 1 else files.paths, case=case.name, part=files.part)
        grid = grid if grid[0] else (spacing_mm(scan.affine), scan.grid.shape)
        found += [_values_of(channel) for channel in scan.array]
    return tuple(found), grid


def _values_of(channel: NDArray[np.generic]) -> ChannelValues:
    sample = channel.reshape(-1)[:: sample_step(channel.shape, 200_000)].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return ChannelValues(0.0, 0.0, False)
    low, high = np.percentile(sample, [0.5, 99.5])
    return ChannelValues(float(low), float(high), bool((sample == np.rint(sample)).all()))


def _mask_of(case: Case) -> tuple[NDArray[np.generic], float]:
    if case.mask is None:
        return np.zeros(0, np.uint8), 0.0
    if names_in_mask(case.mask.paths[0]):  # its values differ between files
        return np.zeros(0, np.uint8), 0.0
    scan = read_scan(case.mask.paths[0], case=case.name, part=case.mask.part)
    return round_labels(scan.array[0]), scan.grid.voxel_ml
