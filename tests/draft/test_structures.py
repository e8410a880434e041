"""Datasets with a mask file for each label are drafted; other folders of masks are not taken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medhybrid.config import ScansConfig
from medhybrid.data.layouts import list_dataset
from medhybrid.data.load import load_image, load_mask
from medhybrid.draft.structures import label_patterns, structure_folders
from medhybrid.errors import DataError
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


PLACES = {
    "beside the image": ("{case}/{case}_ct.nii.gz", "{case}/{case}_{label}_mask.nii.gz"),
    "in a folder for each label": ("images/{case}.nii.gz", "masks/{label}/{case}.nii.gz"),
    "in one folder": ("ct/{case}.nii.gz", "labels/{label}_{case}.nii.gz"),
    "as segmentations of 3D Slicer": ("{case}/{case}_IMG_CT.nii.gz", "{case}/{case}_{label}.seg.nii.gz"),
}


@pytest.mark.parametrize("place", [*PLACES.values(), ("{case}/ct.nii.gz", "{case}/segmentations/{label}.nii.gz")])
@pytest.mark.parametrize("n_without", [1, 3])
def test_cases_may_lack_the_file_of_a_label_which_is_said(
    n_without: int, place: tuple[str, str], tmp_path: Path
) -> None:
    for i in range(6):
        values, both = blob_case(i, (12, 10, 8))
        case = f"Patient_{i:02d}"
        save_nifti(tmp_path / "d" / place[0].format(case=case), values)
        for value, label in enumerate(("liver", "spleen"), start=1):
            if label == "liver" or i >= n_without:
                mask = ((both > 0) & (np.arange(12)[:, None, None] % 2 == value - 1)).astype(np.uint8)
                save_nifti(tmp_path / "d" / place[1].format(case=case, label=label), mask)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert sorted(made.config.data.labels) == ["liver", "spleen"]
    assert made.draft.n_cases == 6
    assert [r for r in made.draft.remarks if f"(spleen in {n_without})" in r]


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize("labels", [("liver", "left kidney"), ("Left_Lung", "Right_Lung"), ("aorta", "Bone_Mandible")])
def test_masks_of_one_label_are_joined_wherever_they_are(
    labels: tuple[str, str], place: tuple[str, str], tmp_path: Path
) -> None:
    for i in range(5):
        case = f"Patient_{i:02d}"
        values, both = blob_case(i, (12, 10, 8))
        save_nifti(tmp_path / "d" / place[0].format(case=case), values)
        for value, label in zip((1, 4), labels, strict=True):
            save_nifti(tmp_path / "d" / place[1].format(case=case, label=label), (both == value).astype(np.uint8))

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert [c.problem for c in list_dataset(made.config.data).cases] == [None] * 5
    assert sorted(made.config.data.labels) == sorted(labels)
    for case in list_dataset(made.config.data).cases:
        image = load_image(case, made.config.data, ScansConfig())
        found = load_mask(case, image, made.config.data, ScansConfig()).array[0]
        both = blob_case(int(case.name[-2:]), (12, 10, 8))[1]
        for value, label in zip((1, 4), labels, strict=True):
            np.testing.assert_array_equal(found == made.config.data.labels[label], both == value)


def test_visits_of_one_patient_are_not_joined(tmp_path: Path) -> None:
    for i in range(4):
        for j, visit in enumerate(("pre", "post")):
            values, labels = blob_case(2 * i + j, (12, 10, 8))
            save_nifti(tmp_path / "d" / f"P{i}" / f"P{i}_{visit}_t1.nii.gz", values)
            save_nifti(tmp_path / "d" / f"P{i}" / f"P{i}_{visit}_seg.nii.gz", labels)

    assert init_study(tmp_path / "d", tmp_path / "study.yaml").draft.n_cases == 8


def test_masks_of_two_observers_are_not_joined() -> None:
    files = [f"p{p}/{f}" for p in range(4) for f in ("t1.nii.gz", "t1_rater_a_mask.nii.gz", "t1_expert_b_mask.nii.gz")]

    assert label_patterns([Path(f) for f in files]) == {}


def test_a_file_of_all_labels_beside_those_of_one_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        values, labels = blob_case(i, (12, 10, 8))
        case = tmp_path / "d" / f"s{i:04d}"
        save_nifti(case / "ct.nii.gz", values)
        masks = {"liver": labels == 1, "spleen": labels == 4, "all": labels}
        for name, mask in masks.items():
            save_nifti(case / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8))

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    data = made.config.data
    assert sorted(data.labels) == ["liver", "spleen"]
    assert "files with several labels are left out: all" in made.draft.remarks
    case = list_dataset(data).cases[0]
    image = load_image(case, data, ScansConfig())
    assert set(np.unique(load_mask(case, image, data, ScansConfig()).array)) == {0, 1, 2}


@pytest.mark.parametrize(
    "labels",
    [("liver", "liver_tumour"), ("prostate", "prostate_lesion"), ("Parotid_L", "Parotid_R", "Mandible")],
)
@pytest.mark.parametrize("form", ["{case}/{case}_{label}_mask.nii.gz", "labels/{case}_{label}.nii.gz"])
def test_labels_that_share_words_are_all_read(tmp_path: Path, labels: tuple[str, ...], form: str) -> None:
    for i in range(3):
        case = f"case{i}"
        image, _ = blob_case(i, (12, 10, 8))
        save_nifti(tmp_path / "d" / f"{case}/{case}_ct.nii.gz", image)
        for k, label in enumerate(labels):
            mask = np.zeros((12, 10, 8), np.uint8)
            mask[2 * k : 2 * k + 2] = 1
            save_nifti(tmp_path / "d" / form.format(case=case, label=label), mask)

    data = init_study(tmp_path / "d", tmp_path / "study.yaml").config.data

    assert sorted(data.labels) == sorted(labels)
    assert [c.problem for c in list_dataset(data).cases] == [None] * 3


def test_masks_of_several_annotators_are_not_labels(tmp_path: Path) -> None:
    for i in range(3):
        image, labels = blob_case(i, (12, 10, 8))
        save_nifti(tmp_path / "d" / f"case{i}/imaging.nii.gz", image)
        for organ in ("kidney", "tumour"):
            for k in (1, 2, 3):
                name = f"case{i}/segmentations/{organ}_instance-1_annotation-{k}.nii.gz"
                save_nifti(tmp_path / "d" / name, (labels > 0).astype(np.uint8))

    with pytest.raises(DataError, match=r"several masks|masks of two kinds"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


@pytest.mark.parametrize(
    "names",
    [
        ("masks/JS", "masks/MK"),
        ("seg_senior", "seg_junior"),
        ("masks_anna/x", "masks_ben/x"),
        ("mask_raw", "mask_smooth"),
    ],
)
@pytest.mark.parametrize("shift", [0, 1])
def test_masks_that_are_nearly_equal_are_of_observers(names: tuple[str, str], shift: int, tmp_path: Path) -> None:
    for i in range(4):
        mask = np.zeros((12, 10, 8), np.uint8)
        mask[3:9, 2:8, 2:6] = 1
        save_nifti(tmp_path / "d" / f"P{i}/t1.nii.gz", blob_case(i, mask.shape)[0])
        for k, name in enumerate(names):
            save_nifti(tmp_path / "d" / f"P{i}/{name}.nii.gz", np.roll(mask, k * shift, axis=0))

    with pytest.raises(DataError, match=r"same label twice|several masks|two kinds"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


@pytest.mark.parametrize("is_rough", [False, True])
def test_a_label_in_another_is_no_mask_of_an_observer(is_rough: bool, tmp_path: Path) -> None:
    """Both may be drawn by hand, so that a few voxels of the inner one are outside."""
    for i in range(4):
        wall = np.zeros((12, 10, 8), np.uint8)
        wall[3:9, 2:8, 2:6] = 1
        lumen = wall.copy()
        lumen[3:5] = 0
        lumen[6, 8, 2:4] = is_rough
        save_nifti(tmp_path / "d" / f"P{i}/t1.nii.gz", blob_case(i, wall.shape)[0])
        for name, mask in (("vessel", wall), ("lumen", lumen)):
            save_nifti(tmp_path / "d" / f"P{i}/masks/{name}.nii.gz", mask)

    assert sorted(init_study(tmp_path / "d", tmp_path / "study.yaml").config.data.labels) == ["lumen", "vessel"]


@pytest.mark.parametrize("organ", ["liver", "brain"])
def test_a_file_of_several_labels_beside_that_of_another_label_is_refused_or_the_mask(
    organ: str, tmp_path: Path
) -> None:
    """`preprocess` would refuse each case. A mask of the brain is one of preprocessing."""
    for i in range(3):
        image, _ = blob_case(i, (12, 10, 8))
        whole, tumour = np.zeros((2, 12, 10, 8), np.uint8)
        whole[1:11, 1:9] = 1
        tumour[3:5, 3:5], tumour[6:8, 3:5] = 1, 2
        save_nifti(tmp_path / "d" / f"P{i}/t1.nii.gz", image)
        save_nifti(tmp_path / "d" / f"P{i}/P{i}_{organ}_segmentation.nii.gz", whole)
        save_nifti(tmp_path / "d" / f"P{i}/P{i}_tumor_segmentation.nii.gz", tumour)

    if organ == "brain":
        made = init_study(tmp_path / "d", tmp_path / "study.yaml")
        assert list(made.config.data.labels.values()) == [1, 2]
        assert [c.problem for c in list_dataset(made.config.data).cases] == [None] * 3
        return
    with pytest.raises(DataError, match="has several values, beside files of other labels"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


def test_files_of_labels_with_probabilities_are_refused_with_the_reason(tmp_path: Path) -> None:
    for i in range(3):
        image, labels = blob_case(i, (12, 10, 8))
        save_nifti(tmp_path / "d" / f"P{i}/ct.nii.gz", image)
        for n, organ in enumerate(("liver", "spleen")):
            soft = (labels > 0).astype(np.float32) * 0.7 + 0.1 * np.roll(labels > 0, n, axis=0)
            save_nifti(tmp_path / "d" / f"P{i}/segmentations/{organ}.nii.gz", soft)

    with pytest.raises(DataError, match=r"values that are not whole numbers.*threshold"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


@pytest.mark.parametrize("name", ["brain00{}", "ADNI_00{}_MR"])
def test_labels_of_one_letter_are_not_looked_for_in_other_words(name: str, tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, (12, 10, 8))
        case = name.format(i)
        save_nifti(tmp_path / "d" / f"{case}.nii.gz", image)
        for side, value in (("L", 1), ("R", 4)):
            save_nifti(tmp_path / "d" / f"{case}_{side}_mask.nii.gz", (labels == value).astype(np.uint8))

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert sorted(made.config.data.labels) == ["L", "R"]
    assert made.draft.n_cases == 4


@pytest.mark.parametrize("folder", ["masks_{}", "{} Segmentation", "gt_{}"])
def test_folders_of_labels_beside_one_of_images(tmp_path: Path, folder: str) -> None:
    for i in range(3):
        image, labels = blob_case(i, (12, 10, 8))
        save_nifti(tmp_path / "d" / f"images/P{i}.nii.gz", image)
        for value, label in ((1, "liver"), (4, "spleen")):
            save_nifti(tmp_path / "d" / folder.format(label) / f"P{i}.nii.gz", (labels == value).astype(np.uint8))

    data = init_study(tmp_path / "d", tmp_path / "study.yaml").config.data

    assert sorted(data.labels) == ["liver", "spleen"]
    assert [c.problem for c in list_dataset(data).cases] == [None] * 3
