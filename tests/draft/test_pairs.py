"""Images get the mask of their own scan, and results of models are no channels."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medhybrid.draft.pairs import find_pairs
from medhybrid.errors import DataError
from medhybrid.steps.init import init_study
from tests.draft.test_draft import write_pair
from tests.synthetic import blob_case, save_nifti


def paired(root: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """Return mask to channels and their images, for empty files of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    pairs = find_pairs(root)
    return {} if pairs is None else {str(p.mask): {c: str(i) for c, i in p.images.items()} for p in pairs.pairs}


def test_a_scan_without_mask_does_not_get_that_of_the_swapped_numbers(tmp_path: Path) -> None:
    found = paired(tmp_path, ["p_1_2.nii", "p_2_1.nii", "p_2_1_mask.nii", "p_3_3.nii", "p_3_3_mask.nii"])

    assert found == {"p_2_1_mask.nii": {"image": "p_2_1.nii"}, "p_3_3_mask.nii": {"image": "p_3_3.nii"}}


@pytest.mark.parametrize("missing", ["1", "2", "3"])
def test_numbers_in_any_order_tell_scans_apart(tmp_path: Path, missing: str) -> None:
    dates = ["_".join(d) for d in permutations(("1", "2", "3"))]
    masks = [d for d in dates if not d.startswith(missing)]

    found = paired(tmp_path, [*(f"images/{d}.nii" for d in dates), *(f"masks/{d}.nii" for d in masks)])

    assert found == {f"masks/{d}.nii": {"image": f"images/{d}.nii"} for d in masks}


def test_numbers_in_names_of_folders_do_not_count_where_file_names_are_unique(tmp_path: Path) -> None:
    images = ["CT-1/s_0255.nii", "CT-1/s_0256.nii", "CT-2/s_0257.nii"]

    found = paired(tmp_path / "a", [*images, "masks/s_0255_mask.nii", "masks/s_0257_mask.nii"])

    assert {m: list(of.values()) for m, of in found.items()} == {
        "masks/s_0255_mask.nii": ["CT-1/s_0255.nii"],
        "masks/s_0257_mask.nii": ["CT-2/s_0257.nii"],
    }
    assert paired(tmp_path / "b", ["2/p_1.nii", "3/p_1.nii", "masks/p_1_mask.nii"]) == {}


def test_masks_may_be_named_by_one_word(tmp_path: Path) -> None:
    found = paired(tmp_path, [f"{kind}/V_{i}.mhd" for kind in ("Scans", "Lungmasks") for i in (1, 2)])

    assert found == {f"Lungmasks/V_{i}.mhd": {"image": f"Scans/V_{i}.mhd"} for i in (1, 2)}


def test_an_image_of_another_case_is_no_channel(tmp_path: Path) -> None:
    found = paired(tmp_path, ["case_1.nii", "case_1_mask.nii", "case_2_run_1.nii", "case_3.nii", "case_3_mask.nii"])

    assert found == {"case_1_mask.nii": {"image": "case_1.nii"}, "case_3_mask.nii": {"image": "case_3.nii"}}


def test_a_number_in_the_folder_of_all_images_is_ignored(tmp_path: Path) -> None:
    found = paired(tmp_path, [n for i in (1, 2) for n in (f"scans_2019/p_{i}.nii", f"gt_2020/p_{i}.nii")])

    assert {m: list(i.values()) for m, i in found.items()} == {
        f"gt_2020/p_{i}.nii": [f"scans_2019/p_{i}.nii"] for i in (1, 2)
    }


@pytest.mark.parametrize("folder", ["predictions", "model_output", "results/probabilities", "superpixels"])
def test_results_of_a_model_are_no_channels(tmp_path: Path, folder: str) -> None:
    names = [n for i in (1, 2) for n in (f"images/p{i}.nii", f"labels/p{i}.nii", f"{folder}/p{i}.nii")]

    assert paired(tmp_path, names) == {f"labels/p{i}.nii": {"image": f"images/p{i}.nii"} for i in (1, 2)}


