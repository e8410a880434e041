"""Common variants of datasets are recognised, or refused with the expected names; skipped files are counted."""

from __future__ import annotations

import gzip
import json
import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medhybrid
from medhybrid.config import DataConfig, StudyConfig
from medhybrid.data.layouts import Case, list_cases, list_dataset
from medhybrid.data.splits import load_folds, notes_on_folds
from medhybrid.data.subjects import form_of_subject
from medhybrid.errors import DataError, MedHybridError
from medhybrid.scans.reader import read_scan
from medhybrid.tables import read_table
from tests.synthetic import save_nifti, small_config, write_csv, write_study

IMAGE, MASK = np.full((4, 4, 4), 5, np.int16), np.ones((4, 4, 4), np.uint8)


def config(root: Path, channels: tuple[str, ...] = ("A",), **changes: object) -> DataConfig:
    values = {"root": str(root), "channels": [{"name": n} for n in channels], "labels": {"l": 1}}
    return DataConfig.model_validate({**values, **changes})


def nnunet(root: Path, n: int = 3, n_channels: int = 1) -> Path:
    for i in range(n):
        for k in range(n_channels):
            save_nifti(root / "imagesTr" / f"case_{i}_{k:04d}.nii.gz", IMAGE + i)
        save_nifti(root / "labelsTr" / f"case_{i}.nii.gz", MASK)
    return root


def usable(cases: list[Case]) -> list[str]:
    return [c.name for c in cases if c.problem is None]


def version_1(root: Path) -> None:
    listed = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(3)]
    (root / "dataset.json").write_text(json.dumps({"training": listed, "labels": {"0": "background", "1": "l"}}))


def version_2(root: Path) -> None:
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "A"}, "labels": {"l": 1}, "numTraining": 3}))


def no_number_on_images(root: Path) -> None:
    for path in sorted((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace("_0000", "")))


