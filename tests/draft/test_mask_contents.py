"""Masks without a word for a mask in their names are recognised by their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medhybrid.draft.mask_contents import is_label_map, masks_by_contents
from medhybrid.errors import DataError
from medhybrid.steps.init import init_study
from tests.synthetic import blob_case, save_nifti

SHAPE = (16, 14, 10)

ARRANGEMENTS = {
    "a folder for each case": ("{case}/lgemri.nii.gz", "{case}/laendo.nii.gz"),
    "the case in each name": ("{case}/{case}_ct.nii.gz", "{case}/{case}_heart.nii.gz"),
    "a folder for each kind": ("pictures/{case}.nii.gz", "hearts/{case}.nii.gz"),
    "all in one folder": ("{case}_t1.nii.gz", "{case}_vessels.nii.gz"),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS.values(), ids=list(ARRANGEMENTS))
@pytest.mark.parametrize("cases", [[f"p{i}" for i in range(5)], ["anna", "berta", "carla", "dora", "eva"]])
def test_masks_are_found_in_each_arrangement(cases: list[str], arrangement: tuple[str, str], tmp_path: Path) -> None:
    for i, case in enumerate(cases):
        image, labels = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / arrangement[0].format(case=case), image)
        save_nifti(tmp_path / "d" / arrangement[1].format(case=case), labels)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert made.draft.n_cases == len(cases)
    assert len(made.draft.channels) == 1
    assert [v for label in made.draft.labels for v in label.values] == [1, 4]
    assert any("taken for masks by their values" in r for r in made.draft.remarks)


def test_two_kinds_of_label_maps_are_not_chosen_from(tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        for name, array in (("t1", image), ("vessels", labels), ("lobes", labels)):
            save_nifti(tmp_path / "d" / f"p{i}" / f"{name}.nii.gz", array)

    with pytest.raises(DataError, match="no scans with reference masks"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


@pytest.mark.parametrize("other", ["brain", "fov", "skull"])
def test_a_mask_of_preprocessing_beside_another_is_neither_mask_nor_channel(other: str, tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        for name, array in (("t1", image), ("vessels", labels), (other, (image > 50).astype(np.uint8))):
            save_nifti(tmp_path / "d" / f"p{i}" / f"{name}.nii.gz", array)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert [c.name for c in made.draft.channels] == ["t1"]
    assert len(made.draft.labels) == 2


def test_files_that_are_results_of_models_are_no_masks(tmp_path: Path) -> None:
    paths = []
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        for name, array in (("t1", image), ("prediction", labels)):
            paths.append(save_nifti(tmp_path / f"p{i}" / f"{name}.nii.gz", array).relative_to(tmp_path))

    assert masks_by_contents(tmp_path, paths) == []


@pytest.mark.parametrize("kind", ["grey image of 8 bits", "probabilities", "blank", "negative", "no background"])
def test_other_arrays_are_no_label_maps(kind: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "grey image of 8 bits": rng.integers(0, 255, SHAPE),
        "probabilities": blob_case(0, SHAPE)[1] / 3,
        "blank": np.zeros(SHAPE),
        "negative": blob_case(0, SHAPE)[1].astype(int) - 1,
        "no background": np.ones(SHAPE),
    }

    assert not is_label_map(arrays[kind])
    assert is_label_map(blob_case(0, SHAPE)[1])


@pytest.mark.parametrize("other", ["brain_mask", "bet_mask", "body_mask"])
def test_a_lesion_without_a_word_for_a_mask_is_the_mask_beside_that_of_the_brain(other: str, tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        for name, array in (("flair", image), ("lesion", labels), (other, (image > 50).astype(np.uint8))):
            save_nifti(tmp_path / "d" / f"case{i}" / f"{name}.nii.gz", array)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert [c.name for c in made.draft.channels] == ["flair"]
    assert len(made.draft.labels) == 2


@pytest.mark.parametrize(
    ("mask", "finding"),
    [("orig/T1_mask", "wmh"), ("orig/T1_mask", "regions"), ("orig/T1_face_mask", "regions"), ("orig/face_mask", "wmh")],
)
def test_a_mask_of_a_whole_image_is_no_reference_beside_another(mask: str, finding: str, tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        whole = (image > 10).astype(np.uint8)
        for name, array in (("orig/T1", image), ("orig/FLAIR", image + 1), (mask, whole), (finding, labels)):
            save_nifti(tmp_path / "d" / f"{i}" / f"{name}.nii.gz", array)

    draft = init_study(tmp_path / "d", tmp_path / "study.yaml").draft

    assert {c.name for c in draft.channels} == {"T1", "FLAIR"}
    assert [v for label in draft.labels for v in label.values] == [1, 4]


def test_label_maps_beside_other_masks_are_named(tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        for name, array in (("T1", image), ("T1_mask", (labels == 1).astype(np.uint8)), ("regions", labels)):
            save_nifti(tmp_path / "d" / f"{i}" / f"{name}.nii.gz", array)

    remarks = init_study(tmp_path / "d", tmp_path / "study.yaml").draft.remarks

    assert any("regions is not used: its files are label maps" in r for r in remarks)
