"""Channels on another grid than the masks, such as a CT before and after resampling to its PET: one of them can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from medhybrid.data.layouts.label_files import files_of_mask
from medhybrid.data.mask_files import MAX_GAP_MM
from medhybrid.draft.pairs import Pair, Pairs
from medhybrid.errors import DataError, MedHybridError
from medhybrid.geometry import Grid, corner_distance_mm, match_axes
from medhybrid.names import printable_path
from medhybrid.scans.image_files import read_geometry
from medhybrid.scans.raster import is_raster
from medhybrid.scans.slicer_segments import segments_of_nrrd

MAX_CASES = 12

MIN_SHAPES = 2
"""Number of images of other shapes from which on it is no accident."""


def without_other_grids(root: Path, pairs: Pairs) -> Pairs:
    """Return the pairs without the channels that never lie on the grid of the mask, where others always do.

    Only the headers of some cases are read. Without such other channels, the pairs are returned as they are.

    Raises
    ------
    DataError
        If no image has the shape of its mask: `preprocess` would refuse each case.
    """
    step = max(1, len(pairs.pairs) // MAX_CASES)
    sampled = pairs.pairs[::step][:MAX_CASES]
    n_read: Counter[str] = Counter()
    n_alike: Counter[str] = Counter()
    for pair in sampled:
        for channel, is_alike in _on_mask(root, pair).items():
            n_read[channel] += 1
            n_alike[channel] += is_alike
    others = [c for c in pairs.channels if n_read[c] and not n_alike[c]]
    if others and not n_alike.total():
        _refuse_other_shapes(root, sampled)
    if not any(n_read[c] and n_alike[c] == n_read[c] for c in pairs.channels):
        return pairs
    kept = [replace(p, images={c: i for c, i in p.images.items() if c not in others}) for p in pairs.pairs]
    remarks = tuple(f"{c} is not used: it lies on another grid than the masks" for c in others)
    channels = {c: n for c, n in pairs.channels.items() if c not in others}
    used = tuple(p for p in kept if p.images)
    return replace(pairs, pairs=used, channels=channels, left_out=(*pairs.left_out, *remarks))


def _refuse_other_shapes(root: Path, pairs: Sequence[Pair]) -> None:
    """Raise `DataError` if images and masks never have the same shape. Masks of 3D Slicer may be cropped to their segments."""
    shapes: list[tuple[Path, tuple[int, ...], tuple[int, ...]]] = []
    for pair in pairs:
        for path in pair.images.values():
            with suppress(MedHybridError, OSError):
                mask = _grid_of(files_of_mask(root / pair.mask).paths[0])
                if segments_of_nrrd(root / pair.mask):
                    return
                shapes.append((path, _grid_of(root / path).shape, mask.shape))
    if any(sorted(image) == sorted(mask) for _, image, mask in shapes) or len(shapes) < MIN_SHAPES:
        return
    path, image_shape, mask_shape = shapes[0]
    raise DataError(
        "images and masks have other shapes",
        expected="a mask with the voxels of its image",
        found=f"{' x '.join(map(str, image_shape))} in {printable_path(path)}, "
        f"{' x '.join(map(str, mask_shape))} in its mask",
        remedy="list the images that the masks were drawn on in a table cases.csv with the columns case, mask and one per "
        "channel, or resample them to the masks",
    )


def _on_mask(root: Path, pair: Pair) -> dict[str, bool]:
    """Return whether each channel of a case lies on the grid of its mask; channels whose header cannot be read are omitted."""
    found: dict[str, bool] = {}
    with suppress(MedHybridError, OSError):
        mask = _grid_of(files_of_mask(root / pair.mask).paths[0])
        for channel, path in pair.images.items():
            if not is_raster(path) and not is_raster(pair.mask):
                with suppress(MedHybridError, OSError):
                    found[channel] = _is_same(_grid_of(root / path), mask)
    return found


def _grid_of(path: Path) -> Grid:
    shape, affine = read_geometry(path)
    x, y, z = shape[:3]
    return Grid((x, y, z), affine)


def _is_same(image: Grid, mask: Grid) -> bool:
    _, turned = match_axes(np.broadcast_to(False, mask.shape), mask, image)
    return turned.shape == image.shape and corner_distance_mm(turned, image) <= MAX_GAP_MM