def number_on_masks(root: Path) -> None:
    for path in sorted((root / "labelsTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))


def upper_case(root: Path) -> None:
    for path in sorted(root.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))


def linked(root: Path) -> None:
    elsewhere = root.parent / f"{root.name}_elsewhere"
    for name in ("imagesTr", "labelsTr"):
        (elsewhere / name).mkdir(parents=True)
        for path in sorted((root / name).iterdir()):
            path.rename(elsewhere / name / path.name)
            path.symlink_to(elsewhere / name / path.name)


@pytest.mark.parametrize("change", [version_1, version_2, no_number_on_images, number_on_masks, upper_case, linked])
def test_common_variants_of_nnunet_folders_are_recognised(tmp_path: Path, change: Callable[[Path], None]) -> None:
    root = nnunet(tmp_path / "d")
    change(root)

    cases = list_cases(config(root))

    assert usable(cases) == ["case_0", "case_1", "case_2"]
    assert all(c.images[0] and c.images[0].paths[0].is_file() and c.mask for c in cases)


def test_previews_beside_the_files_of_nnunet_are_not_read(tmp_path: Path) -> None:
    for path in sorted(nnunet(tmp_path).glob("*Tr/*.nii.gz")):
        path.with_name(path.name.replace(".nii.gz", ".png")).write_bytes(b"")

    cases = list_cases(config(tmp_path))

    assert usable(cases) == ["case_0", "case_1", "case_2"]
    assert {p.suffix for c in cases for p in c.files} == {".gz"}


def test_a_case_name_keeps_a_number_at_its_end(tmp_path: Path) -> None:
    save_nifti(tmp_path / "imagesTr" / "x_0000_0000.nii.gz", IMAGE)
    save_nifti(tmp_path / "labelsTr" / "x_0000.nii.gz", MASK)
    assert usable(list_cases(config(tmp_path))) == ["x_0000"]


def test_unused_files_in_nnunet_folders_are_counted(tmp_path: Path) -> None:
    root = nnunet(tmp_path, n_channels=2)
    save_nifti(root / "imagesTr" / "lonely_0000.nii.gz", IMAGE)

    notes = list_dataset(config(root)).notes

    assert [n.message for n in notes] == [
        "1 images have no mask and are skipped",
        "3 files are channels that the config does not have, and are skipped",
    ]
    assert notes[0].found == "lonely_0000.nii.gz"


def two_masks(root: Path) -> str:
    save_nifti(root / "labelsTr" / "case_0.nii", MASK)
    return "case_0.nii, case_0.nii.gz"


def two_images(root: Path) -> str:
    save_nifti(root / "imagesTr" / "case_0_0000.nrrd.nii", IMAGE)
    (root / "imagesTr" / "case_0_0000.nrrd.nii").rename(root / "imagesTr" / "case_0_0000.nrrd")
    return "case_0_0000.nii.gz, case_0_0000.nrrd"


def no_image(root: Path) -> str:
    (root / "imagesTr" / "case_0_0000.nii.gz").unlink()
    return "imagesTr/case_0_0000 with .nii.gz"


@pytest.mark.parametrize("change", [two_masks, two_images, no_image])
def test_a_case_that_cannot_be_used_has_a_reason_and_the_others_are_kept(
    tmp_path: Path, change: Callable[[Path], str]
) -> None:
    expected = change(nnunet(tmp_path))

    cases = list_cases(config(tmp_path))

    assert usable(cases) == ["case_1", "case_2"]
    assert expected in str(cases[0].problem)


def datalist(root: Path, entries: list[dict[str, object]], name: str = "dataset.json", **sections: object) -> None:
    (root / name).write_text(json.dumps({"training": entries, **sections}))


def test_a_list_of_files_gives_the_channels_in_order(tmp_path: Path) -> None:
    nnunet(tmp_path, n_channels=2)
    entries: list[dict[str, object]] = [
        {"image": [f"imagesTr/case_{i}_000{k}.nii.gz" for k in (0, 1)], "label": f"labelsTr/case_{i}.nii.gz"}
        for i in range(3)
    ]
    datalist(tmp_path, entries)

    cases = list_cases(config(tmp_path, ("A", "B")))

    assert [f.paths[0].name for f in cases[0].images if f] == ["case_0_0000.nii.gz", "case_0_0001.nii.gz"]
    assert "differs from the number of channels" in str(list_cases(config(tmp_path, ("A", "B", "C")))[0].problem)


def test_files_with_the_same_name_in_several_folders_get_cases_named_by_path(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = []
    for i in range(3):
        save_nifti(tmp_path / f"p{i}" / "image.nii.gz", IMAGE)
        save_nifti(tmp_path / f"p{i}" / "label.nii.gz", MASK)
        entries.append({"image": f"./p{i}/image.nii.gz", "label": f"p{i}/label.nii.gz"})
    datalist(tmp_path, entries)
    assert usable(list_cases(config(tmp_path))) == ["p0__image", "p1__image", "p2__image"]


@pytest.mark.parametrize("key", ["mask", "seg"])
def test_a_mask_under_another_key_of_a_list_is_named(tmp_path: Path, key: str) -> None:
    listed = [{"image": f"{i}.nii", key: f"{i}_mask.nii"} for i in range(2)]
    (tmp_path / "list.json").write_text(json.dumps({"training": listed}))

    (problem, *_) = [str(c.problem) for c in list_cases(config(tmp_path))]

    assert f"found the key {key}. Rename the key {key} to label" in problem.replace("Found", "found")


def test_folds_of_a_list_are_used_unless_there_is_a_file_of_folds(tmp_path: Path) -> None:
    nnunet(tmp_path, n=4)
    entries: list[dict[str, object]] = [
        {"image": f"imagesTr/case_{i}_0000.nii.gz", "label": f"labelsTr/case_{i}.nii.gz", "fold": i % 2}
        for i in range(4)
    ]
    datalist(tmp_path, entries, "auto3dseg.json", testing=[{"image": "x"}])
    listing = list_dataset(config(tmp_path, layout="decathlon"))

    folds, _ = load_folds(config(tmp_path), listing.cases)
    assert [f.validation for f in folds] == [
        ("case_0_0000", "case_2_0000"),
        ("case_1_0000", "case_3_0000"),
    ]
    assert listing.notes[0].message == "1 cases for testing are skipped"

    own = [{"train": ["case_0_0000"], "validation": ["case_1_0000", "typo"]}]
    (tmp_path / "splits.json").write_text(json.dumps(own))
    folds, origin = load_folds(config(tmp_path), listing.cases)
    assert [n.message for n in notes_on_folds(folds, listing.cases, origin)] == [
        "1 names in folds are not cases of the dataset and are skipped",
        "2 cases are not in any fold and are not used",
    ]


def test_a_section_for_validation_is_a_single_fold(tmp_path: Path) -> None:
    nnunet(tmp_path)
    files = [{"image": f"imagesTr/case_{i}_0000.nii.gz", "label": f"labelsTr/case_{i}.nii.gz"} for i in range(3)]
    datalist(tmp_path, files[:2], validation=files[2:])  # type: ignore[arg-type]
    (fold,), _ = load_folds(config(tmp_path), list_cases(config(tmp_path, layout="decathlon")))
    assert (fold.train, fold.validation) == (("case_0_0000", "case_1_0000"), ("case_2_0000",))


@pytest.mark.parametrize(
    "entry",
    [{"image": 3}, {"image": ["a.nii", 4]}, {"label": "x"}, "text", None, {"image": "a\0b"}, {"image": {"x": 1}}],
)
def test_an_entry_that_cannot_be_used_is_one_case_with_a_problem(tmp_path: Path, entry: object) -> None:
    nnunet(tmp_path, n=1)
    good = {"image": "imagesTr/case_0_0000.nii.gz", "label": "labelsTr/case_0.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [good, entry]}))
    assert usable(list_cases(config(tmp_path, layout="decathlon"))) == ["case_0_0000"]


def test_rows_of_a_table_that_cannot_be_used_are_cases_with_a_problem(tmp_path: Path) -> None:
    rows = [("a", "a.nii", "m.nii"), ("sub-0/ses-1", "b.nii", "m.nii"), ("", "c.nii", "m.nii"), ("d", "", "m.nii")]
    write_csv(tmp_path, [{"case": c, "A": i, "mask": m} for c, i, m in rows])

    cases = list_cases(config(tmp_path))

    assert usable(cases) == ["a"]
    assert sorted(c.name for c in cases) == ["a", "d", "line 4", "sub-0%2Fses-1"]


def test_an_ignored_label_is_never_trained(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "l": 1, "ignore": 3}}))
    assert usable(list_cases(config(root)))
    with pytest.raises(DataError, match="the dataset's value for `ignore`"):
        list_cases(config(root, labels={"l": 1, "unsure": 3}))
    with pytest.raises(ValueError, match="set ignore_value: 3 instead"):
        config(root, labels={"l": 1, "ignore": 3})


def test_more_labels_than_a_byte_holds_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match="at most 254 are supported, found 300"):
        config(Path(), labels={f"s{k}": k for k in range(1, 301)})


def test_rules_for_labels_that_do_not_exist_are_refused() -> None:
    values = {"name": "x", "data": config(Path()).model_dump(), "prepare": {"keep_largest": ["zz"]}}
    with pytest.raises(ValueError, match="unknown label: zz"):
        StudyConfig.model_validate(values)


def test_masks_whose_values_are_nearly_whole_are_taken(tmp_path: Path) -> None:
    from medhybrid.data.label_values import round_labels, unknown_values

    near = MASK.astype(np.float32) * np.float32(1.0000001)
    assert round_labels(near).dtype.kind in "iu"
    assert unknown_values(round_labels(near), [1]) == []
    assert unknown_values(round_labels(near * np.float32(1.01)), [1]) == ["1.0100001"]
    assert unknown_values(np.array([0, 1, 128, 255], np.uint8), [1]) == ["128", "255"]
    nib.save(nib.Nifti1Image(near, np.eye(4)), tmp_path / "m.nii")


