"""Sampling of training patches, as a pure function of (seed, step, index), so that runs can be repeated and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medhybrid.data.fingerprint import MIN_KNOWN
from medhybrid.data.store import PreparedCase

READ_MARGIN = 1.25
"""Factor by which a patch is read larger than it is used, so that rotation and scaling find real voxels at its edge."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Batch of patches as they are read, before augmentation.

    Attributes
    ----------
    image : (B, C, *read_size) float32 ndarray
    labels : (B, *read_size) uint8 ndarray
    cases : tuple of str
        Case of each patch.
    context : (B, F) float32 ndarray
        Values of `data.context`, NaN if missing; F is 0 without metadata conditioning.
    annotated : (B, S) bool ndarray
        Whether the case of each patch has each label or region; S is 0 if all cases have all.
    """

    step: int
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    cases: tuple[str, ...]
    context: NDArray[np.float32]
    annotated: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))


class PatchSampler:
    """Sampler that chooses and reads patches.

    In cases whose voxels are mostly of unknown label, such as scribbles, all patches are centred near voxels of known label.

    Parameters
    ----------
    foreground_share : float
        Share of patches, exact over several steps, that are centred near a foreground voxel of a random label.
    context : sequence of str
        Metadata fields that are read with each patch.
    places : sequence of int, optional
        Positions in the batch that are read, by default all: with several processes, each reads a part.
    structures : sequence of str
        Labels or regions of the plan, of which a partly labelled case has some.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        *,
        patch_size: tuple[int, int, int],
        batch_size: int,
        foreground_share: float,
        seed: int,
        context: Sequence[str] = (),
        places: Sequence[int] | None = None,
        structures: Sequence[str] = (),
    ) -> None:
        self.places = tuple(range(batch_size) if places is None else places)
        self.cases, self.context = list(cases), tuple(context)
        self.patch_size, self.batch_size = patch_size, batch_size
        self.foreground_share, self.seed = foreground_share, seed
        is_partial = any(c.record.annotated is not None for c in self.cases)
        self.structures = tuple(structures) if is_partial else ()
        x, y, z = (int(2 * round(p * READ_MARGIN / 2)) if p > 1 else 1 for p in patch_size)  # a slice stays a slice
        self.read_size = (x, y, z)

    def batch(self, step: int) -> Batch:
        """Read the batch of a step. It depends only on seed and step."""
        images, labels, names, context, annotated = [], [], [], [], []
        for index in self.places:
            rng = np.random.default_rng((self.seed, step, index))
            case = self.cases[int(rng.integers(len(self.cases)))]
            image, label = case.read_box(self._start(case, rng, step * self.batch_size + index), self.read_size)
            images.append(image)
            labels.append(label)
            names.append(case.name)
            context.append(case.context(self.context))
            has = case.record.annotated
            annotated.append(np.array([has is None or name in has for name in self.structures], bool))
        stacked = np.stack(images), np.stack(labels)
        return Batch(step, *stacked, tuple(names), np.stack(context), np.stack(annotated))

    def _start(self, case: PreparedCase, rng: np.random.Generator, n: int) -> tuple[int, int, int]:
        patch, shape = np.array(self.patch_size), np.array(case.shape)
        share = self.foreground_share
        wants_foreground = int((n + 1) * share) > int(n * share)  # exact share over consecutive samples
        low = np.minimum(0, (shape - patch) // 2)
        high = np.maximum(shape - patch, (shape - patch + 1) // 2)
        has_few = case.record.known_share < MIN_KNOWN
        if len(case.foreground) and (wants_foreground or has_few):
            rows = _rows(case.foreground[:, 3], rng, of_foreground=wants_foreground)
            voxel = case.foreground[rows[int(rng.integers(len(rows)))], :3]
            jitter = rng.integers(-(patch // 4), patch // 4 + 1)
            corner = np.clip(voxel - patch // 2 + jitter, low, high)
        else:
            corner = rng.integers(low, high + 1)
        corner = corner - (np.array(self.read_size) - patch) // 2
        return int(corner[0]), int(corner[1]), int(corner[2])


def _rows(classes: NDArray[np.int32], rng: np.random.Generator, *, of_foreground: bool) -> NDArray[np.intp]:
    """Return the rows of a random label, or those of the background, which are listed where few voxels are known."""
    background = np.empty(0, np.intp) if of_foreground else np.flatnonzero(classes == 0)
    if len(background):
        return background
    present = np.unique(classes)
    present = present[present > 0] if present[-1] > 0 else present
    return np.flatnonzero(classes == present[int(rng.integers(len(present)))])


class Prefetcher:
    """Reader of the next batches in threads. Decompression runs without the interpreter lock."""

    def __init__(self, sampler: PatchSampler, n_workers: int) -> None:
        self.sampler = sampler
        self.n_ahead = 2 * n_workers
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="patches") if n_workers else None
        self._coming: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """Return the batch of `step`, and start to read those of the next steps."""
        if self._pool is None:
            return self.sampler.batch(step)
        for coming in range(step, step + self.n_ahead + 1):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self.sampler.batch, coming)
        return self._coming.pop(step).result()

    def close(self) -> None:
        """Wait for running reads and cancel the others."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
