"""A first pass finds where windows need overlap: near labels nothing changes, and elsewhere is background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import medhybrid
from medhybrid.config import InferenceConfig
from medhybrid.inference.focus import CELL, Focus
from medhybrid.inference.windows import predict_windows
from tests.synthetic import StudyFolder


def blurred(batch: Tensor) -> Tensor:
    """Return logits that depend on neighbours, and so on the borders of windows: label 1 where the image is bright."""
    mean = torch.nn.functional.avg_pool3d(batch, 5, stride=1, padding=2, count_include_pad=False)
    return torch.cat([torch.zeros_like(mean), 40 * (mean - 0.5)], dim=1)


def counted(calls: list[int]) -> Callable[[Tensor], Tensor]:
    def run(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return blurred(batch)

    return run


def image_with(shape: tuple[int, int, int], *blocks: tuple[int, int, int]) -> Tensor:
    image = 0.05 + 0.1 * torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    for x, y, z in blocks:
        image[:, x : x + 6, y : y + 6, z : z + 6] = 1.0
    return image


WAY = {"window": (16, 16, 16), "n_classes": 2, "overlap": 0.5, "window_batch": 2}


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(40, 60)] * 3),
    places=st.lists(st.tuples(*[st.floats(0, 1)] * 3), max_size=3),
    mirror=st.sampled_from([(), (0,)]),
)
def test_near_labels_logits_are_those_of_all_windows_and_elsewhere_is_background(
    shape: tuple[int, int, int], places: list[tuple[float, float, float]], mirror: tuple[int, ...]
) -> None:
    corners = [tuple(int(p * (n - 6)) for p, n in zip(place, shape, strict=True)) for place in places]
    image, focus = image_with(shape, *corners), Focus()  # type: ignore[arg-type]

    plain = predict_windows(image, blurred, **WAY, mirror_axes=mirror)
    focused = predict_windows(image, blurred, **WAY, mirror_axes=mirror, focus=focus)

    assert not focus.is_whole
    near = focus.voxels(slice(0, shape[0]), shape[1:])
    torch.testing.assert_close(focused[:, near], plain[:, near], rtol=0, atol=0)
    assert (focused[:, ~near].argmax(dim=0) == 0).all()
    assert torch.equal(focused.argmax(dim=0), plain.argmax(dim=0)), "nothing was lost"
    assert focus.share == pytest.approx(float(near.float().mean()))


def test_a_scan_of_background_is_computed_once() -> None:
    calls: list[int] = []
    everything: list[int] = []
    image, focus = image_with((64, 64, 64)), Focus()

    logits = predict_windows(image, counted(calls), **WAY, focus=focus)
    predict_windows(image, counted(everything), **WAY)

    assert (sum(calls), sum(everything)) == (64, 343)
    assert focus.share == 0
    assert (logits.argmax(dim=0) == 0).all()


def test_a_label_costs_only_the_windows_around_it() -> None:
    calls: list[int] = []
    image, focus = image_with((80, 80, 80), (38, 38, 38)), Focus()

    predict_windows(image, counted(calls), **WAY, focus=focus)

    assert 125 < sum(calls) < 729 / 2
    assert 0 < focus.share < 1.01 * (4 * CELL / 80) ** 3


@pytest.mark.parametrize("shape", [(16, 16, 16), (20, 14, 16)])
def test_a_small_scan_has_no_first_pass(shape: tuple[int, int, int]) -> None:
    calls: list[int] = []
    focus = Focus()

    focused = predict_windows(image_with(shape), counted(calls), **WAY, focus=focus)

    assert sum(calls) <= 2
    assert focus.share == 1
    torch.testing.assert_close(focused, predict_windows(image_with(shape), blurred, **WAY), rtol=0, atol=0)


def test_a_place_below_the_threshold_is_background_and_not_looked_at() -> None:
    def faint(batch: Tensor) -> Tensor:  # a probability of 0.5 % where the image is bright
        bright = (batch > 0.5).float()
        return torch.cat([torch.zeros_like(bright), -30 + bright * (30 - 5.3)], dim=1)

    focus = Focus()
    logits = predict_windows(image_with((48, 48, 48), (20, 20, 20)), faint, **WAY, focus=focus)

    assert focus.share == 0
    assert (logits.argmax(dim=0) == 0).all()


def test_without_it_the_hash_of_the_settings_is_that_of_earlier_versions() -> None:
    assert "focus" not in InferenceConfig().text_for_hash()
    assert InferenceConfig(focus=True).text_for_hash() != InferenceConfig().text_for_hash()


def test_the_message_of_a_scan_has_the_share_and_other_settings_predict_again(
    trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    study, run = trained
    scan = study.folder / "data" / "imagesTr" / "case_07.nii.gz"
    plain = medhybrid.predict(scan, model=run, out=tmp_path / "out", device="cpu").predictions[0]

    focused = medhybrid.predict(scan, model=run, out=tmp_path / "out", device="cpu", focus=True)

    assert focused.n_skipped == 0
    assert "looked closely at 100.0 % of the volume" in focused.predictions[0].message, "a scan of few windows"
    assert "looked closely" not in plain.message
    assert focused.predictions[0].measures == plain.measures