def test_numbers_of_patients_are_not_taken_for_channels(tmp_path: Path) -> None:
    for name in ("siteA_0000", "siteA_0001", "siteB_0000", "siteB_0001"):
        save_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", IMAGE)
        save_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", MASK)

    cases = list_cases(config(tmp_path))

    assert usable(cases) == ["siteA_0000", "siteA_0001", "siteB_0000", "siteB_0001"]
    assert all(c.images[0] and c.mask and c.images[0].paths[0].name == c.mask.paths[0].name for c in cases)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_two_unicode_forms_are_one_case(tmp_path: Path, form: str) -> None:
    save_nifti(tmp_path / "imagesTr" / (unicodedata.normalize("NFD", "Müller") + "_0000.nii.gz"), IMAGE)
    save_nifti(tmp_path / "labelsTr" / (unicodedata.normalize(form, "Müller") + ".nii.gz"), MASK)  # type: ignore[arg-type]
    assert usable(list_cases(config(tmp_path))) == [unicodedata.normalize("NFC", "Müller")]


def test_masks_of_slicer_have_the_name_of_their_case(tmp_path: Path) -> None:
    save_nifti(tmp_path / "imagesTr" / "c0_0000.nii.gz", IMAGE)
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "c0.seg.nrrd").write_bytes(b"NRRD0004\n")
    assert usable(list_cases(config(tmp_path))) == ["c0"]


@pytest.mark.parametrize("fold", [1, "1", 1.0, "1.0"])
def test_folds_are_read_as_tables_and_lists_write_them(tmp_path: Path, fold: object) -> None:
    nnunet(tmp_path, n=2)
    files = [{"image": f"imagesTr/case_{i}_0000.nii.gz", "label": f"labelsTr/case_{i}.nii.gz"} for i in range(2)]
    datalist(tmp_path, [files[0] | {"fold": 0}, files[1] | {"fold": fold}])  # type: ignore[list-item]
    assert [c.fold for c in list_cases(config(tmp_path, layout="decathlon"))] == [0, 1]
    write_csv(tmp_path, [{"case": "a", "A": "a.nii", "mask": "m.nii", "fold": str(fold)}])
    assert [c.fold for c in list_cases(config(tmp_path, layout="csv"))] == [1]


@pytest.mark.parametrize("fold", ["val", "0.5", True])
def test_a_fold_that_is_no_number_is_a_problem_of_its_case(tmp_path: Path, fold: object) -> None:
    write_csv(tmp_path, [{"case": "a", "A": "a.nii", "mask": "m.nii", "fold": str(fold)}])
    assert "a fold is not a number" in str(list_cases(config(tmp_path))[0].problem)


def test_a_config_that_contradicts_the_datasets_own_names_is_refused(tmp_path: Path) -> None:
    root = nnunet(tmp_path, n_channels=2)
    values = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}
    (root / "dataset.json").write_text(json.dumps(values))
    right = {"labels": {"liver": 1, "tumour": 2}}
    assert usable(list_cases(config(root, ("T1", "FLAIR"), **right)))
    with pytest.raises(DataError, match=r"data\.channels contradicts"):
        list_cases(config(root, ("FLAIR", "T1"), **right))
    with pytest.raises(DataError, match=r"data\.labels contradicts"):
        list_cases(config(root, ("T1", "FLAIR"), labels={"tumour": 1, "liver": 2}))


@pytest.mark.parametrize(
    ("theirs", "ours", "is_refused"),
    [
        (("T2w", "T1w"), ("T1", "T2"), True),
        (("T1", "T2"), ("T2w", "T1w"), True),
        (("MR_T1", "t1_gd"), ("T1Gd", "T1"), True),
        (("T1w", "T2w"), ("T1", "T2"), False),
        (("T1", "FLAIR"), ("T1w", "T2_FLAIR"), False),
        (("CT arterial", "CT portal"), ("CT", "other"), False),
    ],
)
def test_positions_of_channels_are_compared_by_words(
    tmp_path: Path, theirs: tuple[str, str], ours: tuple[str, str], is_refused: bool
) -> None:
    root = nnunet(tmp_path, n_channels=2)
    values = {"channel_names": {str(i): n for i, n in enumerate(theirs)}, "labels": {"l": 1}}
    (root / "dataset.json").write_text(json.dumps(values))
    if is_refused:
        with pytest.raises(DataError, match=r"data\.channels contradicts"):
            list_cases(config(root, ours))
    else:
        assert usable(list_cases(config(root, ours)))


