"""Sliding windows cover every voxel and blend correctly; the reference is MONAI's sliding-window inference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from medhybrid.inference.windows import blending_weights, mirrorings, predict_windows, window_starts


@given(length=st.integers(1, 300), window=st.integers(1, 64), overlap=st.floats(0, 0.9))
def test_windows_cover_every_voxel_with_the_promised_overlap(length: int, window: int, overlap: float) -> None:
    starts = window_starts(length, window, overlap)

    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    gaps = np.diff(starts)
    assert (gaps <= max(1, int(window * (1 - overlap)))).all()
    assert (gaps > 0).all()


def identity(batch: torch.Tensor) -> torch.Tensor:
    return torch.cat([batch, -batch], 1)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*(st.integers(3, 20) for _ in range(3))),
    window=st.tuples(*(st.integers(4, 12) for _ in range(3))),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
    axes=st.sampled_from([(), (0,), (0, 2)]),
)
def test_an_identity_model_returns_its_input(
    shape: tuple[int, int, int], window: tuple[int, int, int], overlap: float, axes: tuple[int, ...]
) -> None:
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))

    logits = predict_windows(
        image, identity, window=window, n_classes=2, overlap=overlap, window_batch=3, mirror_axes=axes
    )

    torch.testing.assert_close(logits, torch.cat([image, -image]), atol=1e-5, rtol=1e-5)


def test_a_convolution_agrees_with_monais_sliding_window() -> None:
    """Compare on sizes for which both place their windows at the same positions."""
    torch.manual_seed(0)
    net = torch.nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn(1, 24, 18, 16)
    window = (12, 12, 8)

    ours = predict_windows(image, net, window=window, n_classes=2, overlap=0.5, window_batch=2, skip_air=False)

    with torch.no_grad():
        theirs = sliding_window_inference(
            image[None], window, 2, net, overlap=0.5, roi_weight_map=blending_weights(window)
        )
    torch.testing.assert_close(ours, theirs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12, 12, 8), (12, 12, 20)])
@pytest.mark.parametrize("window_batch", [2, 3, 8])
def test_mirrorings_in_one_batch_give_the_result_of_single_ones(shape: tuple[int, int, int], window_batch: int) -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv3d(1, 2, 3, padding=1)
    image, seen = torch.randn(1, *shape), []

    def predictor(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        out: torch.Tensor = net(batch)
        return out

    common = {"window": (12, 12, 8), "n_classes": 2, "overlap": 0.5, "mirror_axes": (0, 2)}
    one_by_one = predict_windows(image, net, window_batch=1, **common)
    at_once = predict_windows(image, predictor, window_batch=window_batch, **common)

    torch.testing.assert_close(at_once, one_by_one, atol=1e-5, rtol=1e-5)
    assert 1 < max(seen) <= window_batch
    assert sum(seen) == 4 * (1 if shape[2] == 8 else 4)


def test_windows_of_air_are_skipped_and_become_background() -> None:
    seen = []

    def predictor(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return torch.cat([batch * 0, batch * 0 + 1], 1)

    image = torch.zeros(1, 32, 8, 8)
    image[:, :8] = 1

    logits = predict_windows(image, predictor, window=(8, 8, 8), n_classes=2, overlap=0, window_batch=4)

    assert sum(seen) == 1
    assert (logits.argmax(0)[:8] == 1).all()
    assert (logits.argmax(0)[8:] == 0).all()


def test_blending_weights_are_highest_in_the_centre_and_never_zero() -> None:
    weights = blending_weights((9, 9, 5))

    assert weights.argmax() == weights.numel() // 2
    assert weights.min() >= 0.05


@pytest.mark.parametrize(("axes", "n"), [((), 1), ((0,), 2), ((0, 1), 4), ((0, 1, 2), 8)])
def test_every_mirroring_is_used_once(axes: tuple[int, ...], n: int) -> None:
    assert len(set(mirrorings(axes))) == n


def of_sides(batch: torch.Tensor) -> torch.Tensor:
    """Return logits of background, left and right by the position along X, as a network that knows the sides."""
    ramp = torch.linspace(-1, 1, batch.shape[2])[:, None, None].expand(batch.shape[2:])
    return torch.stack([batch[:, 0], batch[:, 0] * ramp, -batch[:, 0] * ramp], dim=1)


def test_test_time_mirroring_exchanges_the_classes_of_the_sides() -> None:
    image = torch.rand(1, 12, 8, 6, generator=torch.Generator().manual_seed(0)) + 1
    common = {"window": (12, 8, 6), "n_classes": 3, "overlap": 0.5, "window_batch": 2}

    plain = predict_windows(image, of_sides, **common)
    mirrored = predict_windows(image, of_sides, mirror_axes=(0, 1), exchange=(0, 2, 1), **common)
    without = predict_windows(image, of_sides, mirror_axes=(0,), **common)

    torch.testing.assert_close(mirrored, plain)
    assert without[1:].abs().max() < 1e-5, "left and right cancel each other"