@pytest.mark.parametrize(
    ("folder", "is_used"),
    [
        *(("BraTS-GLI-00000-000", True), ("BraTS20", True), ("attest", True)),
        *((n, False) for n in ("imagesTs", "TestSet", "test", "ts", "test20", "testset", "verse20test")),
        *((n, False) for n in ("held_out", "Hold-Out", "external_validation", "unseen", "independent test")),
        *((n, True) for n in ("final", "external", "internal", "evaluation", "BraTS2021_TrainingData")),
    ],
)
def test_folders_for_testing_are_known_by_whole_words(tmp_path: Path, folder: str, is_used: bool) -> None:
    assert bool(paired(tmp_path, [f"{folder}/x-t1.nii", f"{folder}/x-seg.nii"])) is is_used


@pytest.mark.parametrize("masks", [(), ("test-segmentation-1.nii",)])
def test_a_file_for_testing_is_no_channel_of_a_case_with_its_number(tmp_path: Path, masks: tuple[str, ...]) -> None:
    names = [n for i in (1, 2) for n in (f"volume-{i}.nii", f"segmentation-{i}.nii")]

    found = paired(tmp_path, [*names, "test-volume-1.nii", *masks])

    assert found == {f"segmentation-{i}.nii": {"image": f"volume-{i}.nii"} for i in (1, 2)}


def test_words_that_differ_from_case_to_case_are_no_channels(tmp_path: Path) -> None:
    pairs = {f"masks/P{i}.nii": f"CT/P{i}/201{i}-PET-1{i}8957/{i}.nii" for i in (1, 2, 3)}

    found = paired(tmp_path, [*pairs, *pairs.values()])

    assert found == {m: {"image": image} for m, image in pairs.items()}


@pytest.mark.parametrize("name", ["test_{}", "p{}_test", "p{}_retest"])
def test_the_word_test_in_all_names_or_beside_retest_is_not_for_testing(tmp_path: Path, name: str) -> None:
    names = [name.format(i) for i in (1, 2)] + (["p1_test"] if "retest" in name else [])

    assert len(paired(tmp_path, [f for n in names for f in (f"{n}.nii", f"{n}_mask.nii")])) == len(names)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("image{}.nii", "label{}.nii"),
        ("Training/img/img000{}.nii", "Training/label/label000{}.nii"),
        ("sub-{}/sub-{}_T2w.nii", "sub-{}/sub-{}_dseg.nii"),
        ("sub-{}/dwi/sub-{}_dwi.nii", "derivatives/sub-{}/sub-{}_msk.nii"),
    ],
)
def test_a_number_may_follow_the_word_for_image_or_mask(tmp_path: Path, image: str, mask: str) -> None:
    pairs = {mask.format(i, i): image.format(i, i) for i in (1, 2)}

    found = paired(tmp_path, [*pairs, *pairs.values()])

    assert {m: list(of.values()) for m, of in found.items()} == {m: [i] for m, i in pairs.items()}


def test_an_image_with_a_numbered_further_mask_is_left_out(tmp_path: Path) -> None:
    names = [n for i in (1, 2) for n in (f"x ({i}).png", f"x ({i})_mask.png")]
    assert list(paired(tmp_path, [*names, "x (2)_mask_1.png"])) == ["x (1)_mask.png"]

    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert pairs.left_out == ("1 images have several masks: x (2).png: x (2)_mask.png, x (2)_mask_1.png",)


def test_masks_of_two_kinds_are_refused_though_only_one_has_the_names_of_the_images(tmp_path: Path) -> None:
    names = ["images/{}_training.tif", "1st_manual/{}_manual1.tif", "mask/{}_training_mask.tif"]

    with pytest.raises(DataError, match=r"two kinds.*mask/21_training_mask.tif and 1st_manual/21_manual1.tif"):
        paired(tmp_path, [n.format(i) for i in (21, 22) for n in names])


@pytest.mark.parametrize(
    "more",
    ["case_{}/visit1_ManualSegmentation_1.nii", "case_{}/parts/kidney_annotation-1.nii", "case_{}/visit2_mask.nii"],
)
def test_parts_of_masks_and_masks_of_other_visits_are_ignored(tmp_path: Path, more: str) -> None:
    names = ["case_{}/visit1.nii", "case_{}/visit1_mask.nii", more]

    found = paired(tmp_path, [n.format(i) for i in (11, 12) for n in names])

    assert sorted(found) == ["case_11/visit1_mask.nii", "case_12/visit1_mask.nii"]


