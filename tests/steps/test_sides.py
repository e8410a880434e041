"""Labels that name sides are learnt: by default, nothing mirrors them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.sides import side_pairs
from tests.synthetic import save_nifti, small_values

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_kidneys(root: Path, n_cases: int = 8) -> None:
    """Write scans with two equal blobs, which differ only in their side."""
    names = [f"case_{i:02d}" for i in range(n_cases)]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (32, 24, 16)), indexing="ij"))
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        mask = np.zeros((32, 24, 16), np.uint8)
        for value, x in ((1, 8), (2, 24)):
            centre = np.array([x, 12, 8]) + rng.uniform(-1.5, 1.5, 3)
            mask[((index - centre[:, None, None, None]) ** 2).sum(0) < 16] = value
        image = 100 + 80 * (mask > 0) + rng.normal(0, 8, mask.shape)
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image.astype(np.int16), AFFINE)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", mask, AFFINE)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    (root / "dataset.json").write_text(json.dumps({"training": listed}))
    (root / "splits.json").write_text(json.dumps([{"train": names[:-2], "validation": names[-2:]}]))


def test_a_side_labelled_phantom_is_learnt(tmp_path: Path) -> None:
    write_kidneys(tmp_path / "data")
    values = small_values(tmp_path)
    values["data"]["labels"] = {"right_kidney": 1, "left_kidney": 2}
    values["prepare"] |= {"patch_size": [32, 24, 16], "mirror_axes": None}
    values["training"]["iterations"] = 100
    values["tracking"] = {"kind": "none"}
    config = StudyConfig.model_validate(values)

    plan = medhybrid.preprocess(config).plan
    run = medhybrid.train(config)

    assert plan.mirror_axes == ()
    assert "left_kidney, right_kidney" in plan.reasons["mirror_axes"]
    assert run.metrics["val_label/left_kidney/dice"] > 0.7
    assert run.metrics["val_label/right_kidney/dice"] > 0.7


def test_pairs_of_sides_are_found_by_words() -> None:
    found = side_pairs(["Left-Kidney", "kidneyRight", "kidney_L", "R_kidney", "L1", "L2", "left_atrium", "lung"])

    assert found == {}, "words in another order are another name"
    assert side_pairs(["Left-Kidney", "right kidney", "hippocampus_L", "hippocampus_R", "L1", "left_atrium"]) == {
        "Left-Kidney": "right kidney",
        "hippocampus_L": "hippocampus_R",
    }
