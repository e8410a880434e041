"""Values of some cases: modality of the channels, labels in the masks, and their volumes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.even_sample import sample_step
from medhybrid.data.label_values import round_labels
from medhybrid.data.layouts import Case
from medhybrid.data.scribbles import are_thin, encloses
from medhybrid.draft.places import Place, place_of
from medhybrid.draft.segments import names_in_mask
from medhybrid.draft.stand_ins import ChannelContents, contents_of
from medhybrid.draft.words import COLOUR_LETTERS, CT_WORDS, MR_WORDS, OTHER_WORDS
from medhybrid.errors import DataError, MedHybridError
from medhybrid.scans import Scan
from medhybrid.scans.dicom.not_scans import modality_of
from medhybrid.scans.raster import COLOURS, fit_colours, has_known_size, is_raster
from medhybrid.scans.reader import read_label_scan, read_scan

MAX_CASES = 12
MAX_VOXELS = 400_000_000
"""No further case is read once so many voxels were read, and as many again of further masks."""

MAX_FURTHER_VALUES = 256
"""Largest number of values of a further mask: one with more is not a label map."""

MAX_BETWEEN, ALIKE_SHARE = 8, 0.5
"""A mask has soft borders if it has more values than the first between 0 and its largest, and less than this share of their
pixels have the value of their neighbour. Labels are areas of one value."""

MIN_COUNTS, MIN_OBJECTS = 4, 8
"""Masks number objects if they have at least so many different numbers of values, and one has at least so many values."""

CT_AIR, CT_BONE = -400, 250
"""Hounsfield units: values below the first and above the second, in integers, are those of a CT."""


@dataclass(frozen=True, slots=True)
class ChannelValues:
    """Range of a channel in one case."""

    low: float
    high: float
    is_whole: bool


@dataclass(frozen=True, slots=True)
class SampledImage:
    """Image of one case: values of its channels, and facts in the header of its first file.

    Attributes
    ----------
    kind : str
        Kind of its source, for example ``raster``.
    modality : str
        Modality in a DICOM header; empty for other files.
    has_size : bool
        Whether its file states the pixel size.
    """

    channels: tuple[ChannelValues, ...]
    spacing_mm: tuple[float, ...]
    shape: tuple[int, ...]
    kind: str
    modality: str = ""
    has_size: bool = True


@dataclass(frozen=True, slots=True)
class Samples:
    """Values of the cases that were read.

    Attributes
    ----------
    volumes_ml : dict
        For each value in the masks, its volume in each case that has it, by case.
    n_masks : int
        Number of masks that were read: those of the sampled cases, and further ones for rare labels.
    sampled : frozenset of str
        Names of the sampled cases.
    contents : tuple of ChannelContents
        Blank and equal channels of the sampled cases, and of further ones; empty with one channel.
    places : tuple of Place
        Places of all labels in the masks that were read, other than those of image files.
    sizes_ml : dict
        Volume of the whole mask of each case that was read.
    in_corners : tuple of frozenset
        Values in the corners of the mask of each sampled case.
    enclosed : frozenset of str
        Cases whose masks are scribbles, with those of the background around the others: see `encloses`.
    """

    images: tuple[SampledImage, ...]
    volumes_ml: dict[int, dict[str, float]]
    remarks: tuple[str, ...] = ()
    n_masks: int = 0
    sampled: frozenset[str] = frozenset()
    contents: tuple[ChannelContents, ...] = ()
    places: tuple[Place, ...] = ()
    sizes_ml: dict[str, float] = field(default_factory=dict)
    in_corners: tuple[frozenset[int], ...] = ()
    enclosed: frozenset[str] = frozenset()

    @property
    def n_read(self) -> int:
        """Return the number of cases that were read."""
        return len(self.images)

    @property
    def n_channels(self) -> int:
        """Return the largest number of channels; 0 if no image was read."""
        return max((len(i.channels) for i in self.images), default=0)

    @property
    def median_spacing_mm(self) -> tuple[float, ...]:
        """Return the median spacing; empty if no image was read."""
        return tuple(float(v) for v in np.median([i.spacing_mm for i in self.images], axis=0)) if self.images else ()

    @property
    def median_shape(self) -> tuple[int, ...]:
        """Return the median shape; empty if no image was read."""
        return tuple(int(v) for v in np.median([i.shape for i in self.images], axis=0)) if self.images else ()

    @property
    def n_raster(self) -> int:
        """Return the number of PNG, JPEG, TIFF, BMP or GIF images."""
        return sum(i.kind == "raster" for i in self.images)

    @property
    def n_sizeless(self) -> int:
        """Return the number of images that state no pixel size."""
        return sum(not i.has_size for i in self.images)

    @property
    def is_colour(self) -> bool:
        """Return whether the images are files with red, green and blue."""
        return self.n_raster > 0 and self.n_channels == len(COLOURS)

    def volumes_of(self, values: Sequence[int]) -> list[float]:
        """Return the joint volume of some values in each case that has one of them."""
        cases: dict[str, float] = {}
        for value in values:
            for case, volume in self.volumes_ml.get(value, {}).items():
                cases[case] = cases.get(case, 0.0) + volume
        return list(cases.values())

    def are_apart(self, values: Sequence[int]) -> bool:
        """Return whether no case has two of some values."""
        cases = [case for value in values for case in self.volumes_ml.get(value, {})]
        return len(set(cases)) == len(cases)

    @property
    def may_number_objects(self) -> bool:
        """Return whether each mask has the values 1 to n, with another n in many of them, as masks that number objects."""
        by_case: dict[str, set[int]] = {}
        for value, cases in self.volumes_ml.items():
            for case in cases.keys() & self.sampled:
                by_case.setdefault(case, set()).add(value)
        counts = {len(values) for values in by_case.values()}
        return len(counts) >= MIN_COUNTS - 1 and all(
            values == set(range(1, len(values) + 1)) for values in by_case.values()
        )

    @property
    def n_objects(self) -> int:
        """Return the largest number of objects in a mask if the masks number objects, such as cells; 0 otherwise.

        Then each mask has the values 1 to n, with another n in most of them. Labels are the same structures in all masks.
        """
        by_case: dict[str, set[int]] = {}
        for value, cases in self.volumes_ml.items():
            for case in cases.keys() & self.sampled:
                by_case.setdefault(case, set()).add(value)
        counts = [len(values) for values in by_case.values()]
        are_numbered = all(values == set(range(1, len(values) + 1)) for values in by_case.values())
        if not are_numbered or len(set(counts)) < max(MIN_COUNTS, len(counts) / 2) or max(counts) < MIN_OBJECTS:
            return 0
        return max(counts)

    def modality(self, index: int, name: str) -> tuple[str, str]:
        """Return the modality of a channel and the reason: its name, otherwise its values."""
        found = [i.channels[index] for i in self.images if index < len(i.channels)]
        looks_ct = (
            bool(found)
            and all(v.is_whole for v in found)
            and (sum(v.low <= CT_AIR and v.high >= CT_BONE for v in found) > len(found) / 2)
        )
        if CT_WORDS.search(name):
            if found and all(v.low >= 0 and v.high <= 255 for v in found):
                return "other", f"the name {name} stands for CT, but the values are 0 to 255, not Hounsfield units"
            return "CT", f"the channel's name {name}"
        if OTHER_WORDS.search(name) or (self.n_raster and COLOUR_LETTERS.search(name)):
            return "other", f"the channel's name {name}"
        in_headers = {i.modality for i in self.images}
        if len(in_headers) == 1 and (modality := in_headers.pop()):
            return modality if modality in ("CT", "MR") else "other", "Modality in the DICOM headers"
        if self.n_raster:
            return "other", "an image file, whose values have no unit"
        if MR_WORDS.search(name):
            return "MR", f"the channel's name {name}"
        if looks_ct:
            return "CT", "values as Hounsfield units"
        return "MR", "by default, since name and values give no modality; MR scales each scan by its own values"


def read_samples(cases: Sequence[Case], channels: Sequence[str]) -> Samples:
    """Read some evenly spread cases. A case that cannot be read is left out with a remark."""
    step = max(1, len(cases) / MAX_CASES)
    chosen = [cases[int(i * step)] for i in range(min(MAX_CASES, len(cases)))]
    images: list[SampledImage] = []
    volumes: dict[int, dict[str, float]] = {}
    sizes: dict[str, float] = {}
    contents: list[ChannelContents] = []
    places: list[Place] = []
    in_corners: list[frozenset[int]] = []
    enclosed: set[str] = set()
    remarks, n_voxels = [], 0
    for case in chosen:
        if n_voxels > MAX_VOXELS:
            break
        try:
            mask, voxel_ml, place, is_enclosed = _mask_of(case)
            image, arrays = _image_of(case)
            if image.kind == "raster":
                _refuse_soft_edges(case, mask)
        except (MedHybridError, OSError, ValueError) as error:
            remarks.append(f"{case.name} cannot be read: {error}"[:500])
            continue
        n_voxels += int(np.prod(image.shape))
        images.append(image)
        contents += _contents_of(arrays, mask)
        places += place
        sizes[case.name] = mask.size * voxel_ml
        enclosed |= {case.name} if is_enclosed else set()
        in_corners.append(
            frozenset(np.unique(mask[np.ix_(*([0, -1] for _ in mask.shape))]).astype(int).tolist() if mask.size else ())
        )
        numbers, counts = np.unique(mask, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number != 0 and float(number).is_integer():
                volumes.setdefault(int(number), {})[case.name] = count * voxel_ml
    others = [c for c in cases if c not in chosen]
    n_more = _add_further_masks(others, volumes, sizes, places, enclosed)
    if contents:
        contents += _further_contents(others)
    names = frozenset(case.name for case in chosen)
    return Samples(
        tuple(images),
        dict(sorted(volumes.items())),
        tuple(remarks[:3]),
        len(images) + n_more,
        names,
        tuple(contents),
        tuple(places),
        sizes,
        tuple(in_corners),
        frozenset(enclosed),
    )


def _add_further_masks(
    cases: Sequence[Case],
    volumes: dict[int, dict[str, float]],
    sizes: dict[str, float],
    places: list[Place],
    enclosed: set[str],
) -> int:
    """Add facts of masks that are not sampled, up to `MAX_VOXELS` in all; return the number of masks."""
    n_voxels = n_read = 0
    for case in cases:
        if n_voxels > MAX_VOXELS:
            break
        if case.mask is None:
            continue
        with suppress(MedHybridError, OSError, ValueError):  # such a case is reported when it is prepared
            mask, voxel_ml, place, is_enclosed = _mask_of(case)
            n_voxels += mask.size
            if is_raster(case.mask.paths[0]):
                _refuse_soft_edges(case, mask)
            n_read += 1
            numbers, counts = np.unique(mask, return_counts=True)
            if len(numbers) > MAX_FURTHER_VALUES:
                continue
            sizes[case.name] = mask.size * voxel_ml
            enclosed |= {case.name} if is_enclosed else set()
            places += place
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                if number != 0 and float(number).is_integer():
                    volumes.setdefault(int(number), {})[case.name] = count * voxel_ml
    return n_read


def _further_contents(cases: Sequence[Case]) -> list[ChannelContents]:
    """Return the contents of cases that are not sampled, up to `MAX_VOXELS` in all: few cases may lack a channel."""
    found: list[ChannelContents] = []
    n_voxels = 0
    for case in cases:
        if n_voxels > MAX_VOXELS:
            break
        with suppress(MedHybridError, OSError, ValueError):  # such a case is reported when it is prepared
            _, arrays = _image_of(case)
            n_voxels += sum(a.size for a in arrays)
            found += _contents_of(arrays, _mask_of(case)[0])
    return found


def _contents_of(arrays: Sequence[NDArray[Any]], mask: NDArray[np.generic]) -> list[ChannelContents]:
    """Return the contents of the channels of an image, if it has several on one grid."""
    if len(arrays) < 2 or len({a.shape for a in arrays}) > 1:
        return []
    return [contents_of(arrays, mask)]


def _image_of(case: Case) -> tuple[SampledImage, list[NDArray[Any]]]:
    """Read the image of a case, and return its values in short, and its channels (X, Y, Z)."""
    found: list[ChannelValues] = []
    arrays: list[NDArray[Any]] = []
    first: Scan | None = None
    for files in case.images:
        if files is None:
            found.append(ChannelValues(0.0, 0.0, False))
            continue
        scan = read_scan(files.paths[0] if len(files.paths) == 1 else files.paths, case=case.name, part=files.part)
        scan = fit_colours(scan, 1)
        first = first or scan
        found += [_values_of(channel) for channel in scan.array]
        arrays += list(scan.array)
    if first is None:
        raise DataError(f"case {case.name} has no image")
    image = SampledImage(
        tuple(found),
        first.grid.spacing_mm,
        first.grid.shape,
        first.source.kind,
        modality=modality_of(first.source.header[0]) if first.source.kind == "dicom" else "",
        has_size=has_known_size(first),
    )
    is_whole = len(arrays) == len(found) and image.kind != "raster"  # a photo may well be grey
    return image, arrays if is_whole else []


def _values_of(channel: NDArray[np.generic]) -> ChannelValues:
    sample = channel.reshape(-1)[:: sample_step(channel.shape, 200_000)].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return ChannelValues(0.0, 0.0, False)
    low, high = np.percentile(sample, [0.5, 99.5])
    return ChannelValues(float(low), float(high), bool((sample == np.rint(sample)).all()))


def _refuse_soft_edges(case: Case, mask: NDArray[Any]) -> None:
    """Refuse a mask of 0 and 255 with grey values at its border, from smoothing or resizing: they are not labels."""
    if not mask.size:
        return
    values = np.unique(mask)
    is_between = (mask > 0) & (mask < values[-1])
    between = values[(values > 0) & (values < values[-1])]
    if values[-1] not in (255, 65535) or len(between) <= MAX_BETWEEN:
        return
    is_alike = is_between[1:] & (mask[1:] == mask[:-1])
    if is_alike.sum() < ALIKE_SHARE * is_between[1:].sum():
        raise DataError(
            f"the mask of {case.name} has grey values at its borders, from smoothing or resizing",
            expected=f"0 and {values[-1]}",
            found=f"{len(between)} values between them",
            remedy="save the masks again with a threshold at half of the largest value",
        )


def _are_enclosed(mask: NDArray[np.generic], spacing_mm: tuple[float, ...]) -> bool:
    """Return whether a mask has scribbles of the background around those of structures, and another value in most voxels."""
    values, counts = np.unique(mask, return_counts=True)
    if mask.ndim != 3 or len(values) < 3 or 2 * counts.max() < mask.size or values[np.argmax(counts)] == 0:
        return False
    known = mask != values[np.argmax(counts)]
    return encloses(known, known & (mask != 0), spacing_mm) and are_thin(known)


def _mask_of(case: Case) -> tuple[NDArray[np.generic], float, list[Place], bool]:
    """Read the mask of a case.

    It is returned with the volume of a voxel in ml, the place of its labels if it is a volume, and whether it has scribbles of
    the background around those of structures.
    """
    if case.mask is None:
        return np.zeros(0, np.uint8), 0.0, [], False
    if len(case.mask.names) > 1 or names_in_mask(case.mask.paths[0]):  # its values differ between files
        return np.zeros(0, np.uint8), 0.0, [], False
    scan = read_label_scan(case.mask.paths[0], case=case.name, part=case.mask.part)
    if len(scan.array) != 1:
        raise DataError(
            f"the mask of {case.name} has several channels",
            expected="one label map",
            found=f"{len(scan.array)} channels",
            remedy="join them to one label map, or split time points into separate files with their images",
        )
    mask: NDArray[Any] = round_labels(scan.array[0])
    if mask.dtype.kind == "f" and (broken := [v for v in np.unique(mask[::2]) if v != np.rint(v)]):
        raise DataError(
            f"the mask of {case.name} has values that are not whole numbers",
            expected="0 for the background, and a whole number for each label",
            found=", ".join(f"{v:.4g}" for v in broken[:5]),
            remedy="save it without rescaling or interpolation",
        )
    if mask.size and float(mask.min()) < 0:
        raise DataError(
            f"the mask of {case.name} has values below 0",
            expected="0 for the background, and a positive number for each label",
            found=f"{mask.min():g} in {int((mask < 0).sum())} voxels",
            remedy="correct the mask, or remove the case",
        )
    place = None if scan.source.kind == "raster" else place_of(mask, scan.affine)
    return mask, scan.grid.voxel_ml, [place] if place else [], _are_enclosed(mask, scan.grid.spacing_mm)