@pytest.mark.parametrize("masks", [("a/mask.nii", "a/mask.nii.gz"), ("masks/a.nii", "manual/a.nii")])
def test_two_masks_of_an_image_are_refused_with_their_names(tmp_path: Path, masks: tuple[str, str]) -> None:
    image = "a/t1.nii" if masks[0].startswith("a/") else "images/a.nii"

    with pytest.raises(DataError, match=f"several masks.*1 such images; {image}: {masks[1]}|{image}: {masks[0]}"):
        paired(tmp_path, [image, *masks])


@pytest.mark.parametrize(("one", "other"), [("FLAIR", "flair"), ("T1", "T1w")])
def test_a_channel_in_two_spellings_is_one(tmp_path: Path, one: str, other: str) -> None:
    names = [f"p{i}/{one if i < 3 else other}.nii" for i in range(4)] + [f"p{i}/mask.nii" for i in range(4)]

    assert {c for channels in paired(tmp_path, names).values() for c in channels} == {one}


def test_two_images_of_a_case_are_two_channels(tmp_path: Path) -> None:
    assert list(paired(tmp_path, ["p/T1.nii", "p/T1w.nii", "p/mask.nii"])["p/mask.nii"]) == ["T1", "T1w"]


def test_folders_give_training_and_validation(tmp_path: Path) -> None:
    folders = [
        "images/train/a1",
        "labels/train/a1",
        "images/val/a1",
        "labels/val/a1",
        "images/test/a1",
        "labels/test/a1",
    ]
    paired(tmp_path, [f"{n}.nii" for n in folders])
    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert [(str(p.mask), p.part) for p in pairs.pairs] == [
        ("labels/train/a1.nii", "train"),
        ("labels/val/a1.nii", "validation"),
    ]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("BraTS-GLI-00001", ["BraTS-GLI-00001-t1n.nii", "BraTS-GLI-00001-t2f.nii", "BraTS-GLI-00001-seg.nii"]),
        ("Pat_A1", ["images/Pat_A1.nii", "labels/Pat_A1.nii"]),
        ("sub-01_ses-M0", ["sub-01_ses-M0_T1w.nii", "sub-01_ses-M0_mask.nii"]),
    ],
)
def test_cases_are_named_as_their_files_spell_them(tmp_path: Path, name: str, files: list[str]) -> None:
    other = name.replace("1", "7")
    paired(tmp_path, [*files, *(f.replace(name, other) for f in files)])

    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert [p.case for p in pairs.pairs] == [name, other]


@pytest.mark.parametrize(
    "folders",
    [("subset0", "subset1"), ("volume_pt1", "volume_pt2"), ("x/benign", "x/malignant"), ("images", "images/new")],
)
def test_folders_with_an_image_of_each_case_are_parts_of_a_dataset(tmp_path: Path, folders: tuple[str, str]) -> None:
    images = {f"masks/{i}.nii": f"{folders[i % 2]}/{i}.nii" for i in range(1, 7)}

    assert paired(tmp_path, [*images, *images.values()]) == {m: {"image": i} for m, i in images.items()}


def test_the_number_of_a_part_is_not_that_of_a_scan(tmp_path: Path) -> None:
    images = {f"segmentations/X_{i}_segmentation.png": f"images_part_{i % 2 + 1}/X_{i}.jpg" for i in range(1, 7)}

    assert paired(tmp_path, [*images, *images.values()]) == {m: {"image": i} for m, i in images.items()}