REGIONS = {"background": 0, "Whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


@pytest.mark.parametrize(
    ("theirs", "ours", "is_refused"),
    [
        ({"non-enhancing tumor": 1, "enhancing tumor": 2}, {"enhancing_tumor": 1, "non_enhancing_tumor": 2}, True),
        ({"non-enhancing tumor": 1, "enhancing tumor": 2}, {"NonEnhancingTumour": 1, "enhancing tumor": 2}, False),
        ({"left kidney": 1, "right kidney": 2}, {"kidney_right": 1, "kidney_left": 2}, True),
        ({"left kidney": 1, "right kidney": 2}, {"kidney_left": 1, "kidney_right": 2}, False),
        (REGIONS, {"enhancing": 1, "core": 2, "whole_tumor": 3}, True),
        (REGIONS, {"whole_tumor": 1, "core": 2, "enhancing": 3}, False),
        (REGIONS, {"necrosis": 1, "edema": 2, "enhancing": 3}, False),
        ({"0": "background", "1": "Edema", "2": "core"}, {"core": 1, "oedema": 2}, True),
        (["background", "edema", "core"], {"core": 1, "edema": 2}, True),
        (["core", "edema"], {"core": 1, "edema": 2}, False),
    ],
)
@pytest.mark.parametrize("order", [None, [1, 2, 3]])
@pytest.mark.parametrize("file", ["dataset.json", "dataset_0.json"])
def test_values_of_labels_are_compared_by_the_words_of_their_names(
    tmp_path: Path, theirs: object, ours: dict[str, int], is_refused: bool, order: object, file: str
) -> None:
    values = {"labels": theirs} | ({} if order is None else {"regions_class_order": order})
    datalist(tmp_path, [*listed(2)], file, **values)
    if is_refused:
        with pytest.raises(DataError, match=rf"data\.labels contradicts {file}"):
            list_cases(config(tmp_path, labels=ours))
    else:
        assert usable(list_cases(config(tmp_path, labels=ours)))


def test_channels_of_a_list_of_another_name_are_compared(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [{"image": [f"a{i}.nii", f"b{i}.nii"], "label": f"m{i}.nii"} for i in (0, 1)]
    datalist(tmp_path, entries, "dataset_0.json", modality=["FLAIR", "T1w"])
    assert usable(list_cases(config(tmp_path, ("FLAIR", "T1"))))
    with pytest.raises(DataError, match=r"data\.channels contradicts dataset_0\.json"):
        list_cases(config(tmp_path, ("T1", "FLAIR")))


def test_patterns_for_channels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channel_map: unknown channel: t1 \(did you mean T1\?\)"):
        config(Path(), ("T1",), channel_map={"t1": "MPRAGE"})
    # patterns of further channels, as of a packaged config whose channels were changed, do no harm
    assert config(Path(), ("T1",), channel_map={"T1": "MPRAGE", "FLAIR": "*FLAIR*"}).channel_map


def test_cases_that_share_a_mask_are_reported(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": c, "A": f"{c}.nii", "mask": "m.nii"} for c in "abc"])
    (note,) = list_dataset(config(tmp_path)).notes
    assert (note.message, note.found) == ("3 cases have the same mask file", "a, b, c")


def test_other_tables_and_outputs_of_medhybrid_do_not_determine_the_layout(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "patients.csv").write_text("patient,age\n1,60\n")
    assert usable(list_cases(config(root))) == ["case_0", "case_1", "case_2"]
    (root / "results.csv").write_text("case,status\na,done\n")
    (root / ".medhybrid.json").write_text(json.dumps({"kinds": {"predict": ["results.csv"]}}))
    assert usable(list_cases(config(root))) == ["case_0", "case_1", "case_2"]


@pytest.mark.parametrize(
    "line", ["sep=;\r\ncase;A;mask\r\na;a.nii;m.nii\r\n", 'case;"A";mask;"x, y, z, and more"\na;a.nii;m.nii;1\n']
)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.csv").write_text(line)
    assert usable(list_cases(config(tmp_path))) == ["a"]


def test_windows_paths_and_absolute_paths_in_the_dataset_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnunet(tmp_path / "d", n=2)
    datalist(
        tmp_path / "d",
        [
            {"image": "imagesTr\\case_0_0000.nii.gz", "label": "labelsTr\\case_0.nii.gz"},
            {"image": str(tmp_path / "d/imagesTr/case_1_0000.nii.gz"), "label": "labelsTr/case_1.nii.gz"},
        ],
    )
    monkeypatch.chdir(tmp_path)
    cases = list_cases(config(Path("d"), layout="decathlon"))
    assert usable(cases) == ["case_0_0000", "case_1_0000"]
    assert all(p.is_file() for c in cases for p in c.files)


def test_unused_scans_of_a_study_are_reported(tmp_path: Path) -> None:
    for name in ("A.nii.gz", "A_mask.nii.gz", "other.nii.gz"):
        save_nifti(tmp_path / "s1" / name, IMAGE)
    rules = {"channel_map": {"A": "A"}}
    (note,) = list_dataset(config(tmp_path, **rules)).notes
    assert (note.where, note.found) == ("s1", "s1__other")


def test_the_folder_above_a_dataset_is_refused_with_the_name_of_the_dataset(tmp_path: Path) -> None:
    nnunet(tmp_path / "raw" / "Dataset001_X")
    with pytest.raises(DataError, match=r"contains datasets.*data\.root=.*Dataset001_X"):
        list_cases(config(tmp_path / "raw"))


def test_a_split_column_excludes_cases_for_testing(tmp_path: Path) -> None:
    words = ["train", "Train", "val", "test", "", "TEST"]
    rows = [
        {"case": f"c{i}", "A": f"a{i}.nii", "mask": f"m{i}.nii", "split": w, "age": "4"} for i, w in enumerate(words)
    ]
    write_csv(tmp_path, [*rows, {**rows[5], "split": "train"}])

    listing = list_dataset(config(tmp_path, channels=("A",)))

    assert usable(list(listing.cases)) == ["c0", "c1", "c2"]
    assert {c.name: c.fold for c in listing.cases if c.problem is None} == {"c0": -1, "c1": -1, "c2": 0}
    problems = {c.name: str(c.problem) for c in listing.cases if c.problem}
    assert "has no valid `split`" in problems["c4"]
    assert "lists it for testing" in problems["c5"]
    assert [(n.message, n.found) for n in listing.notes] == [
        ("2 cases for testing are skipped", ""),
        ("1 columns are not used", "age"),
    ]


@pytest.mark.parametrize(("words", "kept"), [("train", ["a"]), ("", ["a", "t"]), ("other", ["a", "t"])])
def test_a_column_with_words_for_parts_alone_is_the_split_under_any_name(
    tmp_path: Path, words: str, kept: list[str]
) -> None:
    rows = [("a", words or "x"), ("t", "test")]
    write_csv(tmp_path, [{"case": c, "A": c, "mask": f"m{c}", "train_test": word} for c, word in rows])

    assert usable(list_cases(config(tmp_path))) == kept


def test_a_column_called_split_goes_before_another_with_words_for_parts(tmp_path: Path) -> None:
    rows = [("a", "train", "test"), ("b", "train", "train"), ("c", "test", "train")]
    write_csv(tmp_path, [{"case": c, "A": c, "mask": f"m{c}", "split": s, "site_set": o} for c, s, o in rows])

    assert usable(list_cases(config(tmp_path))) == ["a", "b"]


def test_cases_called_train_and_test_are_no_parts(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": c, "A": c, "mask": f"m{c}", "subject": c} for c in ("train", "test")])

    assert usable(list_cases(config(tmp_path))) == ["test", "train"]


def test_cases_that_share_a_subject_or_image_with_testing_do_not_train(tmp_path: Path) -> None:
    lines = [("a", "p1", "a", "Training set"), ("b", "P1 ", "b", "test set"), ("c", "p2", "c", "hold-out")]
    lines += [("d", "p3", "../d/c", "train"), ("e", "p4", "e", "training"), ("f", "p5", "f", "validation_set")]
    rows = [dict(zip(("case", "subject", "A", "split"), line, strict=True)) | {"mask": f"m{line[0]}"} for line in lines]
    (tmp_path / "d").mkdir()
    write_csv(tmp_path / "d", rows)

    listing = list_dataset(config(tmp_path / "d"))

    assert {c.name: c.fold for c in listing.cases} == {"e": -1, "f": 0}
    messages = {n.where: n.message for n in listing.notes}
    assert messages["a"] == "1 cases do not train: their subject is also in cases for testing"
    assert messages["d"] == "1 cases do not train: their image file is also in cases for testing"


def test_a_file_shared_by_all_cases_excludes_none_from_training(tmp_path: Path) -> None:
    rows = [
        {"case": c, "A": f"{c}.nii", "B": "atlas.nii", "mask": f"m{c}", "split": w}
        for c, w in zip("ab", ("train", "test"), strict=True)
    ]
    write_csv(tmp_path, rows)
    assert usable(list_cases(config(tmp_path, ("A", "B")))) == ["a"]


@pytest.mark.parametrize(
    ("column", "yes", "training", "testing"),
    [
        ("is_test", "True", ["a", "b"], ["c"]),
        ("hold-out", "yes", ["a", "b"], ["c"]),
        ("is_train", "1", ["c"], ["a", "b"]),
        ("in_validation_set", "1", ["a", "b", "c"], []),
        ("test", "1", ["a", "b", "c"], []),  # of the blood, for example
        ("is_valid", "1", ["a", "b", "c"], []),  # or of good quality
    ],
)
def test_columns_of_yes_and_no_are_a_split(
    tmp_path: Path, column: str, yes: str, training: list[str], testing: list[str]
) -> None:
    for name in ("a", "b", "c", "ma", "mb", "mc"):
        (tmp_path / name).write_text(name)
    no = {"True": "False", "yes": "no", "1": "0"}[yes]
    write_csv(tmp_path, [{"case": c, "A": c, "mask": f"m{c}", column: yes if c == "c" else no} for c in "abc"])

    listing = list_dataset(config(tmp_path))

    assert [c.name for c in listing.cases] == training
    assert [c.name for c in listing.testing] == testing
    assert [c.name for c in listing.cases if c.fold == 0] == (["c"] if column == "in_validation_set" else [])


def test_yes_in_two_parts_is_refused_with_its_line(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": "a", "A": "a", "mask": "m", "train": "1", "test": "1"}])

    with pytest.raises(DataError, match="line 2 assigns its case to two parts"):
        list_dataset(config(tmp_path))


def test_an_unknown_word_in_a_split_column_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = [{"case": c, "A": c, "mask": f"m{c}", "split": w} for c, w in (("a", "train"), ("b", "external centre"))]
    write_csv(tmp_path, rows)
    with pytest.raises(DataError, match="line 3 has no valid `split`"):
        list_cases(config(tmp_path))


def test_an_image_in_the_list_for_testing_does_not_train(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [{**e} for e in listed(4)]
    entries[3]["split"] = "Test set"
    entries = [{"split": "train", **e} for e in entries]
    datalist(tmp_path, entries, testing=["./img/c1.nii", {"image": "img/other.nii"}])
    listing = list_dataset(config(tmp_path))
    assert [c.name for c in listing.cases] == ["c0", "c2"]
    assert [(n.where, n.message) for n in listing.notes] == [
        ("dataset.json", "3 cases for testing are skipped"),
        ("c1", "1 cases do not train: their image file is also in cases for testing"),
    ]


def test_cases_for_testing_in_nnunets_list_do_not_train(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    version_1(root)
    values = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(
        json.dumps({**values, "test": ["./imagesTr/case_1.nii.gz", "./imagesTs/x.nii.gz"]})
    )
    assert usable(list_cases(config(root))) == ["case_0", "case_2"]


@pytest.mark.parametrize("copy", ["link", "copy", "unpacked", "values of a pair"])
def test_a_copy_of_an_image_for_testing_does_not_train(tmp_path: Path, copy: str) -> None:
    for i, name in enumerate("abc"):
        if copy == "values of a pair":
            nib.save(nib.Nifti1Pair(IMAGE + i, np.eye(4)), tmp_path / f"{name}.img")
        else:
            save_nifti(tmp_path / f"{name}.nii.gz", IMAGE + i)
    suffix, test = (".hdr", "c.img") if copy == "values of a pair" else (".nii.gz", "test.nii.gz")
    if copy == "link":
        os.link(tmp_path / "c.nii.gz", tmp_path / test)
    elif copy == "copy":
        (tmp_path / test).write_bytes((tmp_path / "c.nii.gz").read_bytes())
    elif copy == "unpacked":
        test = "test.nii"
        (tmp_path / test).write_bytes(gzip.decompress((tmp_path / "c.nii.gz").read_bytes()))
    rows = [{"case": c, "A": f"{c}{suffix}", "mask": f"m{c}", "split": "train"} for c in "abc"]
    write_csv(tmp_path, [*rows, {"case": "t", "A": test, "mask": "", "split": "test"}])

    listing = list_dataset(config(tmp_path))

    assert [c.name for c in listing.cases] == ["a", "b"]
    assert ("c", "1 cases do not train: their image file is also in cases for testing") in [
        (n.where, n.message) for n in listing.notes
    ]


def test_a_scan_in_nnunets_folder_for_testing_does_not_train(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    save_nifti(root / "imagesTs" / "other_0000.nii.gz", IMAGE + 1)
    assert usable(list_cases(config(root))) == ["case_0", "case_2"]


def test_fold_numbers_override_a_split_column_with_a_note(tmp_path: Path) -> None:
    lines = [("a", "train", "1"), ("b", "train", "1"), ("c", "val", "0"), ("d", "val", ""), ("e", "test", "0")]
    write_csv(tmp_path, [{"case": c, "A": c, "mask": f"m{c}", "split": s, "fold": f} for c, s, f in lines])
    listing = list_dataset(config(tmp_path))
    assert {c.name: c.fold for c in listing.cases if c.problem is None} == {"a": 1, "b": 1, "c": 0}
    assert "assigns it to validation, but it has no `fold`" in str(
        next(c.problem for c in listing.cases if c.name == "d")
    )
    assert any(n.message.startswith("`fold` determines the validation cases") for n in listing.notes)


def test_a_validation_list_without_labels_does_not_change_the_folds(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [{**e, "fold": i % 2} for i, e in enumerate(listed(4))]
    datalist(tmp_path, entries, validation=[{"image": "img/c9.nii"}])
    listing = list_dataset(config(tmp_path))
    assert [(c.name, c.fold) for c in listing.cases] == [("c0", 0), ("c1", 1), ("c2", 0), ("c3", 1)]
    assert [n.message for n in listing.notes] == ["1 cases for validation have no label and are skipped"]


def test_a_misspelt_column_of_an_optional_channel_is_reported(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": "c", "A": "a.nii", "B_img": "b.nii", "mask": "m.nii", "set": "site 2"}])
    channels = [{"name": "A"}, {"name": "B", "optional": True}]

    (note,) = list_dataset(
        config(tmp_path).model_validate({**config(tmp_path).model_dump(), "channels": channels})
    ).notes

    assert note.found == "B_img, set"
    assert "the table has no column B" in note.remedy


def test_invalid_values_and_names_in_the_metadata_table_are_reported(tmp_path: Path) -> None:
    rows = [{"case": c, "A": f"files/{f}.nii", "mask": f"m{c}"} for c, f in zip("ab", "bc", strict=True)]
    write_csv(tmp_path, rows)
    (tmp_path / "context.csv").write_text("case,age_years,sex\na,60+,F\nb,50,?\n")

    notes = list_dataset(config(tmp_path, context=["age_years", "sex"])).notes

    assert [(n.where, n.message.split(" of")[0], n.found) for n in notes] == [
        ("context.csv", "1 cases match two different rows", "a"),
        ("context.csv", "1 values", "a (age_years)"),
    ]


def test_rows_of_the_metadata_table_without_a_case_are_reported(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "context.csv").write_text("case,age_years\ncase_0,40\ncase_1.nii.gz,41\n")

    notes = list_dataset(config(tmp_path, context=["age_years"])).notes

    assert [(n.message, n.found) for n in notes] == [("1 rows of context.csv match no case", "case_1.nii.gz")]
    assert not list_dataset(config(tmp_path)).notes


@pytest.mark.parametrize(
    "spellings",
    [("M\u00fcller", "Mu\u0308ller"), ("1", "1.0"), ("007", "7"), ("P a", "p  A"), ("stra\u00dfe", "STRASSE")],
)
def test_two_spellings_of_a_subject_are_unified(tmp_path: Path, spellings: tuple[str, str]) -> None:
    rows = [{"case": f"c{i}", "subject": s, "A": "a.nii", "mask": f"m{i}.nii"} for i, s in enumerate([*spellings, "B"])]
    write_csv(tmp_path, rows)

    listing = list_dataset(config(tmp_path))

    first, second, other = (c.subject for c in listing.cases)
    assert first == second == min(spellings)
    assert other == "B"
    assert [n.where for n in listing.notes] == ["subjects"]


@pytest.mark.parametrize("text", ['{"training": [], "training": []}', '{"labels": {"x": 1, "x": 2}, "training": []}'])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    save_nifti(tmp_path / "imagesTr" / "a.nii.gz", IMAGE)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="a key that stands twice"):
        list_dataset(config(tmp_path))


def listed(n: int) -> list[dict[str, str]]:
    return [{"image": f"img/c{i}.nii", "label": f"lab/c{i}.nii"} for i in range(n)]


@pytest.mark.parametrize(
    ("values", "folds"),
    [({"train": listed(3)[:2], "val": listed(3)[2:]}, [-1, -1, 0]), (listed(3), [None, None, None])],
)
def test_lists_under_other_keys_and_plain_lists_are_read(tmp_path: Path, values: object, folds: list[int]) -> None:
    (tmp_path / "d.json").write_text(json.dumps(values))
    cases = list_cases(config(tmp_path))
    assert [(c.name, c.fold) for c in cases] == [(f"c{i}", k) for i, k in enumerate(folds)]


def test_two_data_lists_in_a_folder_are_refused_with_their_names(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps({"training": listed(2)}))
    with pytest.raises(DataError, match=r"several data lists.*a\.json, b\.json"):
        list_cases(config(tmp_path))


def test_a_settings_file_is_not_a_list_of_cases(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": "c0", "A": "a.nii", "mask": "m.nii"}])
    for i, value in enumerate(({"epochs": 10}, ["epochs"], [{"epochs": 10}])):
        (tmp_path / f"settings_{i}.json").write_text(json.dumps({"training": value}))
    assert usable(list_cases(config(tmp_path))) == ["c0"]


def test_special_digits_are_part_of_a_label_name(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "\u2460"}}))
    assert len(list_cases(config(tmp_path))) == 3


def test_an_invalid_subject_pattern_is_refused_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"subject_pattern[\s\S]*not a valid regular expression"):
        config(tmp_path, subject_pattern="(")


def test_a_subject_pattern_with_an_empty_group_is_a_problem_of_the_case(tmp_path: Path) -> None:
    nnunet(tmp_path, n=1)
    (case,) = list_cases(config(tmp_path, subject_pattern="(P[0-9]+)?case"))
    assert "yields an empty subject" in str(case.problem)


def test_a_pipe_a_socket_and_a_broken_link_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path / "data", 5)
    (tmp_path / "data" / "splits.json").unlink()
    images, masks = tmp_path / "data" / "imagesTr", tmp_path / "data" / "labelsTr"
    for path in (images / "case_00.nii.gz", masks / "case_01.nii.gz", masks / "case_02.nii.gz"):
        path.unlink()
    os.mkfifo(images / "case_00.nii.gz")
    (masks / "case_01.nii.gz").symlink_to("gone.nii.gz")
    monkeypatch.chdir(masks)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("case_02.nii.gz")

    found = {f.where: f.found for f in medhybrid.preprocess(small_config(tmp_path)).findings}

    assert found == {
        "case_00": "case_00.nii.gz is a pipe, not a regular file",
        "case_01": "case_01.nii.gz is a link to gone.nii.gz, which does not exist",
        "case_02": "case_02.nii.gz is a socket, not a regular file",
    }


def test_a_pipe_is_refused_as_table_and_as_scan(tmp_path: Path) -> None:
    for name in ("cases.csv", "x.nii.gz", "x.mha"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(MedHybridError, match=f"{name} is a pipe"):
            read_table(tmp_path / name) if name.endswith("csv") else read_scan(tmp_path / name)


def test_the_list_of_nnunets_version_1_defines_the_training_pairs(tmp_path: Path) -> None:
    root = nnunet(tmp_path, n=4)
    save_nifti(root / "labelsTr" / "case_0_v2.nii.gz", MASK)
    labels = {"case_0": "case_0_v2", "case_1": "case_1_v2", "case_2": "case_2"}
    pairs = [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{m}.nii.gz"} for i, m in labels.items()]
    (root / "dataset.json").write_text(json.dumps({"training": [*pairs, pairs[2]]}))

    listing = list_dataset(config(root))

    masks = {c.name: c.mask.paths[0].name for c in listing.cases if c.mask and c.problem is None}
    assert masks == {"case_0": "case_0_v2.nii.gz", "case_2": "case_2.nii.gz"}
    assert [c.name for c in listing.cases] == ["case_0", "case_1", "case_2"], (
        "the second names a mask that is not there"
    )
    assert [(n.message, n.found) for n in listing.notes] == [
        (
            "3 masks are not in the list `training` and are skipped, with their images",
            "case_0.nii.gz, case_1.nii.gz, case_3.nii.gz",
        ),
        ("1 entries are duplicates; each is used once", "case_2"),
    ]


def test_an_unread_list_of_nnunets_version_2_is_reported(tmp_path: Path) -> None:
    listed_elsewhere = {"case_0": {"images": ["../other/a.nii.gz"], "label": "../other/b.nii.gz"}}
    (nnunet(tmp_path) / "dataset.json").write_text(json.dumps({"labels": {"l": 1}, "dataset": listed_elsewhere}))
    (note,) = list_dataset(config(tmp_path)).notes
    assert note.message.startswith("the list `dataset` of 1 cases is not read")


@pytest.mark.parametrize(("column", "filled"), [("subject", "P1"), ("fold", "0")])
@pytest.mark.parametrize("empty", ["", "NA", " - "])
def test_a_cell_emptied_by_merging_is_a_problem_of_its_case(
    tmp_path: Path, column: str, filled: str, empty: str
) -> None:
    rows = [
        {"case": c, "A": c, "mask": f"m{c}", column: v} for c, v in zip("abc", (filled, empty, filled), strict=True)
    ]
    write_csv(tmp_path, rows)
    cases = list_cases(config(tmp_path))
    assert usable(cases) == ["a", "c"]
    assert f"has no {column}" in str(cases[1].problem)


def test_a_case_without_fold_trains_in_every_fold_if_its_split_is_train(tmp_path: Path) -> None:
    lines = [("a", "train", "0"), ("b", "train", "1"), ("c", "train", "")]
    write_csv(tmp_path, [{"case": c, "A": c, "mask": f"m{c}", "split": s, "fold": f} for c, s, f in lines])
    assert usable(list_cases(config(tmp_path))) == ["a", "b", "c"]


@pytest.mark.parametrize("folds", [(1, 2, 3), (0, 2, 2), (1, 1, -1)])
def test_fold_numbers_with_gaps_are_refused(tmp_path: Path, folds: tuple[int, ...]) -> None:
    datalist(tmp_path, [e | {"fold": k} for e, k in zip(listed(3), folds, strict=True)])  # type: ignore[operator]
    asked = config(tmp_path)
    with pytest.raises(DataError, match=r"not numbered from 0.*Number the folds from 0"):
        load_folds(asked, list_cases(asked))


def test_an_unusable_case_keeps_its_fold(tmp_path: Path) -> None:
    """Otherwise the folds after it would have other numbers."""
    lines = [("a", "a", "0"), ("b", "", "1"), ("c", "c", "2")]
    write_csv(tmp_path, [{"case": c, "A": c, "mask": m, "fold": k} for c, m, k in lines])
    asked = config(tmp_path)
    assert [f.validation for f in load_folds(asked, list_cases(asked))[0]] == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize("layout", ["nnunet", "studies"])
def test_a_table_of_metadata_does_not_list_cases(tmp_path: Path, layout: str) -> None:
    if layout == "nnunet":
        nnunet(tmp_path)
    else:
        save_nifti(tmp_path / "case_0" / "A.nii.gz", IMAGE)
        save_nifti(tmp_path / "case_0" / "mask.nii.gz", MASK)
    (tmp_path / "clinical.csv").write_text("Case,Age\ncase_0,50\n")
    assert "case_0" in usable(list_cases(config(tmp_path)))


def test_the_table_with_files_is_used_as_the_list_of_cases(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": c, "A": f"{c}.nii", "mask": f"m{c}.nii"} for c in "ab"])
    (tmp_path / "clinical.csv").write_text("case,age\na,50\n")
    assert usable(list_cases(config(tmp_path))) == ["a", "b"]


def test_duplicates_in_a_list_or_table_are_used_once(tmp_path: Path) -> None:
    entries = listed(2)
    for place in ("list", "table"):
        (tmp_path / place).mkdir()
    datalist(tmp_path / "list", [*entries, {**entries[0], "image": "./img/c0.nii"}])
    rows = [{"case": c, "A": f"{c}.nii", "mask": f"m{c}.nii"} for c in "aba"]
    write_csv(tmp_path / "table", rows)
    for place, names, what in (("list", ["c0", "c1"], "entries"), ("table", ["a", "b"], "lines")):
        listing = list_dataset(config(tmp_path / place))
        assert usable(list(listing.cases)) == names
        assert [n.message for n in listing.notes] == [f"1 {what} are duplicates; each is used once"]


@pytest.mark.parametrize("word", ["NA", "nan", "-", "none", "N/A"])
def test_a_word_for_an_empty_cell_is_empty_unless_a_file_has_this_name(tmp_path: Path, word: str) -> None:
    asked = DataConfig.model_validate(
        {"root": str(tmp_path), "channels": [{"name": "A"}, {"name": "B", "optional": True}], "labels": {"l": 1}}
    )
    write_csv(tmp_path, [{"case": "a", "A": "a.nii", "B": word, "mask": "m.nii"}])
    (case,) = list_cases(asked)
    assert (case.problem, case.images[1]) == (None, None)
    (tmp_path / word).parent.mkdir(exist_ok=True)
    (tmp_path / word).touch()
    (case,) = list_cases(asked.model_copy(update={"layout": "csv"}))
    assert case.images[1] is not None


@pytest.mark.parametrize("layout", ["list", "folders of a list", "table"])
def test_channels_exchanged_against_the_words_of_file_names_are_reported(tmp_path: Path, layout: str) -> None:
    names = {"T1": "p0_flair.nii.gz", "FLAIR": "p0_T1w.nii.gz"}
    if layout == "folders of a list":
        names = {"T1": "flair/p0.nii.gz", "FLAIR": "t1/p0.nii.gz"}
    if layout == "table":
        write_csv(tmp_path, [{"case": "p0", "mask": "m.nii.gz", **names}])
    else:
        datalist(tmp_path, [{"image": list(names.values()), "label": "m.nii.gz"}])

    (case,) = list_cases(config(tmp_path, ("T1", "FLAIR")))
    (as_named,) = list_cases(config(tmp_path, ("FLAIR", "T1")))

    assert "of other channels" in str(case.problem)
    assert as_named.problem is None or layout == "table"


def test_a_channel_word_in_the_name_of_a_patient_is_no_channel(tmp_path: Path) -> None:
    datalist(tmp_path, [{"image": ["T1_study/T1_07_a.nii.gz", "T1_study/T1_07_b.nii.gz"], "label": "m.nii.gz"}])

    (case,) = list_cases(config(tmp_path, ("FLAIR", "T1")))

    assert case.problem is None


@pytest.mark.parametrize("layout", ["table", "list"])
def test_files_are_found_in_either_unicode_form(tmp_path: Path, layout: str) -> None:
    file = save_nifti(tmp_path / unicodedata.normalize("NFD", "é/bé.nii.gz"), np.zeros((4, 4, 4), np.uint8))
    told = unicodedata.normalize("NFC", "é/bé.nii.gz")
    if layout == "table":
        write_csv(tmp_path, [{"case": "p0", unicodedata.normalize("NFD", "Ä"): told, "mask": told}])
    else:
        datalist(tmp_path, [{"image": told, "label": told}])

    (case,) = list_cases(config(tmp_path, (unicodedata.normalize("NFC", "Ä"),)))

    assert case.files == (file, file)


def test_patterns_and_tables_of_studies_fit_names_in_either_unicode_form(tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize("NFD", "é")
    for name in ("Ä", "bé", "lésion", "other"):
        save_nifti(folder / f"{unicodedata.normalize('NFD', name)}.nii.gz", np.zeros((4, 4, 4), np.uint8))
    (tmp_path / "channels.csv").write_text("scan,channel\né__bé,B\n")
    changes = {"mask_pattern": "*lésion*", "subject_pattern": "^é$"}

    listing = list_dataset(config(tmp_path, ("Ä", "B"), **changes))

    (case,) = listing.cases
    assert case.problem is None
    names = [unicodedata.normalize("NFC", p.name) for p in case.files]
    assert names == ["Ä.nii.gz", "bé.nii.gz", "lésion.nii.gz"]
    assert not [n for n in listing.notes if "unknown scan" in n.message]


def test_subjects_of_a_list_are_used_and_other_keys_are_named(tmp_path: Path) -> None:
    subjects = ["P0", "p0", 7, None]
    entries = [
        {"image": f"a{k}.nii", "label": "m.nii", "subject": s, "patient_id": "x"} for k, s in enumerate(subjects)
    ]
    datalist(tmp_path, entries, testing=[{"image": "t.nii", "subject": "7.0"}])  # type: ignore[arg-type]

    listing = list_dataset(config(tmp_path))

    assert [(c.subject, c.problem is None) for c in listing.cases] == [("P0", True), ("P0", True), ("a3", False)]
    assert "no `subject`" in str(listing.cases[2].problem)
    assert ("1 keys of the entries are not used", "patient_id") in [(n.message, n.found) for n in listing.notes]


@pytest.mark.parametrize("subject", ["1.23E+4", "12300", "12300.0", "0012300", "1.23e4", "123E2"])
def test_numbers_of_subjects_in_exponent_form_are_the_same_number(subject: str) -> None:
    assert form_of_subject(subject) == "12300"


@pytest.mark.parametrize("subject", ["1E", "E4", "12E-5", "1.23E+1", "1e999", "1-2"])
def test_other_subjects_stay_as_they_are(subject: str) -> None:
    assert form_of_subject(subject) == subject.casefold()


def test_a_subject_in_exponent_form_is_named(tmp_path: Path) -> None:
    rows = [{"case": f"p{k}", "subject": s, "A": "a.nii", "mask": "m.nii"} for k, s in enumerate(("1.23E+4", "12300"))]
    write_csv(tmp_path, rows)

    listing = list_dataset(config(tmp_path))

    assert len({c.subject for c in listing.cases}) == 1
    assert [n.found for n in listing.notes if "exponent" in n.message] == ["1.23E+4"]
