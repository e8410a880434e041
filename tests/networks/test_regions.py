"""Region logits give the label map that thresholds give, in the order of the regions."""

from __future__ import annotations

import numpy as np
import torch

from medhybrid.networks.regions import RegionScores

NESTED = [(1, 2, 3), (2, 3), (3,)]
"""Whole tumour, core and enhancing part of classes 1, 2 and 3."""


def by_thresholds(logits: np.ndarray, members: list[tuple[int, ...]], n_classes: int) -> np.ndarray:
    """Return the label map (N,) of logits (R, N): the last region that is on, then the classes it shares with the others."""
    labels = np.zeros(logits.shape[1], int)
    for voxel in range(logits.shape[1]):
        on = [r for r in range(len(members)) if logits[r, voxel] > 0]
        if on:
            possible = [
                c
                for c in range(1, n_classes + 1)
                if c in members[on[-1]] and not any(c in members[r] for r in range(on[-1] + 1, len(members)))
            ]
            fit = [sum(logits[r, voxel] * (1 if c in m else -1) for r, m in enumerate(members)) for c in possible]
            labels[voxel] = possible[int(np.argmax(fit))]
    return labels


def test_nested_regions_are_drawn_in_their_order() -> None:
    logits = torch.randn(1, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))

    scores = RegionScores(NESTED, 3)(logits)

    assert scores.shape == (1, 4, 4, 5, 6)
    expected = by_thresholds(logits[0].flatten(1).numpy(), NESTED, 3)
    np.testing.assert_array_equal(scores.argmax(1).flatten().numpy(), expected)


def test_overlapping_regions_keep_their_common_class_apart() -> None:
    members = [(1, 2), (2, 3)]  # 1 only the first, 3 only the second, 2 both
    logits = torch.randn(1, 2, 5, 5, 5, generator=torch.Generator().manual_seed(1))

    labels = RegionScores(members, 3)(logits).argmax(1)

    first, second = (logits[0, r] > 0 for r in range(2))
    expected = torch.where(first & second, 2, torch.where(first, 1, torch.where(second, 3, 0)))
    assert torch.equal(labels[0], expected)


def test_targets_of_regions_are_unions_of_their_classes() -> None:
    classes = torch.tensor([0, 1, 2, 3, 255]).view(1, 5, 1, 1)

    targets = RegionScores(NESTED, 3).targets(classes)

    assert targets[0, :, :, 0, 0].tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]


def test_values_that_no_region_tells_apart_become_the_first_of_them() -> None:
    logits = torch.full((1, 2, 1, 1, 2), 2.0)
    logits[0, 1, 0, 0, 0] = -2.0

    labels = RegionScores([(1, 2, 3), (3,)], 3)(logits).argmax(1)

    assert labels.flatten().tolist() == [1, 3]