@pytest.mark.parametrize("folders", [("T1", "T2"), ("CT", "MR")])
def test_folders_of_sequences_are_channels(tmp_path: Path, folders: tuple[str, str]) -> None:
    images = {f"masks/{i}.nii": f"{folders[i % 2]}/{i}.nii" for i in range(1, 7)}

    found = paired(tmp_path, [*images, *images.values()])

    assert {c for channels in found.values() for c in channels} == set(folders)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Lung Segmentation/CT/{}.nii", "Lung Segmentation/masks/{}.nii"),
        ("MoNuSeg/images/{}.png", "MoNuSeg/masks/{}.png"),
        ("CT-Seg_20cases/{}.nii", "Infection_Mask/{}.nii"),
        ("Segmentation/{}/images/1.png", "Segmentation/{}/masks/1.png"),
    ],
)
def test_the_name_of_a_dataset_may_have_a_word_for_masks(tmp_path: Path, image: str, mask: str) -> None:
    pairs = {mask.format(i): image.format(i) for i in ("a1", "a2")}

    found = paired(tmp_path, [*pairs, *pairs.values()])

    assert {m: list(of.values()) for m, of in found.items()} == {m: [i] for m, i in pairs.items()}


def test_masks_of_slicer_need_no_word_for_a_mask(tmp_path: Path) -> None:
    names = [n for i in (1, 2) for n in (f"P{i}.nrrd", f"P{i}.seg.nrrd")]
    masks = [f"nrrd/{i}.seg.nrrd" for i in (1, 2)]

    assert paired(tmp_path / "a", names) == {f"P{i}.seg.nrrd": {"image": f"P{i}.nrrd"} for i in (1, 2)}
    assert list(paired(tmp_path / "b", [*masks, "nii/1.nii", "nii/2.nii"])) == masks


def test_of_copies_in_two_formats_one_is_used(tmp_path: Path) -> None:
    names = [
        f"{f.upper()}/{kind}/{i}.{f}" for f in ("png", "tif") for kind in ("Original", "Ground Truth") for i in (1, 2)
    ]

    assert sorted(paired(tmp_path, names)) == ["PNG/Ground Truth/1.png", "PNG/Ground Truth/2.png"]
    pairs = find_pairs(tmp_path)
    assert pairs is not None
    assert pairs.left_out == ("4 files in another format than their copies, such as TIF/Ground Truth/1.tif",)


@pytest.mark.parametrize(
    ("labelled", "others"),
    [
        (["train/images/{}.nii", "train/masks/{}.nii"], "val/images/{}.nii"),
        (["images/train/{}.nii", "masks/train/{}.nii"], "images/val/{}.nii"),
        (["labelled/{}.nii", "labelled/{}_mask.nii"], "unlabelled/{}.nii"),
        (["siteA/images/{}.nii", "siteA/masks/{}.nii"], "siteB/images/{}.nii"),
        (["images_siteA/{}.nii", "masks_siteA/{}.nii"], "images_siteB/{}.nii"),
        (["images/{}.nii", "labels/{}.nii"], "unlabeled/{}.nii"),
        (["patients/P{0}/P{0}_T1.nii", "patients/P{0}/P{0}_seg.nii"], "controls/P{0}/P{0}_T1.nii"),
        (["patients/P{0}/t1.nii", "patients/P{0}/seg.nii"], "controls/P{0}/t1.nii"),
        (["cohort1/sub-{0}/anat/sub-{0}_T1w.nii", "cohort1/sub-{0}/anat/sub-{0}_dseg.nii"],
         "cohort2/sub-{0}/anat/sub-{0}_T1w.nii"),
    ],
)  # fmt: skip
def test_images_of_others_with_the_same_names_are_no_channel(tmp_path: Path, labelled: list[str], others: str) -> None:
    found = paired(tmp_path, [name.format(i) for i in (1, 2, 3) for name in (*labelled, others)])

    image, mask = labelled
    assert {m: list(of.values()) for m, of in found.items()} == {mask.format(i): [image.format(i)] for i in (1, 2, 3)}
    assert len({c for of in found.values() for c in of}) == 1


@pytest.mark.parametrize(
    ("mask", "images"),
    [
        ("CT/P{0}/seg.nii", {"CT": "CT/P{0}/image.nii", "PET": "PET/P{0}/image.nii"}),
        ("masks/P{0}.nii", {"first": "first/P{0}.nii", "second": "second/P{0}.nii"}),
    ],
)
def test_folders_of_one_case_are_its_channels(tmp_path: Path, mask: str, images: dict[str, str]) -> None:
    found = paired(tmp_path, [name.format(i) for i in (1, 2) for name in (mask, *images.values())])

    assert {m: sorted(of.values()) for m, of in found.items()} == {
        mask.format(i): sorted(p.format(i) for p in images.values()) for i in (1, 2)
    }


