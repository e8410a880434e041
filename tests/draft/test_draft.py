"""A study is drafted from the files of a dataset, and its config lists every case."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medhybrid.config import StudyConfig
from medhybrid.data.layouts import list_dataset
from medhybrid.data.load import load_image, load_mask
from medhybrid.data.splits import load_folds
from medhybrid.draft.subjects import are_coarser, subject_pattern, subjects_of_folders
from medhybrid.errors import DataError, OutputError
from medhybrid.progress import Silent
from medhybrid.steps.init import config_for_data, init_study
from tests.synthetic import AFFINE, blob_case, save_nifti

FLIP_X = np.diag([-1.0, 1.0, 1.0, 1.0])
FLIP_X[0, 3] = 11  # of 12 voxels

CT = np.tile(np.array([-1000, 40, 900], np.int16), (12, 10, 1)).reshape(12, 10, 3)


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def write_pair(root: Path, image: str, mask: str, seed: int = 0) -> None:
    """Write an image and a mask with the values 1 and 4."""
    values, labels = blob_case(seed, (12, 10, 8))
    save_nifti(root / image, values)
    save_nifti(root / mask, labels)


def drafted(root: Path, **options: Any) -> StudyConfig:
    """Return the config of a drafted study, after checking that it lists all of its cases."""
    made = init_study(root, **options)
    listing = list_dataset(made.config.data)
    assert [c.problem for c in listing.cases] == [None] * made.draft.n_cases
    assert made.draft.n_cases > 0
    return made.config


def test_a_decathlon_dataset_gives_names_modality_and_subjects(tmp_path: Path) -> None:
    names = [f"heart_{p:03d}_{f:02d}" for p in range(4) for f in (1, 12)]
    for i, name in enumerate(names):
        write_pair(tmp_path / "d", f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz", i)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    about = {"name": "heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "LV", "4": "RV"}}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({**about, "training": listed}))

    config = drafted(tmp_path / "d", minutes=12)

    assert config.name == "heart"
    assert [(c.name, c.modality) for c in config.data.channels] == [("MRI", "MR")]
    assert config.data.labels == {"LV": 1, "RV": 4}
    assert {c.subject for c in list_dataset(config.data).cases} == {f"heart_{p:03d}" for p in range(4)}
    assert config.training.max_minutes == 12


def test_regions_and_ignore_of_nnunet_are_taken(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "d", f"imagesTr/c{i}_0000.nii.gz", f"labelsTr/c{i}.nii.gz", i)
        save_nifti(tmp_path / "d" / f"imagesTr/c{i}_0001.nii.gz", blob_case(i, (12, 10, 8))[0])
    labels = {"background": 0, "whole": [1, 4], "core": 4, "ignore": 5}
    about = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": labels, "regions_class_order": [1, 4]}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({**about, "file_ending": ".nii.gz", "numTraining": 3}))

    config = drafted(tmp_path / "d")

    assert [c.name for c in config.data.channels] == ["T1", "FLAIR"]
    assert config.data.regions == {"whole": (1, 4), "core": (4,)}
    assert config.data.labels == {"whole_rest": 1, "core": 4}
    assert config.data.ignore_value == 5


def test_regions_are_ordered_so_that_none_is_drawn_over_one_inside_it(tmp_path: Path) -> None:
    write_pair(tmp_path / "d", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    labels = {"background": 0, "core": 4, "whole": [1, 4], "all": [1, 4, 5]}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": labels}))

    assert list(drafted(tmp_path / "d").data.regions) == ["all", "whole", "core"]


@pytest.mark.parametrize(
    ("image", "mask", "name", "splits"),
    [
        ("images/{c}.nii.gz", "masks/{c}.nii.gz", "splits.json", "{root}/splits.json"),
        ("imagesTr/{c}_0000.nii.gz", "labelsTr/{c}.nii.gz", "splits_final.json", "splits_final.json"),
        ("imagesTr/{c}_0000.nii.gz", "labelsTr/{c}.nii.gz", "splits.json", "splits.json"),
    ],
)
def test_folds_of_the_dataset_are_used(tmp_path: Path, image: str, mask: str, name: str, splits: str) -> None:
    root = tmp_path / "d"
    for i, c in enumerate("abc"):
        write_pair(root, image.format(c=c), mask.format(c=c), i)
    (root / name).write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))

    config = drafted(root)
    (fold,) = load_folds(config.data, list_dataset(config.data).cases)[0]

    assert config.data.splits == splits.format(root=root)
    assert (fold.train, fold.validation) == (("a", "b"), ("c",))


def test_folds_that_divide_a_subject_are_not_used_and_named(tmp_path: Path) -> None:
    names = [f"heart_{p:03d}_{f}" for p in range(3) for f in ("01", "12")]
    for i, name in enumerate(names):
        write_pair(tmp_path / "d", f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz", i)
    (tmp_path / "d" / "splits_final.json").write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))

    made = init_study(tmp_path / "d")

    assert made.draft.remarks[-1].endswith("a subject is on both sides of one, such as heart_000")
    assert "drawn" in load_folds(made.config.data, list_dataset(made.config.data).cases)[1]


def test_folders_for_training_and_validation_give_the_fold_and_no_subjects(tmp_path: Path) -> None:
    for i, (part, name) in enumerate([("train", "p1_a"), ("train", "p1_b"), ("train", "p2_a"), ("val", "p1_a")]):
        write_pair(tmp_path / "d", f"{part}/images/{name}.nii.gz", f"{part}/labels/{name}.nii.gz", i)

    config = drafted(tmp_path / "d")
    cases = list_dataset(config.data).cases

    assert [c.subject for c in cases] == ["train_p1", "train_p1", "train_p2", "validation_p1"]
    assert [c.fold for c in cases] == [-1, -1, -1, 0]


def test_values_that_no_config_may_have_are_refused_and_no_file_is_left(tmp_path: Path) -> None:
    write_pair(tmp_path / "d", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 1}}))

    with pytest.raises(DataError, match="two names have the same value"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")
    assert not (tmp_path / "study.yaml").exists()


@pytest.mark.parametrize(
    ("folds", "remark"),
    [
        ([{"train": ["x"], "val": ["y"]}], "splits.json are not used: 2 of its names are no cases, such as x"),
        ({"a": 1}, "splits.json is not used: "),
    ],
)
def test_folds_that_do_not_fit_are_not_used_and_named(tmp_path: Path, folds: object, remark: str) -> None:
    write_pair(tmp_path / "d", "images/a.nii.gz", "masks/a.nii.gz")
    (tmp_path / "d" / "splits.json").write_text(json.dumps(folds))

    made = init_study(tmp_path / "d")

    assert made.config.data.splits == "splits.json"
    assert remark in "; ".join(made.draft.remarks)


def write_image(path: Path, array: np.ndarray) -> None:
    """Write a PNG or JPEG of an array (Y, X[, 3])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_colour_images_with_masks_of_0_and_255_give_three_channels(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for i in range(3):
        write_image(tmp_path / f"d/images/p{i}.jpg", rgb)
        write_image(tmp_path / f"d/masks/p{i}.png", 255 * (rgb[..., 0] > 128).astype(np.uint8))

    config = drafted(tmp_path / "d")

    assert [(c.name, c.modality) for c in config.data.channels] == [
        ("red", "other"),
        ("green", "other"),
        ("blue", "other"),
    ]
    assert config.data.labels == {"foreground": 255}
    assert config.prepare.mirror_axes == (0, 1)
    case = list_dataset(config.data).cases[0]
    assert load_image(case, config.data, config.scans).array.shape == (3, 30, 20, 1)
    assert load_mask(case, load_image(case, config.data, config.scans), config.data, config.scans).array.max() == 255


def test_masks_of_0_and_1_beside_masks_of_0_and_255_have_one_label(tmp_path: Path) -> None:
    for i, value in enumerate((1, 255, 1)):
        write_image(tmp_path / "d" / "images" / f"{i}.png", np.arange(64, dtype=np.uint8).reshape(8, 8) + i)
        write_image(tmp_path / "d" / "masks" / f"{i}.png", np.pad(np.full((4, 4), value, np.uint8), 2))

    data = drafted(tmp_path / "d").data

    assert data.regions == {"foreground": (1, 255)}


@pytest.mark.parametrize(
    ("values", "labels", "ignored"),
    [
        ((1, 2, 255), [1, 2], 255),
        ((1, 2, 3, 255), [1, 2, 3], 255),
        ((2, 255), [2, 255], None),
        ((127, 255), [127, 255], None),
    ],
)
def test_the_value_255_beside_numbered_labels_is_ignored(
    tmp_path: Path, values: tuple[int, ...], labels: list[int], ignored: int | None
) -> None:
    for i in range(3):
        mask = np.zeros((12, 10, 8), np.uint8)
        for k, value in enumerate(values):
            mask[2 * k : 2 * k + 2, 2:6, 2:6] = value
        save_nifti(tmp_path / "d" / "images" / f"p{i}.nii.gz", blob_case(i, mask.shape)[0])
        save_nifti(tmp_path / "d" / "masks" / f"p{i}.nii.gz", mask)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert (list(made.config.data.labels.values()), made.config.data.ignore_value) == (labels, ignored)
    assert any("the value 255 is taken for voxels without a label" in r for r in made.draft.remarks) is bool(ignored)


def test_masks_that_number_their_objects_have_one_label(tmp_path: Path) -> None:
    for i in range(5):
        cells = np.zeros((20, 20), np.uint8)
        cells[1::2, 1::2] = np.arange(100).reshape(10, 10)
        cells[cells > 8 + i] = 0
        write_image(tmp_path / "d" / "images" / f"{i}.png", np.arange(400, dtype=np.uint8).reshape(20, 20) + i)
        write_image(tmp_path / "d" / "masks" / f"{i}.png", cells)

    made = init_study(tmp_path / "d")

    assert made.config.data.regions == {"foreground": tuple(range(1, 49))}
    assert "the masks number objects, up to 12 in one" in made.draft.remarks[0]


def test_masks_with_a_label_in_each_corner_are_named(tmp_path: Path) -> None:
    for i in range(2):
        write_image(tmp_path / "d" / "images" / f"{i}.png", np.arange(64, dtype=np.uint8).reshape(8, 8) + i)
        write_image(tmp_path / "d" / "masks" / f"{i}.png", np.pad(np.zeros((4, 4), np.uint8), 2, constant_values=255))

    remarks = init_study(tmp_path / "d").draft.remarks

    assert any("2 of 2 sampled masks have a label in each corner" in r for r in remarks)


def test_grey_images_that_are_stored_as_colours_are_one_channel(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    for i in range(3):
        write_image(tmp_path / f"d/p{i}.png", np.dstack([grey] * 3) if i else grey)
        write_image(tmp_path / f"d/p{i}_mask.png", (grey > 128).astype(np.uint8))

    config = drafted(tmp_path / "d")

    assert [c.name for c in config.data.channels] == ["image"]
    assert {load_image(c, config.data, config.scans).array.shape[0] for c in list_dataset(config.data).cases} == {1}


def test_colours_of_nnunet_keep_their_names(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for i in range(2):
        write_image(tmp_path / f"d/imagesTr/c{i}_0000.png", rgb)
        write_image(tmp_path / f"d/labelsTr/c{i}.png", (rgb[..., 0] > 128).astype(np.uint8))
    about = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "cell": 1},
        "file_ending": ".png",
    }
    (tmp_path / "d/dataset.json").write_text(json.dumps(about))

    config = drafted(tmp_path / "d")

    assert [c.name for c in config.data.channels] == ["R", "G", "B"]


def test_previews_beside_scans_are_not_used(tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path / "d", f"c{i}.nii.gz", f"c{i}_mask.nii.gz", i)
        write_image(tmp_path / f"d/c{i}.png", np.zeros((9, 9), np.uint8))
        write_image(tmp_path / f"d/c{i}_mask.png", np.zeros((9, 9), np.uint8))

    assert [c.name for c in drafted(tmp_path / "d").data.channels] == ["image"]


def test_a_label_map_beside_the_mask_is_no_channel(tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path / "d", f"p{i}/T1.nii.gz", f"p{i}/tissue_seg.nii.gz", i)
        save_nifti(tmp_path / "d" / f"p{i}/lesion.nii.gz", (blob_case(i, (12, 10, 8))[1] > 0).astype(np.float32))

    made = init_study(tmp_path / "d")

    assert [c.name for c in made.config.data.channels] == ["T1"]
    assert any("lesion is not used: its files are label maps" in r for r in made.draft.remarks)


def test_masks_with_soft_borders_are_refused(tmp_path: Path) -> None:
    rows = np.clip(np.arange(60) * 20 - 400, 0, 255).astype(np.uint8)
    write_image(tmp_path / "d/images/a.png", np.tile(rows, (30, 1)))
    write_image(tmp_path / "d/masks/a.png", np.tile(rows, (30, 1)))

    with pytest.raises(DataError, match="grey values at its borders"):
        init_study(tmp_path / "d")


def test_files_with_several_channels_are_listed_in_one_column(tmp_path: Path) -> None:
    for i in range(2):
        values, labels = blob_case(i, (12, 10, 8))
        save_nifti(tmp_path / f"d/images/c{i}.nii.gz", np.stack([values, values + 1], axis=-1))
        save_nifti(tmp_path / f"d/masks/c{i}.nii.gz", labels)

    config = drafted(tmp_path / "d")

    assert [c.name for c in config.data.channels] == ["channel_0", "channel_1"]
    case = list_dataset(config.data).cases[0]
    assert load_image(case, config.data, config.scans).channels == ("channel_0", "channel_1")


def test_masks_with_several_channels_are_refused_with_the_reason(tmp_path: Path) -> None:
    values, labels = blob_case(0, (12, 10, 8))
    save_nifti(tmp_path / "d/images/a.nii.gz", values)
    save_nifti(tmp_path / "d/masks/a.nii.gz", np.stack([labels] * 2, axis=-1))

    with pytest.raises(DataError, match=r"no sampled case.*several channels"):
        init_study(tmp_path / "d")


def test_channels_of_imagestr_may_be_words(tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path / "d", f"imagesTr/P-{i}__CT.nii.gz", f"labelsTr/P-{i}.nii.gz", i)
        save_nifti(tmp_path / "d" / f"imagesTr/P-{i}__PT.nii.gz", blob_case(i, (12, 10, 8))[0])

    assert [c.name for c in drafted(tmp_path / "d").data.channels] == ["CT", "PT"]


def test_a_folder_without_list_gets_channels_by_number_and_labels_by_value(tmp_path: Path) -> None:
    for i in range(2):
        save_nifti(tmp_path / "d" / f"imagesTr/c{i}_0000.nii.gz", CT)
        save_nifti(tmp_path / "d" / f"labelsTr/c{i}.nii.gz", (CT > 0).astype(np.uint8) * 7)

    config = drafted(tmp_path / "d")

    assert config.data.channels[0].modality == "CT"
    assert config.data.labels == {"foreground": 7}


@pytest.mark.parametrize(
    ("image", "mask", "channels"),
    [
        ("images/{c}.nii.gz", "masks/{c}.nii.gz", ["image"]),
        ("imgs/{c}.nii.gz", "segmentations/{c}_seg.nii.gz", ["image"]),
        ("{c}.nii.gz", "{c}_label.nii.gz", ["image"]),
        ("{c}/{c}_flair.nii.gz", "{c}/{c}_seg.nii.gz", ["flair"]),
        ("{c}/FLAIR.nii.gz", "{c}/lesion_mask.nii.gz", ["FLAIR"]),
        ("{c}/anat/{c}_T1w.nii.gz", "derivatives/manual_masks/{c}/anat/{c}_label-lesion_mask.nii.gz", ["T1w"]),
    ],
)
def test_images_and_masks_are_paired_by_their_names(tmp_path: Path, image: str, mask: str, channels: list[str]) -> None:
    names = [f"sub-{i:02d}" for i in range(1, 4)]
    for i, case in enumerate(names):
        write_pair(tmp_path / "d", image.format(c=case), mask.format(c=case), i)
    (tmp_path / "d" / "readme.txt").write_text("about")

    config = drafted(tmp_path / "d")
    cases = list_dataset(config.data).cases

    assert [c.name for c in config.data.channels] == channels
    for case, name in zip(cases, names, strict=True):
        assert case.mask is not None
        assert case.mask.paths == (tmp_path / "d" / mask.format(c=name),)
        assert [f.paths for f in case.images if f] == [(tmp_path / "d" / image.format(c=name),)]


@pytest.mark.parametrize(
    ("words", "channels"),
    [
        (("flair", "t1ce"), ["flair", "t1ce"]),
        (("t1", "t2"), ["t1", "t2"]),
        (("a{}", "b{}"), ["channel_0", "channel_1"]),
    ],
)
def test_files_of_a_list_without_names_give_the_channels(
    tmp_path: Path, words: tuple[str, str], channels: list[str]
) -> None:
    listed = []
    for i in range(2):
        files = [f"p{i}/p{i}_{w.format(i)}.nii.gz" for w in words]
        write_pair(tmp_path / "d", files[0], f"p{i}/p{i}_seg.nii.gz", i)
        save_nifti(tmp_path / "d" / files[1], blob_case(i + 5, (12, 10, 8))[0])
        listed.append({"fold": i, "image": files, "label": f"p{i}/p{i}_seg.nii.gz"})
    (tmp_path / "d" / "folds.json").write_text(json.dumps({"training": listed}))

    assert [c.name for c in drafted(tmp_path / "d").data.channels] == channels


def test_a_channel_on_another_grid_than_the_masks_is_not_used(tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path / "d", f"p{i}/CTres.nii.gz", f"p{i}/SEG.nii.gz", i)
        save_nifti(tmp_path / "d" / f"p{i}/SUV.nii.gz", blob_case(i, (12, 10, 8))[0][::-1], AFFINE @ FLIP_X)
        save_nifti(tmp_path / "d" / f"p{i}/CT.nii.gz", blob_case(i, (24, 20, 8))[0])

    made = init_study(tmp_path / "d")

    assert [(c.name, c.modality) for c in made.config.data.channels] == [("CTres", "CT"), ("SUV", "other")]
    assert "CT is not used: it lies on another grid than the masks" in made.draft.remarks


def test_a_channel_that_some_cases_lack_is_optional(tmp_path: Path) -> None:
    for i in range(4):
        write_pair(tmp_path / "d", f"c{i}/FLAIR.nii.gz", f"c{i}/mask.nii.gz", i)
        if i:
            save_nifti(tmp_path / "d" / f"c{i}/T1.nii.gz", blob_case(i, (12, 10, 8))[0])

    config = drafted(tmp_path / "d")

    assert [(c.name, c.optional) for c in config.data.channels] == [("FLAIR", False), ("T1", True)]


def test_a_table_with_columns_of_other_names_is_converted(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "d", f"a/{i}.nii.gz", f"b/{i}.nii.gz", i)
    rows = "".join(f"{i},P{i // 2},a/{i}.nii.gz,b/{i}.nii.gz\n" for i in range(3))
    (tmp_path / "d" / "list.csv").write_text("scan_id,patient_id,t2,segmentation\n" + rows)

    config = drafted(tmp_path / "d")

    assert [c.name for c in config.data.channels] == ["t2"]
    assert sorted(c.subject for c in list_dataset(config.data).cases) == ["P0", "P0", "P1"]


def test_names_in_a_dataset_cannot_refer_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    write_pair(tmp_path / "d", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    labels = {"${oc.env:SECRET}": 1, "x: {y}\n# z": 4}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": labels}))

    made = init_study(tmp_path / "d")

    assert "swordfish" not in made.path.read_text() + str(made.config)
    assert sorted(made.config.data.labels.values()) == [1, 4]


def test_an_existing_config_is_not_overwritten_and_is_used_again_for_the_same_data(tmp_path: Path) -> None:
    write_pair(tmp_path / "d", "images/a.nii.gz", "masks/a.nii.gz")
    made = init_study(tmp_path / "d", minutes=7)

    with pytest.raises(OutputError, match="exists"):
        init_study(tmp_path / "d")

    assert config_for_data(tmp_path / "d", []) == made.config
    assert made.config.training.max_minutes == 7


def test_cases_added_since_the_draft_are_reported(tmp_path: Path) -> None:
    write_pair(tmp_path / "d", "images/a.nii.gz", "masks/a.nii.gz")
    made = init_study(tmp_path / "d")
    write_pair(tmp_path / "d", "images/b.nii.gz", "masks/b.nii.gz", 1)
    messages: list[str] = []

    class Reporter(Silent):
        def message(self, text: str) -> None:
            messages.append(text)

    assert config_for_data(tmp_path / "d", [], reporter=Reporter()) == made.config
    assert "1 cases of the dataset are not in cases.csv, such as b" in messages[1]


def test_the_config_of_another_dataset_of_the_same_name_is_not_used(tmp_path: Path) -> None:
    for place in ("x", "y"):
        write_pair(tmp_path / place / "d", "images/a.nii.gz", "masks/a.nii.gz")
    init_study(tmp_path / "x" / "d")

    with pytest.raises(OutputError, match=r"d\.yaml exists"):
        config_for_data(tmp_path / "y" / "d", [])


def test_a_table_of_other_values_beside_the_files_is_named_and_not_a_list(tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path / "d", f"p{i}.nii.gz", f"p{i}_seg.nii.gz", i)
    (tmp_path / "d" / "clinical.csv").write_text("PatientID,age,label\np0,50,1\np1,60,0\n")

    draft = init_study(tmp_path / "d", tmp_path / "study.yaml").draft

    assert draft.n_cases == 2
    assert "clinical.csv is not used: it has no columns of images and masks" in draft.remarks


def test_masks_that_no_image_fits_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "d", "a/t1.nii.gz", "a/seg35.nii.gz", 0)
    write_pair(tmp_path / "d", "b/t1.nii.gz", "b/seg4.nii.gz", 1)

    with pytest.raises(
        DataError, match=r"found 2 files with names of masks, such as a/seg35.nii.gz, which fit no images"
    ):
        init_study(tmp_path / "d")


def test_a_folder_without_masks_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    save_nifti(tmp_path / "d" / "a.nii.gz", blob_case(0)[0])

    with pytest.raises(DataError, match=r"no scans with reference masks.*mask, label, seg"):
        init_study(tmp_path / "d")


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["heart_001_01", "heart_001_12", "heart_002_01", "heart_002_14"], 2),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], 2),
        (["p1_L", "p1_R", "p2_L", "p2_R"], 2),
        ([f"hippocampus_{i:03d}" for i in range(12)], 12),
        (["glioma_CS_4941", "glioma_CS_4942", "glioma_DU_5849", "glioma_DU_5851"], 4),
        (["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003"], 3),
        (["ses_01_sub_01_t1w", "ses_02_sub_01_t1w", "ses_01_sub_02_t1w"], 2),
        (["p0_1_T1w", "p0_2_T1w", "p1_1_T1w", "p1_2_T1w"], 2),
        (["p0", "p0_2", "p1", "p1_2", "p2"], 3),
        ([f"case{i}_slice_{z:03d}" for i in range(3) for z in range(20)], 3),
        ([f"seq_{i}_frame{z:03d}_crop_0" for i in range(3) for z in range(20)], 3),
        ([f"{visit}_{i:03d}" for i in range(5) for visit in ("baseline", "followup")], 5),
        ([f"{i:03d}_{v}_{p}" for i in range(4) for v in ("SA", "LA") for p in ("ED", "ES")], 4),
        ([f"Image_{i:02d}{side}" for i in range(4) for side in "LR"], 4),
        ([f"P{i}_z{z:02d}" for i in range(3) for z in range(12)], 3),
        ([f"site{s}_{i}_{v}" for s in "AB" for i in range(4) for v in (1, 2)], 8),
        (["ses_1_001_T1", "ses_2_001_T1", "ses_1_002_T1", "ses_2_002_T1"], 2),
        ([f"{i}_{c}" for i in range(1, 9) for c in ("t1", "t2", "t2_SPACE")], 8),
        ([*(f"BraTS-GLI-{i:05d}-000" for i in range(12)), "BraTS-GLI-00003-001"], 12),
        ([f"site{s}-sc{i:02d}" for s in (1, 2) for i in range(3)], 6),
        ([f"part{p}_x{i}" for p in (1, 2) for i in range(3)], 6),
        ([f"training_batch_{b}_{b}{i}" for b in (1, 2) for i in range(3)], 6),
        ([*(f"set_{i:03d}_HC" for i in range(5)), "set_002_2HC"], 5),
        ([f"x_{kind}_{i:03d}" for kind in ("ct", "mr") for i in range(3)], 6),
        ([f"{i:04d}_{year}{i:02d}11" for i in range(10, 13) for year in (2019, 2021)], 3),
        ([f"RET{i:03d}{eye}" for i in range(4) for eye in ("OD", "OS")], 4),
        ([f"{side}_{i:03d}" for i in range(4) for side in "LR"], 4),
        ([f"{side}{i:03d}" for i in range(4) for side in ("left", "right")], 4),
        ([f"{phase}_P{i}" for i in range(4) for phase in ("ED", "ES")], 4),
        ([f"{sequence}_P{i}" for i in range(4) for sequence in ("T1", "T2")], 4),
        ([*(f"{i}_{i + 1000}" for i in range(10000, 10012)), "10003_11020"], 12),
        ([*(f"psma_{i:04x}_2018-04-{i}" for i in range(10, 22)), "psma_000c_2019-05-02"], 12),
        ([f"P{i}_0{month}-1{i}-2003" for i in range(4) for month in (1, 2)], 4),
        ([f"s{i} [x={x},y={y},w=512,h=512]" for i in range(3) for x in (0, 512) for y in (0, 512)], 3),
        ([f"s{i}_r{row}_c{column}" for i in range(3) for row in range(2) for column in range(2)], 3),
        ([f"a{i}_jpg.rf.{7919 * (3 * i + k):08x}" for i in range(3) for k in range(3)], 3),
    ],
)
def test_scans_of_one_person_are_found_by_their_names(names: list[str], subjects: int) -> None:
    pattern, reason = subject_pattern(names)
    found = {m[1] if pattern and (m := re.search(pattern, n)) else n for n in names}

    assert len(found) == subjects
    assert reason


