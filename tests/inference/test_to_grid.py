"""Labels on the scan's grid equal those of fully resampled logits, regardless of shortcuts and slabs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from medhybrid.geometry import Grid, resample_image, respace, turn_to_ras
from medhybrid.inference import to_grid
from medhybrid.inference.to_grid import labels_on_scan, probabilities_on_scan

ODDS = 1e-4
"""Logits that are closer than this may be told either way."""


def plain(logits: Tensor, network: Grid, scan: Grid) -> np.ndarray:
    """Return all logits (K, X, Y, Z) on the scan's grid, resampled in one piece."""
    turn = turn_to_ras(scan.affine)
    return np.stack([turn.undo(x) for x in resample_image(logits.numpy(), network, turn.grid(scan))])


def smooth_logits(seed: int, shape: tuple[int, int, int], n_labels: int, background: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, n_labels + 1, *(max(2, n // 3) for n in shape)), generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]
    logits[0] += background
    return logits


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*(st.integers(2, 24) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.5, 5.0) for _ in range(3))),
    flips=st.tuples(*(st.sampled_from([-1.0, 1.0]) for _ in range(3))),
    order=st.permutations([0, 1, 2]),
    n_labels=st.integers(1, 4),
    background=st.sampled_from([-2.0, 0.0, 2.0, 10.0]),
    slab=st.sampled_from([1, 100, 10**6]),
    seed=st.integers(0, 99),
)
def test_labels_are_the_highest_of_the_resampled_logits(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    flips: tuple[float, float, float],
    order: list[int],
    n_labels: int,
    background: float,
    slab: int,
    seed: int,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * np.array(spacing) * np.array(flips))[:, order]
    scan = Grid(shape, affine)
    turn = turn_to_ras(affine)
    network = respace(turn.grid(scan), (2.0, 1.5, 3.0))
    logits = smooth_logits(seed, network.shape, n_labels, background)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_grid, "SLAB_VOXELS", slab)
        labels = labels_on_scan(logits, network, turn.grid(scan), turn)
        probabilities = probabilities_on_scan(logits, network, turn.grid(scan), turn, temperature=2.0)

    full = plain(logits, network, scan)
    chosen = np.take_along_axis(full, labels[None].astype(int), axis=0)[0]
    assert labels.shape == shape
    assert (full.max(0) - chosen < ODDS).all()
    expected = np.exp(full / 2) / np.exp(full / 2).sum(0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_finer_grids_are_interpolated_as_scipy_does() -> None:
    scan = Grid((30, 20, 25), np.diag([1.0, 1.2, 0.7, 1.0]))
    turn = turn_to_ras(scan.affine)
    network = respace(scan, (2.0, 2.0, 2.0))
    logits = smooth_logits(3, network.shape, 2, 0.0)

    labels = labels_on_scan(logits, network, scan, turn)

    index = np.moveaxis(np.indices(scan.shape), 0, -1) @ scan.affine[:3, :3] + scan.affine[:3, 3]
    inside = (index - network.affine[:3, 3]) / np.diag(network.affine)[:3]
    inside = np.clip(
        inside, 0, np.array(network.shape) - 1
    )  # beyond the outermost voxel centres, values are those of the edge
    places = [np.arange(n) for n in network.shape]
    full = np.stack([RegularGridInterpolator(places, x)(inside) for x in logits.numpy().astype(float)])
    chosen = np.take_along_axis(full, labels[None].astype(int), axis=0)[0]
    assert (full.max(0) - chosen < ODDS).all()
    assert set(np.unique(labels)) == {0, 1, 2}


def test_logits_highest_for_background_give_an_empty_mask() -> None:
    scan = Grid((10, 12, 8), np.eye(4))
    logits = torch.zeros(3, 10, 12, 8)
    logits[0] = 1

    assert not labels_on_scan(logits, scan, scan, turn_to_ras(scan.affine)).any()