@pytest.mark.parametrize("n_visits", [2, 3])
def test_a_mask_without_a_name_gets_the_images_beside_it(tmp_path: Path, n_visits: int) -> None:
    places = [(p, v) for p in (1, 2, 3) for v in range(1, n_visits + 1)]

    found = paired(tmp_path, [n for p, v in places for n in (f"{p}/{v}/{p}_{v}.nii", f"{p}/{v}/seg.nii")])

    assert found == {f"{p}/{v}/seg.nii": {"image": f"{p}/{v}/{p}_{v}.nii"} for p, v in places}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("P{0}/P{0}_{1}/P{0}.nii", "P{0}/P{0}_seg/P{0}.nii"),
        ("P{0}/V1/P{0}_V1_{1}.nii", "P{0}/V1/seg.nii"),
        ("P{0}/V1/P{0}_V1_{1}.nii", "P{0}/V1/P{0}_V1_seg.nii"),
        ("P{0}/{1}/P{0}_{1}.nii", "P{0}/P{0}_seg.nii"),
    ],
)
def test_words_that_folders_and_files_repeat_are_no_channels(tmp_path: Path, image: str, mask: str) -> None:
    names = [image.format(i, c) for i in (1, 2) for c in ("T1", "T2")] + [mask.format(i) for i in (1, 2)]

    found = paired(tmp_path, names)

    assert found == {mask.format(i): {c: image.format(i, c) for c in ("T1", "T2")} for i in (1, 2)}


@pytest.mark.parametrize("other", ["val", "evaluation", "internal_validation", "ValidationSet"])
@pytest.mark.parametrize("training", ["train", "cases"])
def test_folders_for_validation_are_a_part_beside_any_others(tmp_path: Path, training: str, other: str) -> None:
    paired(
        tmp_path,
        [f"{f}/{kind}/{f[0]}{i}.nii" for f in (training, other) for kind in ("images", "masks") for i in (1, 2)],
    )

    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert {p.mask.parts[0]: p.part for p in pairs.pairs}[other] == "validation"
    assert {p.part for p in pairs.pairs if p.mask.parts[0] == training} <= {"train", ""}


def test_ct_and_mr_in_one_channel_are_named(tmp_path: Path) -> None:
    for kind in ("ct", "mr"):
        for i in range(3):
            name = f"{kind}_train/{kind}_train_{100 + i}"
            write_pair(tmp_path / "d", f"{name}_image.nii.gz", f"{name}_label.nii.gz", i)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert any(r.startswith("3 images are CT and 3 MR by their names") for r in made.draft.remarks)


@pytest.mark.parametrize("folder", ["KiTS_case_00001", "BraTS_data", "LiTS_dataset", "BraTS_part_1", "BraTS-Cases"])
def test_names_that_end_in_ts_are_not_for_testing(tmp_path: Path, folder: str) -> None:
    assert paired(tmp_path, [f"{folder}/{kind}-{i}.nii" for i in (1, 2) for kind in ("volume", "segmentation")])


@pytest.mark.parametrize(
    ("mask", "images"),
    [
        ("arterial/P{}_mask.nii", ["arterial/P{}.nii", "venous/P{}.nii", "delayed/P{}.nii"]),
        ("t2w/P{}_seg.nii", ["t2w/P{}.nii", "adc/P{}.nii", "hbv/P{}.nii"]),
        (
            "derivatives/prep/sub-{0}/anat/sub-{0}_dseg.nii",
            ["derivatives/prep/sub-{0}/anat/sub-{0}_FLAIR.nii", "sub-{0}/anat/sub-{0}_T1w.nii"],
        ),
        (
            "derivatives/sub-{0}/ses-1/sub-{0}_ses-1_msk.nii",
            ["derivatives/sub-{0}/ses-1/sub-{0}_ses-1_flair.nii", "rawdata/sub-{0}/ses-1/sub-{0}_ses-1_dwi.nii"],
        ),
    ],
)
def test_folders_with_an_image_for_each_mask_are_channels(tmp_path: Path, mask: str, images: list[str]) -> None:
    found = paired(tmp_path, [n.format(i) for i in (1, 2, 3) for n in (mask, *images)])

    assert {m: sorted(of.values()) for m, of in found.items()} == {
        mask.format(i): sorted(n.format(i) for n in images) for i in (1, 2, 3)
    }


