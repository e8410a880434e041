"""A dataset is found in nnU-Net's folders, whose preprocessed data and results are not taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medhybrid.errors import DataError
from medhybrid.steps.init import init_study
from tests.synthetic import blob_case, save_nifti

SHAPE = (12, 10, 8)

PREPROCESSED = {
    "version 2": "nnUNet_preprocessed/Dataset001_A/dataset_fingerprint.json",
    "plans alone": "nnUNet_preprocessed/Dataset001_A/nnUNetResEncUNetLPlans.json",
    "version 1": "nnUNet_preprocessed/Task001_A/nnUNetPlansv2.1_plans_3D.pkl",
}

TRAININGS = {
    "version 2": "nnUNet_results/Dataset001_A/nnUNetTrainer__nnUNetPlans__3d_fullres",
    "another trainer": "results/Dataset001_A/nnUNetTrainer_250epochs__nnUNetPlans__2d",
    "version 1": "RESULTS_FOLDER/nnUNet/3d_fullres/Task001_A/nnUNetTrainerV2__nnUNetPlansv2.1",
}


def write_raw(folder: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        save_nifti(folder / f"imagesTr/c_{i:03d}_0000.nii.gz", image)
        save_nifti(folder / f"labelsTr/c_{i:03d}.nii.gz", labels)
    names = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**names, "numTraining": 4}))


def write_preprocessed(root: Path, kind: str) -> Path:
    file = root / PREPROCESSED[kind]
    for i in range(4):
        save_nifti(file.parent / f"gt_segmentations/c_{i:03d}.nii.gz", blob_case(i, SHAPE)[1])
    file.write_bytes(b"{}")
    (file.parent / "dataset.json").write_text("{}")
    return file.parent


def write_results(root: Path, kind: str) -> Path:
    training = root / TRAININGS[kind]
    for i in range(4):
        save_nifti(training / f"fold_{i % 2}/validation/c_{i:03d}.nii.gz", blob_case(i, SHAPE)[1])
    return training


@pytest.mark.parametrize("raw", ["nnUNet_raw/Dataset001_A", "nnUNet_raw_data_base/nnUNet_raw_data/Task001_A"])
@pytest.mark.parametrize("kind", ["version 1", "version 2"])
def test_the_dataset_is_found_beside_preprocessed_data_and_results(raw: str, kind: str, tmp_path: Path) -> None:
    write_raw(tmp_path / "d" / raw)
    write_preprocessed(tmp_path / "d", kind)
    write_results(tmp_path / "d", kind)
    (tmp_path / "d" / "logs").mkdir()

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert made.config.data.root == str((tmp_path / "d" / raw).resolve())
    assert any(f"the dataset is in the folder {raw}" in text for text in made.draft.remarks)
    assert len(made.draft.cases) == 4


@pytest.mark.parametrize("kind", PREPROCESSED)
@pytest.mark.parametrize("levels", [0, 1], ids=["of the dataset", "of all datasets"])
def test_preprocessed_data_are_refused_with_the_folder_to_give(kind: str, levels: int, tmp_path: Path) -> None:
    folder = write_preprocessed(tmp_path, kind)

    with pytest.raises(DataError, match=r"preprocessed data or results of nnU-Net.*in nnUNet_raw"):
        init_study([folder, *folder.parents][levels], tmp_path / "study.yaml")


@pytest.mark.parametrize("kind", TRAININGS)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_results_are_no_reference_masks(kind: str, levels: int, tmp_path: Path) -> None:
    training = write_results(tmp_path / "d", kind)

    with pytest.raises(DataError, match=r"preprocessed data or results of nnU-Net.*import nnunet"):
        init_study([training, *training.parents][levels], tmp_path / "study.yaml")


@pytest.mark.parametrize(
    "other",
    [
        "nnUNetPlans.json",
        "dataset_fingerprint.json",
        "nnUNet_results/x.txt",
        "nnUNetTrainer__nnUNetPlans__2d/plans.json",
    ],
)
def test_a_dataset_with_files_of_nnunet_in_its_folder_is_drafted(other: str, tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"images/c_{i:03d}.nii.gz", image)
        save_nifti(tmp_path / "d" / f"masks/c_{i:03d}.nii.gz", labels)
    (tmp_path / "d" / other).parent.mkdir(exist_ok=True)
    (tmp_path / "d" / other).write_text("{}")

    assert len(init_study(tmp_path / "d", tmp_path / "study.yaml").draft.cases) == 4
