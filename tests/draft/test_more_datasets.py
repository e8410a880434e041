"""Further datasets as they are downloaded: masks of labels in folders and names, serial numbers, groups, parts in a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medhybrid.config import StudyConfig
from medhybrid.data.layouts import Listing, list_dataset
from medhybrid.data.layouts.label_files import files_of_mask
from medhybrid.draft.subjects import named_subject_folders, subjects_of_folders
from medhybrid.errors import DataError
from medhybrid.progress import Silent
from medhybrid.steps.init import init_study
from tests.synthetic import blob_case, save_nifti

SHAPE = (12, 10, 8)


class Messages(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def initialised(root: Path) -> tuple[StudyConfig, Listing, list[str]]:
    """Return the config of a drafted study with its cases, and the messages of `init`."""
    messages = Messages()
    made = init_study(root / "d", root / "study.yaml", reporter=messages)
    listing = list_dataset(made.config.data)
    assert [c.problem for c in listing.cases] == [None] * len(listing.cases)
    return made.config, listing, messages.texts


def write_image(path: Path, seed: int, *, shape: tuple[int, ...] = SHAPE) -> None:
    values = np.random.default_rng(seed).normal(500, 90, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 3, 1])), path)


def write_mask(path: Path, seed: int, value: int = 1, *, length: int = 5) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[2 + seed % 4 : 2 + seed % 4 + length, 2:7, 2:6] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 3, 1])), path)


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 20, 3)).astype(np.uint8)).save(path)


def write_photo_mask(path: Path, seed: int, row: int) -> None:
    array = np.zeros((24, 20), np.uint8)
    array[row : row + 4, 3 + seed : 8 + seed] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


# --- labels -----------------------------------------------------------------------------------------------------------

LESIONS = {"1. Microaneurysms": "MA", "2. Haemorrhages": "HE", "3. Hard Exudates": "EX"}


@pytest.mark.parametrize("parent", ["", "A. Segmentation/"], ids=["plain", "in a folder with a word for masks"])
@pytest.mark.parametrize("part", ["", "a. Training Set/"])
def test_labels_named_by_folder_and_file_are_files_of_one_mask(parent: str, part: str, tmp_path: Path) -> None:
    for i in range(1, 5):
        write_photo(tmp_path / "d" / parent / f"1. Original Images/{part}IDRiD_{i:02d}.jpg", i)
        for row, (folder, word) in enumerate(LESIONS.items()):
            path = f"2. All Segmentation Groundtruths/{part}{folder}/IDRiD_{i:02d}_{word}.tif"
            write_photo_mask(tmp_path / "d" / parent / path, i, 6 * row)

    config, listing, _ = initialised(tmp_path)

    assert [n.partition(". ")[2] for n in config.data.labels] == ["Microaneurysms", "Haemorrhages", "Hard Exudates"]
    assert len(listing.cases) == 4
    for case in listing.cases:
        assert case.mask is not None
        assert {p.stem.rpartition("_")[0] for p in case.mask.paths} == {case.images[0].paths[0].stem}  # type: ignore[union-attr]


def test_labels_below_folders_of_parts_are_files_of_one_mask(tmp_path: Path) -> None:
    for part, numbers in {"Train": range(1, 5), "Val": range(5, 8)}.items():
        for i in numbers:
            write_image(tmp_path / "d" / part / f"images/covid_{i}.nii.gz", i)
            write_mask(tmp_path / "d" / part / f"lung masks/covid_{i}.nii.gz", i)
            write_mask(tmp_path / "d" / part / f"infection masks/covid_{i}.nii.gz", i, length=1)

    config, listing, _ = initialised(tmp_path)

    assert set(config.data.labels) == {"lung", "infection"}
    assert len(listing.cases) == 7


def test_the_word_of_a_target_volume_is_one_of_masks(tmp_path: Path) -> None:
    for i in range(4):
        for kind in ("ct", "pt"):
            write_image(tmp_path / "d" / f"CHUM00{i}_{kind}.nii.gz", i)
        write_mask(tmp_path / "d" / f"CHUM00{i}_gtvt.nii.gz", i)

    config, listing, _ = initialised(tmp_path)

    assert [c.name for c in config.data.channels] == ["ct", "pt"]
    assert len(listing.cases) == 4


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_mask_with_the_whole_name_of_its_image_fits_whatever_the_numbers_of_its_folders(tmp_path: Path) -> None:
    for i in range(1, 5):
        name = f"OAS1_000{i}_MR1_mpr_n4_anon_111_t88_masked_gfc"
        write_image(tmp_path / "d" / f"disc1/OAS1_000{i}_MR1/PROCESSED/MPRAGE/T88_111/{name}.nii.gz", i)
        write_mask(tmp_path / "d" / f"disc1/OAS1_000{i}_MR1/FSL_SEG/{name}_fseg.nii.gz", i)

    _, listing, _ = initialised(tmp_path)

    assert len(listing.cases) == 4


def test_serial_numbers_of_files_are_not_those_of_cases(tmp_path: Path) -> None:
    """Masks have no word for one, and each file has a number of its own; a file has several time points."""
    serial = 70615
    for i in range(1, 6):
        for kind in ("O.CT", "O.CT_CBF", "O.CT_4DPWI", "O.MR_T1", "O.OT"):
            name = f"SMIR.Brain.XX.{kind}.{serial}"
            path = tmp_path / "d" / f"TRAINING/case_{i}/{name}/{name}.nii"
            if kind == "O.OT":
                write_mask(path, i)
            else:
                write_image(path, serial, shape=(*SHAPE, 3) if "4D" in kind else SHAPE)
            serial += 1

    config, listing, messages = initialised(tmp_path)

    assert len(listing.cases) == 5
    assert len(config.data.channels) == 3
    assert any("4DPWI is not used: its files have several time points or channels" in m for m in messages)
    for case in listing.cases:
        folders = {p.parent.parent.name for f in (case.mask, *case.images) if f is not None for p in f.paths}
        assert len(folders) == 1


def test_a_mask_of_the_whole_image_in_two_folders_is_not_that_of_the_lesions(tmp_path: Path) -> None:
    for i in range(6):
        case = tmp_path / "d" / f"Utrecht/{i}"
        for folder in ("orig", "pre"):
            for name in ("FLAIR", "T1"):
                write_image(case / folder / f"{name}.nii.gz", i)
            write_image(case / folder / "3DT1.nii.gz", i, shape=(20, 20, 20))
            save_nifti(case / folder / "3DT1_mask.nii.gz", np.ones((20, 20, 20), np.uint8))
        write_mask(case / "wmh.nii.gz", i)

    _, listing, _ = initialised(tmp_path)

    assert {c.mask.paths[0].name for c in listing.cases if c.mask} == {"wmh.nii.gz"}
    assert len(listing.cases) == 6


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("data0/LNDb-000{i}.nii.gz", ["masks/LNDb-000{i}_rad1.nii.gz", "masks/LNDb-000{i}_rad2.nii.gz"]),
        ("images/im000{i}.nii.gz", ["labels-ah/im000{i}.ah.nii.gz", "labels-vk/im000{i}.vk.nii.gz"]),
        (
            "images/DUKE_00{i}/duke_00{i}_0000.nii.gz",
            ["segmentations/expert/duke_00{i}.nii.gz", "segmentations/automatic/duke_00{i}.nii.gz"],
        ),
    ],
    ids=["readers", "initials", "folders"],
)
def test_several_masks_of_an_image_are_named_as_such(image: str, masks: list[str], tmp_path: Path) -> None:
    for i in range(1, 5):
        write_image(tmp_path / "d" / image.format(i=i), i)
        for n, mask in enumerate(masks):
            write_mask(tmp_path / "d" / mask.format(i=i), i + n)

    with pytest.raises(DataError, match="several masks"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


def test_two_kinds_of_masks_without_a_word_for_one_are_named(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / "d" / f"Training Set/C{i}D1955/lgemri.nii.gz", i)
        for n, name in enumerate(("laendo", "lawall")):
            write_mask(tmp_path / "d" / f"Training Set/C{i}D1955/{name}.nii.gz", i + n, 255)

    with pytest.raises(DataError, match=r"several kinds of files that are label maps.*laendo.*lawall"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")


def test_images_on_other_grids_than_their_masks_are_refused_before_a_config_is_written(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / "d" / f"images/{i}.nii.gz", i, shape=(14, 10, 3))
        write_mask(tmp_path / "d" / f"masks/{i}.nii.gz", i)

    with pytest.raises(DataError, match=r"images and masks have other shapes.*found 14 x 10 x 3 in .*12 x 10 x 8"):
        init_study(tmp_path / "d", tmp_path / "study.yaml")

    assert not (tmp_path / "study.yaml").exists()


# --- subjects and parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [range(1, 13), range(12, 0, -1)], ids=["by number", "backwards"])
@pytest.mark.parametrize("divided", [(), (1, 3)], ids=["whole", "two people in both parts"])
def test_parts_of_a_table_are_compared_by_the_names_of_its_cases(
    order: range, divided: tuple[int, ...], tmp_path: Path
) -> None:
    """A table has the order of numbers, and files that of names: 1, 10, 11, 2."""
    lines = ["name,subset"]
    for i in order:
        for scan in "abc"[: 2 + i % 2]:
            write_image(tmp_path / "d" / f"images/{i}_{scan}.nii.gz", i)
            write_mask(tmp_path / "d" / f"masks/{i}_{scan}.nii.gz", i)
            is_validation = i in (5, 11) or (i in divided and scan == "b")
            lines.append(f"{i}_{scan},{'validation' if is_validation else 'train'}")
    (tmp_path / "d" / "overview.csv").write_text("\n".join(lines) + "\n")

    _, listing, messages = initialised(tmp_path)

    found = [m for m in messages if "the parts for training and validation are not used" in m]
    if divided:
        assert ["2 subjects are in both, such as 1" in m for m in found] == [True]
    else:
        assert found == []
        assert {c.subject for c in listing.cases if c.fold == 0} == {"5", "11"}


def test_numbered_folders_in_that_of_a_site_are_subjects() -> None:
    files = [Path(f"Amsterdam/GE3T/{i}/wmh.nii") for i in range(100, 120)]
    files += [Path(f"Utrecht/{i}/{z}.nii") for i in range(20) for z in range(2)]

    found = subjects_of_folders(files)

    assert found is not None
    assert len(set(found)) == 40


@pytest.mark.parametrize("visit", ["visit{}", "ses-{:02d}", "{:02d}", "2019{:02d}11", "scan{}"])
def test_many_visits_of_a_person_are_not_people(visit: str) -> None:
    files = [Path(f"P0{p}/{visit.format(v)}/mask.nii") for p in range(4) for v in range(1, 13)]

    assert len(set(subjects_of_folders(files) or [])) == 4


def test_people_in_folders_of_the_images_for_testing_are_named(tmp_path: Path) -> None:
    for i in range(1, 9):
        image, mask = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"train/patient0{i}/patient0{i}_v1_image.nii.gz", image)
        save_nifti(tmp_path / "d" / f"train/patient0{i}/patient0{i}_v1_mask.nii.gz", mask)
        if i < 3:
            save_nifti(tmp_path / "d" / f"test/patient0{i}/patient0{i}_v2_image.nii.gz", image + 1)

    _, listing, _ = initialised(tmp_path)

    assert {c.subject for c in listing.testing} == {"patient01", "patient02"}
    assert {c.subject for c in listing.cases}.isdisjoint({"patient01", "patient02"}), "kept for testing"


def test_the_file_of_another_case_is_no_label(tmp_path: Path) -> None:
    for organ in ("Liver", "Spleen"):
        for case in ("P1", "P1_2", "P2", "P2_2"):
            if (organ, case) != ("Spleen", "P1"):
                write_mask(tmp_path / f"labels/{organ}/{case}_{organ.lower()}.nii.gz", 0)

    found = {c: files_of_mask(tmp_path / f"labels/*/{c}_*.nii.gz") for c in ("P1", "P1_2")}

    assert {c: {n: p.name for n, p in zip(f.names, f.paths, strict=True)} for c, f in found.items()} == {
        "P1": {"Liver": "P1_liver.nii.gz"},
        "P1_2": {"Liver": "P1_2_liver.nii.gz", "Spleen": "P1_2_spleen.nii.gz"},
    }


@pytest.mark.parametrize("names", [("GTVp", "GTVn"), ("CTV", "PTV")])
@pytest.mark.parametrize("layout", ["labels/{name}/{i}.nii.gz", "masks/{i}_{name}_mask.nii.gz"])
def test_target_volumes_are_labels_where_there_are_several(names: tuple[str, str], layout: str, tmp_path: Path) -> None:
    for i in range(1, 6):
        write_image(tmp_path / "d" / f"images/{i}.nii.gz", i)
        for n, name in enumerate(names):
            write_mask(tmp_path / "d" / layout.format(name=name, i=i), i, length=1 + 3 * n)

    config, _, _ = initialised(tmp_path)

    assert set(config.data.labels) == set(names)


@pytest.mark.parametrize("folder", ["{i}. Case", "{c}. Smith"])
def test_numbers_before_the_names_of_cases_are_kept(folder: str, tmp_path: Path) -> None:
    for i in range(1, 7):
        case = folder.format(i=i, c="ABCDEFG"[i])
        write_image(tmp_path / "d" / f"images/{case}/ct.nii.gz", i)
        write_mask(tmp_path / "d" / f"masks/{case}/seg.nii.gz", i)

    _, listing, _ = initialised(tmp_path)

    assert len(listing.cases) == 6


@pytest.mark.parametrize(
    ("files", "n"),
    [
        ([f"R00{r}/sub-r00{r}s00{i}/sub-r00{r}s00{i}_T1w.nii" for r in range(4) for i in range(4)], 16),
        ([f"C{c}/patient{c}2{i}/C{c}_00{i}_mask.nii" for c in range(4) for i in range(4)], 16),
        ([f"sub-0{i}_ses-{v}/mask.nii" for i in range(4) for v in range(2)], 4),
    ],
)
def test_a_folder_that_names_its_subject_is_that_of_one(files: list[str], n: int) -> None:
    found = named_subject_folders([Path(f) for f in files])

    assert found is not None
    assert len(set(found)) == n


def test_people_in_the_folders_of_cohorts_are_subjects(tmp_path: Path) -> None:
    for r in range(4):
        for i in range(4):
            name = f"sub-r00{r}s00{i}"
            image, mask = blob_case(4 * r + i, SHAPE)
            save_nifti(tmp_path / "d" / f"R00{r}/{name}/{name}_T1w.nii.gz", image)
            save_nifti(tmp_path / "d" / f"R00{r}/{name}/{name}_mask.nii.gz", mask)

    _, listing, _ = initialised(tmp_path)

    assert len({c.subject for c in listing.cases}) == 16


def write_groups(root: Path, groups: list[str], people: list[str]) -> None:
    """Write a pair of image and mask of each person in each group."""
    for g, group in enumerate(groups):
        for i, person in enumerate(people):
            image, mask = blob_case(10 * g + i, SHAPE)
            save_nifti(root / "d" / group / f"images/{person}.nii.gz", image)
            save_nifti(root / "d" / group / f"masks/{person}.nii.gz", mask)


@pytest.mark.parametrize("n", [5, 8, 12])
@pytest.mark.parametrize("groups", [["preop", "postop"], ["T0", "T1"], ["links", "rechts"], ["arteriell", "venoes"]])
def test_the_same_people_in_folders_of_stages_are_kept_together(groups: list[str], n: int, tmp_path: Path) -> None:
    write_groups(tmp_path, groups, [f"ID{i:03d}" for i in range(n)])

    _, listing, _ = initialised(tmp_path)

    assert len({c.subject for c in listing.cases}) == n


@pytest.mark.parametrize("groups", [["Bonn", "Köln"], ["HCC", "CCC"], ["Siemens", "Philips", "GE"]])
def test_a_few_groups_are_not_people_and_the_doubt_is_said(groups: list[str], tmp_path: Path) -> None:
    write_groups(tmp_path, groups, [f"ID{i:03d}" for i in range(6)])

    _, listing, messages = initialised(tmp_path)

    assert len({c.subject for c in listing.cases}) == len(listing.cases)
    assert any("each case counts as a subject. If id000 is one subject in" in m for m in messages)


@pytest.mark.parametrize(
    "mask",
    [
        lambda i: f"labels/{'JS' if i < 4 else 'MK'}/P00{i}.nii.gz",
        lambda i: f"labels/P00{i}_{'JS' if i < 4 else 'MK'}.nii.gz",
        lambda i: f"labels/P00{i}_label{'_final' if i % 2 else ''}.nii.gz",
        lambda i: f"labels/P00{i}_seg{'_corrected' if i == 2 else ''}.nii.gz",
    ],
    ids=["folder of a reader", "reader", "some are final", "one is corrected"],
)
def test_masks_with_words_that_only_some_have_fit_their_images(mask: Callable[[int], str], tmp_path: Path) -> None:
    for i in range(8):
        image, labels = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"images/P00{i}.nii.gz", image)
        save_nifti(tmp_path / "d" / mask(i), labels)

    _, listing, _ = initialised(tmp_path)

    assert len(listing.cases) == 8
    for case in listing.cases:
        assert case.mask is not None
        assert case.images[0] is not None
        assert case.images[0].paths[0].name[:4] in case.mask.paths[0].name


def test_a_further_version_of_a_mask_is_named_as_such(tmp_path: Path) -> None:
    for i in range(6):
        image, labels = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"case0{i}.nii.gz", image)
        for end in ("seg", "seg_corrected_JS") if i in (2, 5) else ("seg",):
            save_nifti(tmp_path / "d" / f"case0{i}_{end}.nii.gz", labels)

    _, listing, messages = initialised(tmp_path)

    assert len(listing.cases) == 6
    wanted = "2 further masks of images that have another one are not used, such as case02_seg_corrected_JS.nii.gz"
    assert any(wanted in m for m in messages)


@pytest.mark.parametrize("folders", [["liver", "prostate"], ["Leber_Bonn", "Milz"]])
def test_folders_that_may_be_several_datasets_are_named(folders: list[str], tmp_path: Path) -> None:
    for folder in folders:
        write_groups(tmp_path, [folder], [f"{folder}_{i}" for i in range(4)])

    _, _, messages = initialised(tmp_path)

    assert any(f"the folders {', '.join(sorted(folders))} are one dataset with the same labels" in m for m in messages)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Trainingsdaten", "Testdaten"),
        ("Trainingsfälle", "Testfälle"),
        ("entrenamiento", "prueba"),
        ("xunlian", "ceshi"),
    ],
)
def test_folders_for_testing_in_other_languages_do_not_train(train: str, test: str, tmp_path: Path) -> None:
    for i in range(8):
        image, mask = blob_case(i, SHAPE)
        folder = tmp_path / "d" / (test if i > 5 else train)
        save_nifti(folder / f"00{i}.nii.gz", image)
        save_nifti(folder / f"00{i}_seg.nii.gz", mask)

    _, listing, _ = initialised(tmp_path)

    assert len(listing.cases) == 6


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("Bilder", "Masken"),
        ("imagenes", "etiquetas"),
        ("images", "masques"),
        ("immagini", "maschere"),
        ("CT", "Segmentierung"),
    ],
)
def test_words_for_masks_in_other_languages_are_known(images: str, masks: str, tmp_path: Path) -> None:
    for i in range(5):
        image, mask = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / images / f"Fall_{i}.nii.gz", image)
        save_nifti(tmp_path / "d" / masks / f"Fall_{i}.nii.gz", mask)

    _, listing, messages = initialised(tmp_path)

    assert len(listing.cases) == 5
    assert not any("by their values" in m for m in messages)


@pytest.mark.parametrize("column", ["Patienten-ID", "PatientenID", "Pat.-Nr.", "paciente", "sujet"])
def test_columns_of_people_and_parts_in_other_languages_are_used(column: str, tmp_path: Path) -> None:
    lines = [f"Fall;{column};Alter;Datensatz;split"]
    for i in range(8):
        image, mask = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"images/Fall{i}.nii.gz", image)
        save_nifti(tmp_path / "d" / f"masks/Fall{i}.nii.gz", mask)
        lines.append(f"Fall{i};P{i // 2};60;;{'Training' if i < 4 else 'Validierung' if i < 6 else 'Prüfung'}")
    (tmp_path / "d" / "Patienten.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    _, listing, _ = initialised(tmp_path)

    assert {c.name: c.subject for c in listing.cases} == {f"Fall{i}": f"P{i // 2}" for i in range(6)}
    assert {c.name for c in listing.cases if c.fold == 0} == {"Fall4", "Fall5"}


def test_a_data_list_in_a_folder_below_is_named(tmp_path: Path) -> None:
    for i in range(4):
        image, mask = blob_case(i, SHAPE)
        save_nifti(tmp_path / "d" / f"imgs/c{i}.nii.gz", image)
        save_nifti(tmp_path / "d" / f"lbls/c{i}.nii.gz", mask)
    listed = [{"image": f"imgs/c{i}.nii.gz", "label": f"lbls/c{i}.nii.gz"} for i in range(4)]
    (tmp_path / "d" / "lists").mkdir()
    (tmp_path / "d" / "lists" / "fold0.json").write_text(json.dumps({"training": listed[:3], "testing": listed[3:]}))

    _, _, messages = initialised(tmp_path)

    assert any(m.startswith("lists/fold0.json is not used, nor its parts and folds") for m in messages)
