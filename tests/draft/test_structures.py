"""Datasets with a mask file for each label are drafted; other folders of masks are not taken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medhybrid.data.layouts import list_dataset
from medhybrid.draft.structures import structure_folders
from medhybrid.steps.init import init_study
from tests.synthetic import blob_case, save_nifti


@pytest.mark.parametrize("folder", ["segmentations", "structures", "masks", "GT"])
@pytest.mark.parametrize("image", ["ct.nii.gz", "{case}.nii.gz", "imaging/ct.nii.gz"])
def test_a_folder_of_structures_is_one_mask(image: str, folder: str, tmp_path: Path) -> None:
    names = ("aorta", "rib_left_1", "rib_left_2", "vertebrae_L1")
    for i in range(4):
        values, labels = blob_case(i, (12, 10, 8))
        case = tmp_path / "d" / f"s{i:04d}"
        save_nifti(case / image.format(case=case.name), values)
        for n, name in enumerate(names):
            mask = (labels > 0) & (np.arange(12)[:, None, None] % 4 >= n)
            save_nifti(case / folder / f"{name}.nii.gz", mask.astype(np.uint8))

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert [c.problem for c in list_dataset(made.config.data).cases] == [None] * 4
    assert list(made.config.data.labels) == list(names)  # the largest first, so that none hides a smaller one
    assert made.config.data.overlaps == "last"
    assert len(made.config.data.channels) == 1


@pytest.mark.parametrize(
    "files",
    [
        ["train/images/001.nii.gz", "train/masks/001.nii.gz", "val/images/001.nii.gz", "val/masks/001.nii.gz"],
        [f"p{p}/{f}" for p in range(3) for f in ("t1.nii.gz", "masks/rater1.nii.gz", "masks/rater2.nii.gz")],
        [f"p{p}/{f}" for p in range(3) for f in ("t1.nii.gz", "masks/mask1.nii.gz", "masks/mask2.nii.gz")],
        [f"p{p}/{f}" for p in range(3) for f in ("t1.nii.gz", f"seg/p{p}_a.nii.gz", f"seg/p{p}_b.nii.gz")],
        ["images/anna.png", "images/berta.png", "masks/anna.png", "masks/berta.png"],
        [f"{a}/{b}/{c}.png" for a in ("s1", "s2") for b in ("images", "masks") for c in ("anna", "berta")],
    ],
    ids=["parts", "raters", "numbers", "names of cases", "one folder of masks", "sites"],
)
def test_other_folders_of_masks_are_not(files: list[str]) -> None:
    assert structure_folders([Path(f) for f in files]) == {}
