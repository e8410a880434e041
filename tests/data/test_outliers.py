"""Padding, defective voxels and metal do not affect the scaling of an image; all other values stay bit-identical."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medhybrid.data.even_sample import sample_step
from medhybrid.data.outliers import is_nearly_constant, replace_outliers
from medhybrid.data.prepare import prepare_image
from medhybrid.geometry import Grid
from tests.synthetic import AFFINE, SHAPE, blob_case, make_test_plan


def image(dtype: type = np.int16) -> np.ndarray:
    return blob_case(0)[0].astype(dtype)


def with_values(*changes: tuple[object, float], dtype: type = np.int16) -> np.ndarray:
    array = image(dtype)
    for where, value in changes:
        array[where] = value
    return array


SLAB = np.s_[:3]
HALF = np.s_[:19]
VOXEL = np.s_[20, 20, 10]
OTHER = np.s_[21, 20, 10]

BLENDED = np.s_[3]

DAMAGED = {
    "padding with a blended border": with_values((SLAB, -32768), (BLENDED, -16000)),
    "two paddings": with_values((np.s_[:2], -20000), (np.s_[2:4], -10000)),
    "filled as CT is by resampling": with_values((SLAB, -1024)),
    "filled with -2000, with a blended border": with_values((HALF, -2000), (np.s_[19, :4], -1200)),
    "a voxel at the lowest integer": with_values((VOXEL, -32768)),
    "a slab of padding": with_values((SLAB, -32768)),
    "more padding than scan": with_values((HALF, -32768)),
    "several broken voxels": with_values((VOXEL, -32768), (OTHER, -30000)),
    "padding and broken voxels": with_values((SLAB, -32768), (VOXEL, -31000)),
    "a voxel at the highest integer": with_values((VOXEL, 32767)),
    "both ends": with_values((SLAB, -32768), (VOXEL, 32767)),
    "metal": with_values((VOXEL, 30000), (OTHER, 32000)),
    "a float beyond all others": with_values((VOXEL, 1e30), dtype=np.float32),
    "float padding": with_values((SLAB, -1e6), dtype=np.float32),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_an_image_with_outliers_is_scaled_like_one_without(name: str) -> None:
    damaged, plan = DAMAGED[name], make_test_plan(labels={"x": 1})
    n_changed = int((damaged != image(damaged.dtype.type)).sum())

    cleaned, n_outliers = replace_outliers(damaged)
    scaled = prepare_image(damaged[None], Grid(SHAPE, AFFINE), plan).image
    plain = prepare_image(image()[None], Grid(SHAPE, AFFINE), plan).image

    assert n_outliers == n_changed
    assert cleaned.min() >= 0
    assert cleaned.max() <= image().max()
    inside = np.s_[0, 4:12, 8:16, 5:15]  # far from the changes, on axes turned to RAS
    np.testing.assert_allclose(scaled[inside] / scaled[inside].std(), plain[inside] / plain[inside].std(), rtol=1e-4)
    assert 0.5 < scaled[inside].std() / plain[inside].std() < 2


def negative_image(seed: int) -> np.ndarray:
    """Values that are all negative, with a padding that is not far below them."""
    array = np.random.default_rng(seed).normal(-500, 100, SHAPE).astype(np.float32)
    array[SLAB] = -1024
    array[20, 20, 8:11] = -52, -51, -50  # near each other, and above the rest
    return array


def test_outliers_are_found_at_any_position_in_a_volume_of_even_sizes() -> None:
    """A sample of each N-th voxel of 256 x 256 x N lies in one slice."""
    plain = np.zeros((256, 256, 30), np.int16)
    plain[40:200, 40:200, 4:-4] = np.random.default_rng(0).normal(500, 100, (160, 160, 22))
    damaged = plain.copy()
    damaged[3, 3:63, 10] = 32767

    assert not is_nearly_constant(plain)
    assert replace_outliers(damaged)[1] == 60


@pytest.mark.parametrize("shape", [(256, 256, 30), (512, 512, 7), (240, 240, 155), (97, 101, 103), (1, 512, 512)])
def test_an_even_sample_is_spread_over_every_axis(shape: tuple[int, ...]) -> None:
    taken = np.unravel_index(np.arange(0, np.prod(shape), sample_step(shape, 10_000)), shape)

    assert 5_000 <= len(taken[0]) <= 20_000
    assert [len(set(t.tolist())) for t in taken] == list(shape)


@pytest.mark.parametrize("padding", [32767, 65535])
def test_tissue_far_above_a_constant_background_is_not_replaced(padding: int) -> None:
    array = np.random.default_rng(0).integers(0, 4, (40, 40, 20)).astype(np.int32)
    array[10:30, 10:30, 5:15] = np.random.default_rng(1).normal(300, 20, (20, 20, 10))
    expected = array[:, :, :17].copy()
    array[:, :, 17:] = padding

    cleaned, n_outliers = replace_outliers(array)

    assert n_outliers == (array == padding).sum()
    np.testing.assert_array_equal(cleaned[:, :, :17], expected)


@pytest.mark.parametrize("filling", [-1024, -2000, -32768])
@pytest.mark.parametrize("zoom", [0.7, 1.5])
def test_a_fill_value_blended_by_resampling_does_not_affect_the_scale(filling: int, zoom: float) -> None:
    shape = (48, 48, 30)
    tissue = np.abs(np.random.default_rng(0).normal(0, 8, shape))
    tissue[10:38, 10:38, 6:24] = np.random.default_rng(1).normal(500, 90, (28, 28, 18))
    filled = tissue.copy()
    filled[:8] = filling
    plan = make_test_plan(labels={"x": 1}, spacing_mm=(1.0, 1.0, 1.0))

    clean, blended = (ndimage.zoom(a, zoom, order=1) for a in (tissue, filled))
    blended = np.where(blended == filling, filling, np.round(blended))
    inside = (*tuple(slice(int(14 * zoom), int(34 * zoom)) for _ in range(2)), slice(int(8 * zoom), int(20 * zoom)))
    scaled = [
        prepare_image(a[None].astype(np.float32), Grid(a.shape, np.eye(4)), plan).image[0] for a in (clean, blended)
    ]

    assert scaled[1][inside].std() == pytest.approx(scaled[0][inside].std(), rel=0.25)
    assert scaled[1][inside].mean() == pytest.approx(scaled[0][inside].mean(), rel=0.25)


REGULAR = {
    **{f"negative values beside padding, {seed}": negative_image(seed) for seed in range(3)},
    "few negative values on a background": np.pad(
        np.linspace(-900, -100, 27).reshape(3, 3, 3), 5, constant_values=-1024
    ),
    "plain": image(),
    "a background of 0 far below": np.where(image() > 250, image() + 20000, 0).astype(np.int32),
    "signed values": image().astype(np.int32) - 400,
    "scaled values": (image().astype(np.float32) - 100) / 50,
    "one value": np.full(SHAPE, 7),
    "two values": (image() > 400).astype(np.uint8) * 255,
    "a bright object": np.where(image() > 700, 4000, image() // 100).astype(np.int16),
}


@pytest.mark.parametrize("name", REGULAR)
def test_an_image_without_outliers_is_returned_unchanged(name: str) -> None:
    cleaned, n_outliers = replace_outliers(REGULAR[name])
    assert n_outliers == 0
    assert cleaned is REGULAR[name]


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([-32768, -30000, -20000]))
def test_replacing_outliers_is_idempotent(seed: int, n: int, value: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 1000, (8, 8, 8)).astype(np.int16)
    array[tuple(rng.integers(0, 8, (3, n)))] = value

    once, n_outliers = replace_outliers(array)
    twice, n_more = replace_outliers(once)

    assert n_outliers == int((array == value).sum())
    assert n_more == 0
    np.testing.assert_array_equal(once, twice)