def test_series_in_the_folder_of_a_patient_are_of_one_subject() -> None:
    names = [f"{i:04d}_{series:02d}_{z}" for i in range(3) for series in (3, 7) for z in range(3)]
    of_series = "^(.+)_[0-9]+$"

    assert subject_pattern(names)[0] == "^(.+)_[^_]+_[^_]+$"
    assert are_coarser([n[:4] for n in names], names, of_series)
    assert not are_coarser([n[:7] for n in names], names, of_series)
    assert not are_coarser([n[5:7] for n in names], names, "^([0-9]+)_")


def test_numbers_in_two_kinds_of_scans_are_named_with_a_pattern_for_them() -> None:
    pattern, reason = subject_pattern([f"x_{kind}_{i:03d}" for kind in ("ct", "mr") for i in range(20)])

    assert pattern is None
    assert reason.endswith("If 000 is one subject in x_ct and x_mr, set data.subject_pattern to _([0-9]+)$")


def test_series_of_numbers_that_may_be_slices_are_named_with_a_pattern_for_them(tmp_path: Path) -> None:
    for i in range(2):
        for z in range(9):
            write_pair(tmp_path / "d", f"images/P{i}_{z}.nii.gz", f"masks/P{i}_{z}.nii.gz", z)
    messages: list[str] = []

    class Reporter(Silent):
        def message(self, text: str) -> None:
            messages.append(text)

    made = init_study(tmp_path / "d", reporter=Reporter())

    assert any("If P0 is one subject with 9 images, set data.subject_pattern to ^(.+)_" in m for m in messages)
    config = made.config.data.model_copy(update={"subject_pattern": "^(.+)_"})
    assert {c.subject for c in list_dataset(config).cases} == {"P0", "P1"}


@pytest.mark.parametrize(("folder", "n"), [("{}", 3), ("site_{}", 30), ("{}_masks/deeper", 3)])
def test_slices_in_the_folder_of_a_patient_are_of_one_subject(folder: str, n: int) -> None:
    files = [Path(folder.format(f"TCGA_CS_494{i}")) / f"{z}_mask.tif" for i in range(3) for z in range(10)]

    assert len(set(subjects_of_folders(files) or files)) == n
