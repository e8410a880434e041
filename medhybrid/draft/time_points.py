"""Channels whose files have several time points or channels, beside others that have one: they cannot be one channel."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medhybrid.draft.pairs import Pairs
from medhybrid.errors import MedHybridError
from medhybrid.scans.image_files import read_geometry
from medhybrid.scans.raster import is_raster

MAX_CASES = 5


def without_series(root: Path, pairs: Pairs) -> Pairs:
    """Return the pairs without the channels whose sampled files all have four axes, where those of another have three."""
    if len(pairs.channels) < 2:
        return pairs
    step = max(1, len(pairs.pairs) // MAX_CASES)
    several: dict[str, set[bool]] = {}
    for pair in pairs.pairs[::step][:MAX_CASES]:
        for channel, path in pair.images.items():
            with suppress(MedHybridError, OSError):
                if not is_raster(path):
                    several.setdefault(channel, set()).add(len(read_geometry(root / path)[0]) > 3)
    found = [c for c in pairs.channels if several.get(c) == {True}]
    if not found or not any(several.get(c) == {False} for c in pairs.channels):
        return pairs
    kept = tuple(replace(p, images={c: i for c, i in p.images.items() if c not in found}) for p in pairs.pairs)
    remarks = tuple(f"{c} is not used: its files have several time points or channels" for c in found)
    channels = {c: n for c, n in pairs.channels.items() if c not in found}
    used = tuple(p for p in kept if p.images)
    return replace(pairs, pairs=used, channels=channels, left_out=(*pairs.left_out, *remarks))
