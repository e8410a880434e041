"""Channels that are label maps, such as the edges of a mask: as inputs, they would show the network what it is to find."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from medhybrid.data.even_sample import sample_step
from medhybrid.draft.pairs import Pairs
from medhybrid.errors import MedHybridError
from medhybrid.scans.reader import read_label_scan, read_scan

MAX_CASES = 5
MAX_VALUES = 8
"""Largest number of different values of a label map; images have more."""

MAX_SAMPLE = 200_000


def without_label_maps(root: Path, pairs: Pairs) -> Pairs:
    """Return the pairs without the channels that are label maps in each sampled case, where another channel never is one."""
    if len(pairs.channels) < 2:
        return pairs
    step = max(1, len(pairs.pairs) // MAX_CASES)
    n_read: Counter[str] = Counter()
    n_maps: Counter[str] = Counter()
    for pair in pairs.pairs[::step][:MAX_CASES]:
        for channel, path in pair.images.items():
            with suppress(MedHybridError, OSError, ValueError):
                is_map = _is_label_map(root / path)
                with suppress(MedHybridError, OSError, ValueError):  # a mask that cannot be read
                    is_map = is_map or _gives_mask(root / path, root / pair.mask)
                n_read[channel] += 1
                n_maps[channel] += is_map
    maps = [c for c in pairs.channels if n_read[c] and n_maps[c] == n_read[c]]
    if not maps or not any(n_read[c] and not n_maps[c] for c in pairs.channels):
        return pairs
    kept = [replace(p, images={c: i for c, i in p.images.items() if c not in maps}) for p in pairs.pairs]
    why = (
        "its files are label maps, or made from masks. List them in a table cases.csv if they are the masks to learn, or "
        "inputs"
    )
    remarks = tuple(f"{c} is not used: {why}" for c in maps)
    channels = {c: n for c, n in pairs.channels.items() if c not in maps}
    used = tuple(p for p in kept if p.images)
    return replace(pairs, pairs=used, channels=channels, left_out=(*pairs.left_out, *remarks))


def _gives_mask(path: Path, mask: Path) -> bool:
    """Return whether a channel has one value outside of the mask and others in it, as a distance map has."""
    image, labels = read_scan(path).array[0], read_label_scan(mask).array[0]
    if image.shape != labels.shape:
        return False
    inside, outside = image[labels > 0], image[labels == 0]
    if not inside.size or not outside.size:
        return False
    return bool(outside.min() == outside.max() and (inside != outside.max()).any())


def _is_label_map(path: Path) -> bool:
    scan = read_scan(path)
    sample = scan.array[0].reshape(-1)[:: sample_step(scan.array[0].shape, MAX_SAMPLE)]
    values = np.unique(sample)
    return len(values) <= MAX_VALUES and bool((values == np.rint(values)).all())
