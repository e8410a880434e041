"""Channels on another grid than the masks, such as a CT before and after resampling to its PET: one of them can be used."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from medhybrid.data.layouts.label_files import files_of_mask
from medhybrid.data.mask_files import MAX_GAP_MM
from medhybrid.draft.pairs import Pair, Pairs
from medhybrid.errors import MedHybridError
from medhybrid.geometry import Grid, corner_distance_mm, match_axes
from medhybrid.scans.image_files import read_geometry
from medhybrid.scans.raster import is_raster

MAX_CASES = 12


def without_other_grids(root: Path, pairs: Pairs) -> Pairs:
    """Return the pairs without the channels that never lie on the grid of the mask, where others always do.

    Only the headers of some cases are read. Without such other channels, the pairs are returned as they are.
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
    if not any(n_read[c] and n_alike[c] == n_read[c] for c in pairs.channels):
        return pairs
    kept = [replace(p, images={c: i for c, i in p.images.items() if c not in others}) for p in pairs.pairs]
    remarks = tuple(f"{c} is not used: it lies on another grid than the masks" for c in others)
    channels = {c: n for c, n in pairs.channels.items() if c not in others}
    used = tuple(p for p in kept if p.images)
    return replace(pairs, pairs=used, channels=channels, left_out=(*pairs.left_out, *remarks))


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
