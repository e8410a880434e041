"""Channels that some cases lack are found by their values: blank, or a copy of another channel."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from medhybrid.draft.stand_ins import contents_of, lacked_channels
from medhybrid.steps.init import init_study
from tests.synthetic import save_nifti

SHAPE = (16, 14, 8)


def case_with(seed: int, *shown: int | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Return channels and a mask. Contents 0, 1 and 2 show the label bright, dark and not at all; None is blank."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:10, 3:9, 2:6] = 1
    kinds = [rng.normal(100, 10, SHAPE) + step * mask.astype(float) for step in (60, -60, 0)]
    return [np.zeros(SHAPE) if s is None else kinds[s].astype(np.float32) for s in shown], mask


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("original", range(3))
def test_the_copied_channel_is_told_by_the_contrast_of_its_labels(original: int, order: tuple[int, ...]) -> None:
    cases = [contents_of(*case_with(i, *order)) for i in range(6)]
    place = order.index(original)
    for seed in (7, 8):
        others = [original if i in (place, (place + 1) % 3) else kind for i, kind in enumerate(order)]
        cases.append(contents_of(*case_with(seed, *others)))

    found = lacked_channels(cases)

    assert found.lacked == {(place + 1) % 3}
    assert found.originals == {place}
    assert found.n_cases == 2


def test_one_original_may_stand_in_for_several_channels() -> None:
    cases = [contents_of(*case_with(i, 2, 0, 1)) for i in range(6)]
    cases += [contents_of(*case_with(7, 0, 0, 0)), contents_of(*case_with(8, 2, 0, 0))]

    found = lacked_channels(cases)

    assert (found.lacked, found.originals) == ({0, 2}, {1})


def test_channels_that_are_equal_in_most_cases_are_no_stand_ins() -> None:
    cases = [contents_of(*case_with(i, 0, 0, 1)) for i in range(4)]
    cases.append(contents_of(*case_with(5, 0, 2, 1)))

    assert not lacked_channels(cases).lacked


def test_a_channel_is_lacked_if_it_is_blank_in_some_cases_but_not_in_all() -> None:
    cases = [contents_of(*case_with(i, 0, 1, None)) for i in range(4)]
    assert not lacked_channels(cases).lacked

    cases[1:] = [contents_of(*case_with(i, 0, 1 if i else None, None)) for i in range(4)]
    assert lacked_channels(cases).lacked == {1}


def test_one_channel_is_always_required() -> None:
    cases = [
        contents_of(*case_with(0, None, 1)),
        contents_of(*case_with(1, 0, None)),
        contents_of(*case_with(2, 0, None)),
    ]

    assert lacked_channels(cases).lacked == {1}


def test_masks_of_another_shape_and_without_labels_decide_nothing() -> None:
    channels, mask = case_with(0, 0, 1)
    for other in (mask[1:], np.zeros_like(mask)):
        cases = [contents_of(channels, other), contents_of(channels, other)]
        cases.append(contents_of([channels[0], channels[0]], other))
        assert lacked_channels(cases).lacked == {1}


@pytest.mark.parametrize("layout", ["decathlon", "nnunet"])
def test_a_drafted_config_marks_the_channel_optional(layout: str, tmp_path: Path) -> None:
    names = [f"case{i:02d}" for i in range(20)]  # more than are sampled
    for i, name in enumerate(names):
        channels, mask = case_with(i, 0, 0) if i == 18 else case_with(i, 0, 1)
        save_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", mask)
        if layout == "decathlon":
            save_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", np.stack(channels, axis=-1))
        else:
            for c, channel in enumerate(channels):
                save_nifti(tmp_path / "imagesTr" / f"{name}_000{c}.nii.gz", channel)
    about = {"channel_names": {"0": "FLAIR", "1": "T1"}, "labels": {"background": 0, "lesion": 1}}
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    if layout == "decathlon":
        about = {"modality": about["channel_names"], "labels": {"0": "background", "1": "lesion"}, "training": listed}
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "file_ending": ".nii.gz"}))

    made = init_study(tmp_path, out=tmp_path / "out.yaml")

    assert [(c.name, c.optional) for c in made.config.data.channels] == [("FLAIR", False), ("T1", True)]
    assert "1 of 20 cases that were read lack T1" in (tmp_path / "out.yaml").read_text()
