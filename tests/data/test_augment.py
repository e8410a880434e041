"""Augmentation is applied to image and labels in the same way; neutral parameters change nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medhybrid.config import AugmentConfig
from medhybrid.data.augment import PatchParameters, apply, centre_crop, draw_parameters, paste_foreground
from medhybrid.data.fingerprint import UNKNOWN

PATCH = (12, 16, 8)
READ = (16, 20, 10)
SPACING = (1.0, 1.0, 2.0)


def neutral(**changes: object) -> PatchParameters:
    values: dict[str, object] = {
        "matrix": None,
        "displacement": None,
        "flips": (),
        "gain": np.ones(1),
        "shift": np.zeros(1),
        "gamma": np.ones(1),
        "low_resolution": 1.0,
        "noise": 0.0,
        "present": np.ones(1, bool),
        "noise_seed": 0,
        "paste_margin_mm": None,
    }
    return PatchParameters(**{**values, **changes})  # type: ignore[arg-type]


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 1, *READ), generator=generator) + 0.5
    return image, (image[:, 0] > 1).to(torch.uint8)


def run(p: PatchParameters, image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return apply(image, labels, [p], patch_size=PATCH, spacing_mm=SPACING)


def test_neutral_parameters_only_crop() -> None:
    image, labels = example()

    x, y = run(neutral(), image, labels)

    assert torch.equal(x, centre_crop(image, PATCH))
    assert torch.equal(y, centre_crop(labels, PATCH).long())


def test_the_identity_matrix_changes_no_values() -> None:
    image, labels = example()

    x, y = run(neutral(matrix=np.eye(3)), image, labels)

    torch.testing.assert_close(x, centre_crop(image, PATCH), atol=1e-4, rtol=1e-4)
    assert torch.equal(y, centre_crop(labels, PATCH).long())


def test_a_quarter_turn_agrees_with_rot90() -> None:
    image, labels = example()
    image, labels = image[..., 2:-2, :], labels[..., 2:-2, :]  # square in the plane
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])

    x, y = apply(image, labels, [neutral(matrix=turn)], patch_size=(12, 12, 8), spacing_mm=SPACING)

    expected = torch.rot90(centre_crop(image, (12, 12, 8)), -1, (2, 3))
    other = torch.rot90(centre_crop(image, (12, 12, 8)), 1, (2, 3))
    assert min((x - expected).abs().max(), (x - other).abs().max()) < 1e-3
    assert y.shape == (1, 12, 12, 8)


def test_flips_move_image_and_labels_together() -> None:
    image, labels = example()

    x, y = run(neutral(flips=(0,)), image, labels)

    assert torch.equal(x, centre_crop(image, PATCH).flip(2))
    assert torch.equal(y, centre_crop(labels, PATCH).long().flip(1))


def test_air_and_blank_channels_stay_zero() -> None:
    image, labels = example()
    image[..., :8, :, :] = 0

    x, _ = run(neutral(shift=np.array([0.5]), gain=np.array([1.3]), gamma=np.array([0.7])), image, labels)
    blank, _ = run(neutral(shift=np.array([0.5]), noise=0.3), torch.zeros_like(image), labels)
    dropped, _ = run(neutral(present=np.zeros(1, bool)), image, labels)

    assert not x[centre_crop(image, PATCH) == 0].any()
    assert not blank.any()
    assert not dropped.any()


@given(seed=st.integers(0, 10_000))
def test_drawn_parameters_stay_within_their_limits_and_labels_stay_labels(seed: int) -> None:
    config = AugmentConfig()
    image, labels = example()

    p = draw_parameters(config, np.random.default_rng(seed), spacing_mm=SPACING, mirror_axes=(0,), optional=(False,))
    x, y = run(p, image, labels)

    assert p.present.all(), "a channel that is not optional is never blanked"
    assert set(p.flips) <= {0}
    assert abs(p.gain[0] - 1) <= config.contrast
    assert 0 <= p.noise <= config.noise
    assert torch.isfinite(x).all()
    assert set(y.unique().tolist()) <= {0, 1}


def test_the_same_seed_draws_the_same_parameters() -> None:
    image, labels = example()
    drawn = [
        draw_parameters(
            AugmentConfig(), np.random.default_rng(5), spacing_mm=SPACING, mirror_axes=(0,), optional=(True,)
        )
        for _ in range(2)
    ]

    first, second = (run(p, image, labels)[0] for p in drawn)

    assert torch.equal(first, second)


def test_pasting_copies_the_foreground_with_its_margin_only() -> None:
    x, y = torch.full((2, 12, 12, 6), 1.0), torch.zeros(12, 12, 6, dtype=torch.int64)
    y[0, 0, 0] = 1
    other, other_y = torch.full((2, 12, 12, 6), 5.0), torch.zeros(12, 12, 6, dtype=torch.int64)
    other_y[6, 6, 3] = 1

    image, labels = paste_foreground(x, y, other, other_y, margin_mm=2.5, spacing_mm=(1.0, 1.0, 5.0))

    expected = torch.zeros(12, 12, 6, dtype=torch.bool)
    expected[4:9, 4:9, 3] = True  # two voxels in the plane, none across thick slices
    assert torch.equal(image[0] == 5, expected)
    assert torch.equal(image[0], image[1])
    assert labels[6, 6, 3] == 1
    assert labels.sum() == 2  # the patch keeps its foreground outside the pasted region


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.9, 1.3, 5.0), (3.0, 1.0, 0.4)])
def test_the_margin_of_pasting_is_a_box_around_each_voxel(spacing_mm: tuple[float, float, float]) -> None:
    other_y = (torch.rand(16, 14, 12, generator=torch.Generator().manual_seed(0)) > 0.995).long()
    x, y, other = torch.ones(1, 16, 14, 12), torch.zeros_like(other_y), torch.full((1, 16, 14, 12), 5.0)

    image, _ = paste_foreground(x, y, other, other_y, margin_mm=4.0, spacing_mm=spacing_mm)

    size = [2 * int(4.0 // s) + 1 for s in spacing_mm]
    np.testing.assert_array_equal(image[0] == 5, ndimage.maximum_filter(other_y.numpy(), size, mode="constant") > 0)


def test_pasting_keeps_blank_channels_blank_and_needs_all_present_channels() -> None:
    blank = torch.ones(2, 4, 4, 4)
    blank[1] = 0
    full = torch.full((2, 4, 4, 4), 5.0)
    nothing, all_of_it = torch.zeros(4, 4, 4, dtype=torch.int64), torch.ones(4, 4, 4, dtype=torch.int64)

    image, labels = paste_foreground(blank, nothing, full, all_of_it, margin_mm=0, spacing_mm=(1, 1, 1))
    refused, kept = paste_foreground(full, nothing, blank, all_of_it, margin_mm=0, spacing_mm=(1, 1, 1))

    assert (image[0] == 5).all()
    assert not image[1].any()
    assert labels.all()
    assert torch.equal(refused, full)
    assert torch.equal(kept, nothing)


def test_a_batch_of_a_single_patch_is_not_pasted_into() -> None:
    image, labels = example()

    x, _ = run(neutral(paste_margin_mm=4.0), image, labels)

    assert torch.equal(x, centre_crop(image, PATCH))


@given(st.integers(0, 10_000))
def test_a_patch_of_one_slice_stays_in_its_slice(seed: int) -> None:
    config = AugmentConfig(
        affine_probability=1, intensity_probability=0, low_resolution_probability=0, scale=0.05, elastic_mm=1
    )
    p = draw_parameters(
        config, np.random.default_rng(seed), spacing_mm=(1.0, 1.0, 5.0), mirror_axes=(), optional=(False,)
    )
    image = torch.ones(1, 1, 60, 60, 1)
    labels = torch.ones(1, 60, 60, 1, dtype=torch.uint8)

    x, y = apply(image, labels, [p], patch_size=(32, 32, 1), spacing_mm=(1.0, 1.0, 5.0))

    torch.testing.assert_close(x, torch.ones(1, 1, 32, 32, 1))
    assert y.all()


def test_mirroring_left_right_exchanges_the_classes_of_the_sides() -> None:
    image, _ = example()
    labels = torch.arange(4, dtype=torch.uint8).repeat_interleave(4).view(1, 16, 1, 1).repeat(1, 1, 20, 10)
    labels[0, 8] = UNKNOWN

    x, y = apply(image, labels, [neutral(flips=(0,))], patch_size=PATCH, spacing_mm=SPACING, exchange=(0, 2, 1, 3))
    _, kept = apply(image, labels, [neutral(flips=(1,))], patch_size=PATCH, spacing_mm=SPACING, exchange=(0, 2, 1, 3))

    cropped = centre_crop(labels, PATCH)[0].long()
    assert torch.equal(x, centre_crop(image, PATCH).flip(2))
    of_other_side = {0: 0, 1: 2, 2: 1, 3: 3, UNKNOWN: UNKNOWN}
    expected = np.vectorize(of_other_side.get)(cropped.flip(0).numpy())
    np.testing.assert_array_equal(y[0].numpy(), expected)
    assert torch.equal(kept[0], cropped.flip(1)), "only left and right name sides"


def test_unknown_voxels_are_not_pasted_as_foreground() -> None:
    x, y = torch.full((1, 6, 6, 6), 1.0), torch.zeros(6, 6, 6, dtype=torch.int64)
    other, other_y = torch.full((1, 6, 6, 6), 5.0), torch.full((6, 6, 6), UNKNOWN)
    other_y[2, 2, 2] = 1

    image, labels = paste_foreground(x, y, other, other_y, margin_mm=0, spacing_mm=(1, 1, 1))

    assert (image == 5).sum() == 1
    assert labels.sum() == 1


def test_foreground_is_pasted_only_between_cases_with_the_same_labels() -> None:
    image = torch.stack([torch.ones(1, *READ), torch.full((1, *READ), 5.0)])
    labels = torch.stack([torch.zeros(READ), torch.ones(READ)]).to(torch.uint8)
    pasting = [neutral(paste_margin_mm=0.0), neutral()]

    def first(annotated: list[list[bool]]) -> torch.Tensor:
        has = np.array(annotated)
        return apply(image, labels, pasting, patch_size=PATCH, spacing_mm=SPACING, annotated=has)[0][0]

    assert (first([[True, False], [True, False]]) == 5).all()
    assert (first([[True, True], [True, False]]) == 1).all()


def test_what_rotation_brings_into_a_patch_of_scribbles_is_unknown() -> None:
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    image = torch.ones(1, 1, 12, 12, 8)
    scribbles = torch.full((1, 12, 12, 8), UNKNOWN, dtype=torch.uint8)
    scribbles[:, 5:7, 5:7] = 1
    whole = torch.ones_like(scribbles)
    sizes = {"patch_size": (12, 12, 8), "spacing_mm": SPACING}

    x, of_scribbles = apply(image, scribbles, [neutral(matrix=turn)], has_unknown=True, **sizes)
    _, of_whole = apply(image, whole, [neutral(matrix=turn)], has_unknown=True, **sizes)

    is_outside = x[0, 0] < 0.01
    assert is_outside.any()
    assert (of_scribbles[0][is_outside] == UNKNOWN).all()
    assert set(of_scribbles.unique().tolist()) == {1, UNKNOWN}
    assert (of_whole[0][is_outside] == 0).all()
