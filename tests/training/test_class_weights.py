"""Weights of the classes follow from the volumes in the training cases, or from the config, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medhybrid.config import StudyConfig
from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.errors import ConfigError
from medhybrid.runs.setup import resolve_setup
from medhybrid.training.class_weights import balanced_weights, class_volumes, class_weights
from tests.synthetic import StudyFolder, small_config, small_values


def with_weights(study: StudyFolder, weights: Any) -> StudyConfig:
    training = study.config.training.model_copy(update={"class_weights": weights})
    return study.config.model_copy(update={"training": training})


def test_balanced_weights_are_median_frequencies_within_bounds() -> None:
    volumes = {"background": 9_000.0, "large": 30.0, "small": 10.0, "tiny": 0.01, "absent": 0.0}

    assert balanced_weights(volumes) == {
        "background": 0.1,  # 20 / 9000
        "large": round(20 / 30, 4),
        "small": 2.0,
        "tiny": 10.0,  # 20 / 0.01
        "absent": 10.0,
    }


def test_volumes_are_those_of_the_training_cases(prepared: StudyFolder) -> None:
    config = with_weights(prepared, "balanced")
    setup = resolve_setup(config)
    masks = [case.source_mask() for case in setup.train_cases]
    counts = np.sum([np.bincount(mask.ravel(), minlength=3) for mask in masks], axis=0)

    volumes = class_volumes(config, setup.train_cases)

    assert list(volumes.values()) == pytest.approx((counts * 6.75e-3).tolist(), rel=1e-6)
    assert setup.class_weights == balanced_weights(volumes)
    assert list(setup.class_weights) == ["background", "left", "right"]
    reason = setup.plan.reasons["class_weights"]
    assert reason.startswith("balanced: the median volume")
    assert f"left {setup.class_weights['left']:g}" in reason


def test_voxels_of_unknown_label_are_not_background(prepared: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    case = resolve_setup(prepared.config).train_cases[0]
    mask = case.source_mask()
    mask[:10] = UNKNOWN
    monkeypatch.setattr(type(case), "source_mask_with_unknown", lambda _: mask)
    config = prepared.config.model_copy(update={"data": prepared.config.data.model_copy(update={"ignore_value": 9})})

    volumes = class_volumes(config, [case])

    assert sum(volumes.values()) == pytest.approx((mask != UNKNOWN).sum() * 6.75e-3, rel=1e-6)


@pytest.mark.parametrize("weights", [{"right": 3.0}, (1.0, 1.0, 3.0)])
def test_given_weights_are_matched_by_name_or_by_order(prepared: StudyFolder, weights: Any) -> None:
    found = class_weights(with_weights(prepared, weights), [])

    assert found is not None
    assert found[0] == {"background": 1.0, "left": 1.0, "right": 3.0}
    assert found[1] == "config: training.class_weights; background 1, left 1, right 3"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("{rihgt: 3}", "unknown class: rihgt; classes are background, left, right"),
        ("[1, 2]", r"2 numbers for 3 classes \(background, left, right\)"),
        ("[0, 0, 0]", "all are 0"),
        ("heavy", "null, balanced, or numbers"),
    ],
)
def test_weights_that_do_not_fit_the_labels_are_refused(tmp_path: Path, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(tmp_path, f"training.class_weights={weights}")


def test_regions_have_weights_without_background(tmp_path: Path) -> None:
    values = small_values(tmp_path)
    values["data"]["labels"] = {"whole": [1, 4], "core": 4}
    values["training"]["class_weights"] = [1, 2]

    found = class_weights(StudyConfig.model_validate(values), [])

    assert found is not None
    assert found[0] == {"whole": 1.0, "core": 2.0}
