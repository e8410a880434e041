"""The matrices of an axis resample as scipy resamples whole volumes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medhybrid.inference.nnunet.resample import axis_matrices, new_shape, resample_channel, separate_axis
from medhybrid.inference.nnunet.rules import Resampling

CUBIC, LINEAR = Resampling(order=3), Resampling(order=1)

SIZES = st.tuples(*[st.integers(1, 14)] * 3)


def theirs(values: np.ndarray, target: tuple[int, ...], order: int) -> np.ndarray:
    """Resample a volume with the call that scikit-image makes for it, and limit it to the range of its values."""
    factors = [m / n for n, m in zip(values.shape, target, strict=True)]
    whole = ndimage.zoom(values.astype(float), factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(whole, values.min(), values.max())


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.sampled_from([1, 3]), st.integers(0, 1000))
def test_a_volume_is_resampled_as_by_scipy(
    shape: tuple[int, int, int], target: tuple[int, int, int], order: int, seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    found = resample_channel(values, target, (1, 1, 1), (1, 1, 1), Resampling(order=order))
    assert found.shape == target
    np.testing.assert_allclose(found, theirs(values, target, order), atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, st.integers(0, 1000))
def test_thick_slices_are_resampled_one_by_one_and_repeated(
    shape: tuple[int, int, int], target: tuple[int, int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    found = resample_channel(values, target, (1, 1, 5), (1, 1, 2), CUBIC)
    slices = [theirs(values[..., z], target[:2], 3) for z in range(shape[2])]
    nearest = np.minimum((np.arange(target[2]) + 0.5) * shape[2] // target[2], shape[2] - 1).astype(int)
    for z, source in enumerate(nearest):
        options = {source, max(source - 1, 0)}  # at the middle between two slices, rounding decides
        assert any(np.allclose(found[..., z], slices[s], atol=2e-5) for s in options)


@given(SIZES, SIZES)
def test_weights_of_logits_are_shares_of_1(shape: tuple[int, int, int], target: tuple[int, int, int]) -> None:
    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.0, 9.0)):
        for matrix in axis_matrices(shape, target, spacing, (1, 1, 1), LINEAR):
            assert matrix.min() >= 0
            np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_slices_are_separate_where_one_spacing_alone_is_more_than_three_times_another() -> None:
    assert separate_axis(CUBIC, (1, 1, 3), (1, 1, 1)) is None
    assert separate_axis(CUBIC, (1, 1, 3.1), (1, 1, 1)) == 2
    assert separate_axis(CUBIC, (1, 1, 1), (4, 1, 1)) == 0
    assert separate_axis(CUBIC, (5, 5, 1), (1, 1, 1)) is None
    assert separate_axis(Resampling(separate=False), (1, 1, 9), (1, 1, 9)) is None
    assert separate_axis(Resampling(separate=True), (1, 1, 2), (1, 1, 1)) == 2


def test_a_shape_is_rounded_and_never_empty() -> None:
    assert new_shape((10, 10, 1), (1, 1, 1), (2, 3, 9)) == (5, 3, 1)
