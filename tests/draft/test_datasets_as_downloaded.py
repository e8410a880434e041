"""Datasets as people download them: folders of groups, maps beside the masks, odd files, and lists of other kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from medhybrid.config import ChannelConfig, DataConfig
from medhybrid.data.layouts import list_dataset
from medhybrid.draft.draft import Draft
from medhybrid.draft.pairs import find_pairs
from medhybrid.errors import DataError
from medhybrid.steps.init import init_study
from tests.draft.test_draft import write_pair
from tests.draft.test_pairs import paired
from tests.draft.test_segments import write_dicom_study
from tests.synthetic import blob_case, save_nifti

SHAPE = (12, 10, 8)


def draft_of(root: Path) -> Draft:
    """Return the draft of a dataset; its config is written beside the dataset."""
    return init_study(root, root.parent / "study.yaml").draft


def of_cases(cases: Sequence[object], *names: str) -> list[str]:
    """Return names with each of some cases in place of `{}`."""
    return [n.replace("{}", str(c)) for c in cases for n in names]


def write_nnunet(root: Path, channels: dict[str, str], labels: dict[str, object]) -> None:
    """Write three cases of the layout of nnU-Net with masks of the values 1 and 4."""
    for i in range(3):
        write_pair(root, f"imagesTr/c{i}_0000.nii.gz", f"labelsTr/c{i}.nii.gz", i)
    about = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz", "numTraining": 3}
    (root / "dataset.json").write_text(json.dumps(about))


def test_a_folder_of_two_datasets_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("Dataset001_Heart", "Dataset002_Liver"):
        write_nnunet(tmp_path / "d" / name, {"0": "CT"}, {"background": 0, "a": 1, "b": 4})

    with pytest.raises(DataError, match=r"contains datasets.*found Dataset001_Heart, Dataset002_Liver.*one of them"):
        draft_of(tmp_path / "d")


def test_the_only_dataset_in_a_folder_is_used_with_its_names_regions_and_ignore_value(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 4], "core": 4, "ignore": 5}
    write_nnunet(tmp_path / "d" / "Dataset001_Brain", {"0": "FLAIR"}, labels)

    made = init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert [c.name for c in made.config.data.channels] == ["FLAIR"]
    assert made.config.data.regions == {"whole": (1, 4), "core": (4,)}
    assert made.config.data.ignore_value == 5
    assert [c.name for c in list_dataset(made.config.data).cases] == ["c0", "c1", "c2"]
    assert "the dataset is in the folder Dataset001_Brain" in made.draft.remarks


def test_an_empty_list_beside_imagestr_gives_names_only(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "d", {"0": "CT"}, {"background": 0, "a": 1, "b": 4})
    about = json.loads((tmp_path / "d" / "dataset.json").read_text())
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({**about, "training": [], "test": []}))

    draft = draft_of(tmp_path / "d")

    assert (draft.n_cases, [c.name for c in draft.channels]) == (3, ["CT"])
    assert [d.name for d in draft.labels] == ["a", "b"]


def test_sequences_in_folders_are_channels_though_the_mask_is_in_one_of_them(tmp_path: Path) -> None:
    for i in range(4):
        image, labels = blob_case(i, SHAPE)
        for name, values in (("CT/CT", image), ("PET/PET", image + 1), ("PET/PET_seg", labels)):
            save_nifti(tmp_path / "d" / f"P{i}" / f"{name}.nii.gz", values)

    draft = draft_of(tmp_path / "d")

    assert (draft.n_cases, [c.name for c in draft.channels]) == (4, ["CT", "PET"])


def test_images_of_a_visit_without_masks_are_no_channels(tmp_path: Path) -> None:
    for i in range(4):
        for j, visit in enumerate(("v1", "v2")):
            save_nifti(tmp_path / "d" / f"P{i}_{visit}_T1.nii.gz", blob_case(2 * i + j, SHAPE)[0])
        save_nifti(tmp_path / "d" / f"P{i}_v1_T1_seg.nii.gz", blob_case(2 * i, SHAPE)[1])

    draft = draft_of(tmp_path / "d")

    assert (draft.n_cases, len(draft.channels)) == (4, 1)
    assert any("4 images without a mask" in r for r in draft.remarks)


def test_other_folders_beside_imagestr_are_named(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "d", {"0": "CT"}, {"background": 0, "a": 1, "b": 4})
    for folder in ("imagesVa", "labelsVa", "imagesTs"):
        save_nifti(tmp_path / "d" / folder / "v1_0000.nii.gz", blob_case(7, SHAPE)[0])

    assert "other folders are not used: imagesVa, labelsVa" in draft_of(tmp_path / "d").remarks


@pytest.mark.parametrize(
    ("images", "mask"),
    [
        ("picai_public_images_{g}/{i}/{i}_10{i}", "picai_labels/csPCa/{i}_10{i}"),
        ("images/{g}/p{i}", "masks/p{i}"),
    ],
)
@pytest.mark.parametrize(
    "groups",
    [
        ("fold0", "fold1"),
        ("HGG", "LGG"),
        ("site_A", "site_B"),
        ("batch1", "batch2"),
        ("batch_1", "batch_2"),
        ("2019", "2020"),
    ],
)
def test_folders_of_groups_with_all_channels_of_a_case_are_no_channels(
    tmp_path: Path, groups: tuple[str, str], images: str, mask: str
) -> None:
    stems = {mask.format(i=i): images.format(i=i, g=groups[i % 2]) for i in range(1, 7)}

    found = paired(tmp_path, [n for m, s in stems.items() for n in (f"{m}.nii", f"{s}_t2w.nii", f"{s}_adc.nii")])

    assert found == {f"{m}.nii": {"adc": f"{s}_adc.nii", "t2w": f"{s}_t2w.nii"} for m, s in stems.items()}


@pytest.mark.parametrize(
    "word", ["distance", "weight_maps", "instance", "boundary", "edges", "skeleton", "visualization"]
)
def test_maps_made_from_masks_are_no_channels_by_their_names(tmp_path: Path, word: str) -> None:
    names = of_cases("123", "images/p{}.nii", "masks/p{}.nii", f"{word}/p{{}}.nii")

    assert paired(tmp_path, names) == {f"masks/p{i}.nii": {"image": f"images/p{i}.nii"} for i in "123"}


def test_a_channel_with_one_value_outside_of_the_mask_is_no_channel(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "d", f"p{i}/T1.nii.gz", f"p{i}/seg.nii.gz", i)
        image, mask = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"p{i}/depth.nii.gz", np.where(mask > 0, image, 0).astype(np.float32))
        save_nifti(tmp_path / "d" / f"p{i}/T2.nii.gz", image * 2)

    draft = draft_of(tmp_path / "d")

    assert sorted(c.name for c in draft.channels) == ["T1", "T2"]
    assert any(r.startswith("depth is not used: its files are label maps, or made from masks") for r in draft.remarks)


def test_skull_stripped_images_with_labels_of_the_whole_brain_stay(tmp_path: Path) -> None:
    for i in range(3):
        brain = np.zeros(SHAPE, np.uint8)
        brain[2:10, 2:8, 2:6] = 1
        for n, channel in enumerate(("T1", "T2")):
            save_nifti(tmp_path / "d" / f"p{i}/{channel}.nii.gz", (blob_case(i, SHAPE)[0] + 40 + 9 * n) * brain)
        save_nifti(tmp_path / "d" / f"p{i}/seg.nii.gz", brain)

    assert sorted(c.name for c in draft_of(tmp_path / "d").channels) == ["T1", "T2"]


def test_a_second_version_of_the_masks_in_their_folder_is_refused(tmp_path: Path) -> None:
    names = of_cases((11, 12, 13), "p{}/t1.nii", "p{}/seg.nii", "p{}/seg_corrected.nii")

    with pytest.raises(DataError, match=r"masks of two kinds.*p11/seg.nii and p11/seg_corrected.nii"):
        paired(tmp_path, names)


@pytest.mark.parametrize(
    ("image", "mask", "odd"),
    [
        ("images/scan_{}.nii", "masks/mask_{}.nii", ["images/scan_7_mask.nii"]),
        ("images/p{}.nii", "lesion_masks/p{}.nii", ["images/lesion_p7.nii", "lesion_masks/lesion_p7.nii"]),
        ("img/{}_t1.nii", "ann/{}_ann.nii", ["img/7_ann_t1.nii", "ann/7_ann.nii"]),
        ("img/{}.nii", "tumor/{}_mask.nii", ["img/7.nii", "Tumour/7_mask.nii"]),
        ("img/{}.nii", "derivatives/{}_mask.nii", ["template/template_label.nii"]),
    ],
)
def test_one_odd_file_does_not_change_the_pairs_of_the_others(
    tmp_path: Path, image: str, mask: str, odd: list[str]
) -> None:
    found = paired(tmp_path, [*of_cases(range(1, 7), image, mask), *odd])

    assert {m: list(of.values()) for m, of in found.items() if "7" not in m} == {
        mask.format(i): [image.format(i)] for i in range(1, 7)
    }
    channels = {c for of in found.values() for c in of}
    assert channels <= {"image", "t1"}
    assert len(channels) == 1


def test_the_number_of_a_series_is_not_that_of_a_patient(tmp_path: Path) -> None:
    names = ["101/scan_7.nii", "201/scan_204.nii", "204/scan_3.nii", "masks/101.nii", "masks/204.nii"]

    found = paired(tmp_path, names)

    assert {m: list(of.values()) for m, of in found.items()} == {
        "masks/101.nii": ["101/scan_7.nii"],
        "masks/204.nii": ["204/scan_3.nii"],
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("p{}/p{}_t1.nii", "p{}/p{}_mask.nii"),
        ("images/p{}.nii", "masks/p{}.nii"),
        ("a/p{}_t1.nii", "a/p{}_mask.nii"),
    ],
)
def test_a_mask_without_words_of_its_own_takes_no_image_from_another_folder(
    tmp_path: Path, image: str, mask: str
) -> None:
    names = of_cases(range(1, 4), image, mask)
    without_mask = image.replace("{}", "9")
    paired(tmp_path, [*names, "mask.nii", without_mask])

    pairs = find_pairs(tmp_path)

    assert pairs is not None
    assert [str(p.mask) for p in pairs.pairs] == of_cases(range(1, 4), mask)
    assert f"1 images without a mask, such as {without_mask}" in pairs.left_out


@pytest.mark.parametrize(
    ("image", "mask", "cases"),
    [
        ("images/liver_{}.nii", "liver_masks/liver_{}.nii", [("0",), ("1",), ("2",)]),
        ("Slide_0{0}/0{0}_{1}.nii", "GT_0{0}/0{0}_{1}.nii", [(s, i) for s in "123" for i in "12"]),
        ("images/p_0{}.nii", "labels-02-05-2017/p_0{}.nii", [("1",), ("2",), ("5",)]),
        ("BUSI_with_GT/b ({}).png", "BUSI_with_GT/b ({})_mask.png", [("1",), ("2",), ("3",)]),
        ("p{}/t1.nii", "p{}/brain_mask.nii", [("1",), ("2",)]),
        ("train_{}.nii", "train_mask_{}.nii", [("1",), ("2",)]),
    ],
)
def test_names_of_public_datasets_are_paired(
    tmp_path: Path, image: str, mask: str, cases: list[tuple[str, ...]]
) -> None:
    pairs = {mask.format(*c): image.format(*c) for c in cases}
    extra = ["valid_3.nii", "valid_mask_3.nii"] if "train" in image else []
    expected = {**pairs, extra[1]: extra[0]} if extra else pairs

    found = paired(tmp_path, [*pairs, *pairs.values(), *extra])

    assert {m: list(of.values()) for m, of in found.items()} == {m: [i] for m, i in expected.items()}


def write_table(root: Path, lines: list[str]) -> None:
    """Write `list.csv` with three pairs `img/0.nii.gz` and `lab/0.nii.gz`, and further files of the same numbers."""
    for i in range(3):
        write_pair(root, f"img/{i}.nii.gz", f"lab/{i}.nii.gz", i)
        for suffix in ("txt", "png", "json"):
            (root / "more").mkdir(exist_ok=True)
            (root / "more" / f"{i}.{suffix}").touch()
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(root / "more" / f"{i}.png")
    (root / "list.csv").write_text("\n".join(lines) + "\n")


def test_a_table_without_the_names_of_its_columns_is_refused_with_this_reason(tmp_path: Path) -> None:
    write_table(tmp_path / "d", [f"img/{i}.nii.gz,lab/{i}.nii.gz" for i in range(3)])

    with pytest.raises(DataError, match=r"without the names of its columns.*list\.csv begins with img/0\.nii\.gz"):
        draft_of(tmp_path / "d")


def test_columns_of_reports_and_of_previews_are_no_channels(tmp_path: Path) -> None:
    rows = [f"c{i},img/{i}.nii.gz,lab/{i}.nii.gz,more/{i}.txt,more/{i}.json,more/{i}.png" for i in range(3)]
    write_table(tmp_path / "d", ["id,ct,label,report,header,picture", *rows])

    draft = draft_of(tmp_path / "d")

    assert [c.name for c in draft.channels] == ["ct"]
    assert "3 columns of list.csv are not used: report, header, picture" in draft.remarks


def test_a_table_of_files_that_do_not_exist_is_named_with_this_reason(tmp_path: Path) -> None:
    write_pair(tmp_path / "d", "images/a.nii.gz", "masks/a.nii.gz")
    (tmp_path / "d" / "list.csv").write_text("id,scan\na,elsewhere/a.nii.gz\n")

    remarks = draft_of(tmp_path / "d").remarks

    assert "list.csv is not used: files such as elsewhere/a.nii.gz do not exist in its folder" in remarks


def test_text_files_that_list_cases_are_named(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "d", f"images/p{i}.nii.gz", f"masks/p{i}.nii.gz", i)
    (tmp_path / "d" / "train.txt").write_text("images/p0.nii.gz\nimages/p1.nii.gz masks/p1.nii.gz\n")
    (tmp_path / "d" / "readme.txt").write_text("three scans\n")

    remarks = [r for r in draft_of(tmp_path / "d").remarks if ".txt" in r]

    assert remarks == ["train.txt lists 2 cases, and is not used: give folds in splits.json"]


def test_a_label_in_one_case_beyond_the_sampled_ones_is_known(tmp_path: Path) -> None:
    n, rare = 30, 17
    for i in range(n):
        write_pair(tmp_path / "d", f"images/p{i:02d}.nii.gz", f"masks/p{i:02d}.nii.gz", i)
    place = tmp_path / "d" / f"masks/p{rare}.nii.gz"
    labels = np.asarray(nib.load(place).dataobj).copy()
    labels[0, 0, 0] = 9
    save_nifti(place, labels)

    draft = draft_of(tmp_path / "d")

    assert [(d.values, d.n_cases) for d in draft.labels] == [((1,), n), ((4,), n), ((9,), 1)]
    assert draft.n_sampled == n


def test_a_seg_of_several_files_is_refused_with_the_reason(tmp_path: Path) -> None:
    for name in ("P0", "P1"):
        write_dicom_study(tmp_path / "d" / name, name, ["SEG"])
    first = pydicom.dcmread(tmp_path / "d" / "P0" / "SEG" / "a.dcm")
    first.SOPInstanceUID = first.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    first.save_as(tmp_path / "d" / "P0" / "SEG" / "b.dcm")
    channels = (ChannelConfig(name="CT"),)
    config = DataConfig(root=str(tmp_path / "d"), layout="studies", channels=channels, labels={"GTV": 1})

    of_several, of_one = list_dataset(config).cases

    assert of_one.problem is None
    assert re.search(r"P0: its SEG has several files.*found a\.dcm, b\.dcm", str(of_several.problem))


@pytest.mark.parametrize("name", ["T1_B", "t1_g", "FLAIR_R"])
def test_a_letter_in_the_name_of_a_sequence_is_no_colour(tmp_path: Path, name: str) -> None:
    for i in range(2):
        write_pair(tmp_path / "d", f"p{i}/{name}.nii.gz", f"p{i}/seg.nii.gz", i)

    assert [(c.name, c.modality) for c in draft_of(tmp_path / "d").channels] == [(name, "MR")]