def test_a_mask_beside_all_images_is_not_that_of_images_with_their_own(tmp_path: Path) -> None:
    names = [f"{kind}/P{i}.nii" for kind in ("images", "labels") for i in (1, 2, 3)]

    found = paired(tmp_path, [*names, "images/mask.nii"])

    assert found == {f"labels/P{i}.nii": {"image": f"images/P{i}.nii"} for i in (1, 2, 3)}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("raw/images/P{}.nii", "ground_truth/images/P{}.nii"),
        ("image/scans/P{}.nii", "label/scans/P{}.nii"),
        ("label_192/images/P{}.nii", "label_192/masks/P{}.nii"),
        ("Segmentation/images/P{}.nii", "Segmentation/ground truth/P{}.nii"),
        ("patients/P{0}/PET-CT/CT.nii", "patients/P{0}/PET-CT/SEG.nii"),
    ],
)
def test_folders_of_images_may_be_below_or_beside_those_of_masks(tmp_path: Path, image: str, mask: str) -> None:
    found = paired(tmp_path, [n.format(i) for i in (1, 2, 3) for n in (image, mask)])

    assert {m: list(of.values()) for m, of in found.items()} == {mask.format(i): [image.format(i)] for i in (1, 2, 3)}


def test_sequences_that_their_folder_names_are_channels(tmp_path: Path) -> None:
    names = [f"P{i}/NA-PET-CT/{kind}.nii" for i in (1, 2) for kind in ("CT", "PET", "SUV", "SEG")]

    found = paired(tmp_path, names)

    assert {m: sorted(of) for m, of in found.items()} == {
        f"P{i}/NA-PET-CT/SEG.nii": ["CT", "PET", "SUV"] for i in (1, 2)
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("P{0}/T{1}/P{0}_T{1}_{2}.nii", "P{0}/T{1}/P{0}_T{1}_MASK.nii"),
        ("P{0}/T{1}/{2}.nii", "P{0}/T{1}/MASK.nii"),
    ],
)
def test_a_visit_called_as_a_sequence_is_not_that_sequence(tmp_path: Path, image: str, mask: str) -> None:
    places = [(p, v) for p in (1, 2) for v in (1, 2)]
    names = [image.format(*place, c) for place in places for c in ("T1", "T2", "FLAIR")]

    found = paired(tmp_path, [*names, *(mask.format(*place) for place in places)])

    assert found == {
        mask.format(*place): {c: image.format(*place, c) for c in ("T1", "T2", "FLAIR")} for place in places
    }


@pytest.mark.parametrize(
    ("image", "channel"),
    [("batch_{1}/{0}_0000.nii", "0000"), ("site{1}/{0}_T1w.nii", "T1w"), ("images/hospital{1}/{0}_flair.nii", "flair")],
)
def test_folders_of_groups_are_no_part_of_the_name_of_a_channel(tmp_path: Path, image: str, channel: str) -> None:
    cases = [(100 + i, "AB"[i % 2]) for i in range(6)]

    found = paired(tmp_path, [n for c in cases for n in (image.format(*c), f"masks/{c[0]}.nii")])

    assert found == {f"masks/{c[0]}.nii": {channel: image.format(*c)} for c in cases}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{0}_seg.nii.gz", "{0}_lesion_seg.nii.gz"),
        ("{0}/mask.nii.gz", "{0}/mask_tumour.nii.gz"),
        ("d/{0}_T1w_seg-manual.nii.gz", "d/{0}_T1w_lesion-manual.nii.gz"),
    ],
)
def test_a_second_mask_beside_the_first_is_not_called_a_mask_without_an_image(
    first: str, second: str, tmp_path: Path
) -> None:
    for i in range(4):
        case = f"sub-{i}"
        image = f"{case}/t1.nii.gz" if "/" in first and not first.startswith("d") else f"{case}_T1w.nii.gz"
        write_pair(tmp_path, image, first.format(case), seed=i)
        write_pair(tmp_path, image, second.format(case), seed=i)

    with pytest.raises(DataError, match="masks of two kinds"):
        find_pairs(tmp_path)


