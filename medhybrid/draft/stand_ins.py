"""Channels that some cases lack: their values are blank, or a copy of another channel stands in for them.

A copy does not say which of the equal channels it shows. It is taken for the one that the labels fit best: the contrast of
labelled voxels with the others is compared with that in the cases that have all channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.checks import copied_channels
from medhybrid.data.even_sample import sample_step

MAX_SHARE = 0.5
"""Channels that are equal in more cases than this are no stand-ins: the dataset has one channel twice."""

N_VALUES = 50_000
"""Number of voxels from which a contrast is measured."""


@dataclass(frozen=True, slots=True)
class ChannelContents:
    """Blank and equal channels of one case.

    Attributes
    ----------
    blank : frozenset of int
        Channels with one value everywhere.
    copied : tuple of frozenset of int
        Groups of equal channels.
    contrasts : tuple of float
        For each channel, the share of pairs of a labelled and another voxel in which the labelled one is brighter; NaN without
        labels.
    """

    blank: frozenset[int]
    copied: tuple[frozenset[int], ...]
    contrasts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LackedChannels:
    """Channels that some cases lack, channels whose copies stand in for them, and the number of such cases."""

    lacked: frozenset[int]
    originals: frozenset[int]
    n_cases: int
    n_read: int

    def remarks(self, channels: Sequence[str]) -> tuple[str, ...]:
        """Return a remark for the config, with the names of the channels; none if no channel is lacked."""
        if not self.lacked:
            return ()
        names = " or ".join(channels[i] for i in sorted(self.lacked))
        kept = " and ".join(channels[i] for i in sorted(self.originals))
        what = f"it is blank or a copy, {kept} being taken for the original" if kept else "it is blank"
        return (f"{self.n_cases} of {self.n_read} cases that were read lack {names}: {what}",)


def contents_of(channels: Sequence[NDArray[Any]], mask: NDArray[Any]) -> ChannelContents:
    """Return the blank and equal channels (X, Y, Z) of an image, and the contrasts of the labels of a mask (X, Y, Z)."""
    groups: list[set[int]] = []
    for a, b in copied_channels(channels):
        group = next((g for g in groups if a in g), None)
        if group is None:
            groups.append({a, b})
        else:
            group.add(b)
    return ChannelContents(
        frozenset(i for i, c in enumerate(channels) if c.min() == c.max()),
        tuple(map(frozenset, groups)),
        tuple(_contrast(c, mask) for c in channels),
    )


def lacked_channels(cases: Sequence[ChannelContents]) -> LackedChannels:
    """Return the channels that are blank, or show another channel, in some cases but not in all."""
    n_channels = max((len(c.contrasts) for c in cases), default=0)
    counts = [sum(i in c.blank for c in cases) for i in range(n_channels)]
    lacked = {i for i, count in enumerate(counts) if 0 < count < len(cases)}
    groups = [(group, c) for c in cases for group in c.copied]
    whole = np.array([c.contrasts for c in cases if not c.copied and not c.blank and len(c.contrasts) == n_channels])
    originals: set[int] = set()
    if len(whole) and sum(bool(c.copied) for c in cases) <= MAX_SHARE * len(cases):
        usual = np.nanmedian(whole, axis=0) if np.isfinite(whole).any() else np.zeros(n_channels)
        while groups:
            best = min(
                {i for group, _ in groups for i in group},
                key=lambda i: (_n_of(i, groups), _unlike(i, groups, usual), i),
            )
            originals.add(best)
            lacked |= {i for group, _ in groups if best in group for i in group} - {best}
            groups = [(group, c) for group, c in groups if best not in group]
    if len(lacked) == n_channels and lacked:
        lacked.discard(min(lacked, key=lambda i: (i not in originals, counts[i], i)))
    n_cases = sum(bool((c.blank | frozenset().union(*c.copied)) & lacked) for c in cases)
    return LackedChannels(frozenset(lacked), frozenset(originals), n_cases, len(cases))


def _n_of(channel: int, groups: Sequence[tuple[frozenset[int], ChannelContents]]) -> int:
    return -sum(channel in group for group, _ in groups)


def _unlike(channel: int, groups: Sequence[tuple[frozenset[int], ChannelContents]], usual: NDArray[Any]) -> float:
    """Return how much the copies with a channel differ from it in contrast."""
    found = [abs(c.contrasts[channel] - usual[channel]) for group, c in groups if channel in group]
    return float(np.nan_to_num(np.nanmean(found))) if np.isfinite(found).any() else 0.0


def _contrast(values: NDArray[Any], mask: NDArray[Any]) -> float:
    if values.shape != mask.shape:
        return float("nan")
    step = sample_step(values.shape, N_VALUES)
    sample, labelled = values.reshape(-1)[::step].astype(np.float32), mask.reshape(-1)[::step] > 0
    is_tissue = np.isfinite(sample) & (sample > sample.min())
    others, ours = np.sort(sample[is_tissue & ~labelled]), sample[is_tissue & labelled]
    if not len(others) or not len(ours):
        return float("nan")
    below = np.searchsorted(others, ours, "left") + np.searchsorted(others, ours, "right")
    return float(below.mean() / (2 * len(others)))
