"""The patches of a step depend only on seed and step, and the requested share contains foreground."""

from pathlib import Path

import numpy as np
import pytest

from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.sampling import PatchSampler, Prefetcher
from medhybrid.data.store import PreparedCase
from medhybrid.runs.prepared import prepared_folder
from tests.synthetic import StudyFolder


@pytest.fixture
def cases(prepared: StudyFolder) -> list[PreparedCase]:
    dataset = PreparedDataset(Path(prepared_folder(prepared.config)))
    return dataset.open(dataset.fold(0).train)


def sampler(cases: list[PreparedCase], share: float = 0.5, seed: int = 0) -> PatchSampler:
    return PatchSampler(cases, patch_size=(16, 16, 8), batch_size=2, foreground_share=share, seed=seed)


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_batches_do_not_depend_on_the_number_of_workers_or_the_order_of_steps(
    cases: list[PreparedCase], n_workers: int
) -> None:
    plain = [sampler(cases).batch(step) for step in range(6)]
    source = Prefetcher(sampler(cases), n_workers)

    for expected in plain:
        got = source.batch(expected.step)
        assert got.cases == expected.cases
        np.testing.assert_array_equal(got.image, expected.image)
        np.testing.assert_array_equal(got.labels, expected.labels)
    source.close()


def test_another_seed_gives_other_patches(cases: list[PreparedCase]) -> None:
    assert not np.array_equal(sampler(cases).batch(0).image, sampler(cases, seed=1).batch(0).image)


def test_every_patch_drawn_around_foreground_contains_foreground(cases: list[PreparedCase]) -> None:
    source = sampler(cases, share=1.0)

    for step in range(20):
        margin = [(r - p) // 2 for r, p in zip(source.read_size, source.patch_size, strict=True)]
        inner = tuple(slice(m, m + p) for m, p in zip(margin, source.patch_size, strict=True))
        assert all(labels[inner].any() for labels in source.batch(step).labels)