def test_names_that_differ_in_upper_and_lower_case_only_are_two_cases(tmp_path: Path) -> None:
    for name in ("P1", "p1", "P2", "p2"):
        write_pair(tmp_path, f"img/{name}.nii.gz", f"seg/{name}.nii.gz")

    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert sorted((p.mask.name, p.images["image"].name) for p in pairs.pairs) == [
        (f"{n}.nii.gz", f"{n}.nii.gz") for n in ("P1", "P2", "p1", "p2")
    ]
    assert not pairs.left_out


def test_masks_of_single_slices_beside_whole_scans_are_named_as_such(tmp_path: Path) -> None:
    for case in ("1", "2", "3"):
        save_nifti(tmp_path / case / "ct.nii.gz", blob_case(0, (12, 10, 4))[0])
        for k in range(4):
            (tmp_path / case / "Ground").mkdir(exist_ok=True)
            Image.fromarray(np.eye(12, dtype=np.uint8) * 255).save(tmp_path / case / "Ground" / f"liver_GT_{k:03d}.png")

    with pytest.raises(DataError, match="masks of single slices beside whole scans"):
        find_pairs(tmp_path)


def test_several_sequences_in_one_channel_are_named(tmp_path: Path) -> None:
    for i in range(3):
        for sequence in ("T1w", "T2w"):
            name = f"sub-{i}_{sequence}"
            write_pair(tmp_path / "d", f"images/{name}.nii.gz", f"masks/{name}.nii.gz", seed=i)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert len(made.config.data.channels) == 1
    assert [r for r in made.draft.remarks if "of several sequences by their names (3 T1, 3 T2)" in r]


def test_numbers_may_lack_zeros(tmp_path: Path) -> None:
    for i in (1, 2, 10):
        write_pair(tmp_path, f"images/patient_{i:03d}.nii.gz", f"masks/patient_{i}.nii.gz", seed=i)

    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert {int(p.mask.name[8:-7]): int(p.images["image"].name[8:-7]) for p in pairs.pairs} == {1: 1, 2: 2, 10: 10}


def test_a_finding_without_a_word_for_a_mask_is_the_mask(tmp_path: Path) -> None:
    """The sites are words of many files, too."""
    for n, site in enumerate(("Utrecht", "Singapore", "Amsterdam")):
        for i in range(2):
            case = f"{site}/{10 * n + i}"
            for sequence in ("FLAIR", "T1"):
                save_nifti(tmp_path / f"{case}/orig/{sequence}.nii.gz", blob_case(i)[0])
            save_nifti(tmp_path / f"{case}/wmh.nii.gz", blob_case(i)[1])

    pairs = find_pairs(tmp_path, by_contents=True)

    assert pairs is not None
    assert {p.mask.name for p in pairs.pairs} == {"wmh.nii.gz"}
    assert len(pairs.pairs) == 6


def test_thin_masks_are_not_taken_for_images(tmp_path: Path) -> None:
    """No file has the name of a mask, and thin labels do not look like areas."""
    for i in range(3):
        for name in ("T1DUAL/InPhase/IMG", "T1DUAL/OutPhase/IMG", "T2SPIR/IMG"):
            save_nifti(tmp_path / f"MR/{i}/{name}.nii.gz", blob_case(i)[0])
        thin = np.zeros(blob_case(i)[1].shape, np.uint8)
        thin[::4, 3, 3] = 1
        save_nifti(tmp_path / f"MR/{i}/T1DUAL/Ground/g.nii.gz", blob_case(i)[1])
        save_nifti(tmp_path / f"MR/{i}/T2SPIR/Ground/g.nii.gz", thin)

    with pytest.raises(DataError, match="have few values, as masks do"):
        find_pairs(tmp_path, by_contents=True)
