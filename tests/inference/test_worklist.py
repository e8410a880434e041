"""Scans of several channels are grouped by study, regardless of their format."""

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medhybrid.inference.worklist import make_worklist
from medhybrid.scans import discover
from medhybrid.scans.context import read_context
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.write import write_mr_series
from tests.synthetic import AFFINE, blob_case, save_nifti

CHANNELS = [("T1", True), ("FLAIR", False)]
MAP = {"T1": "*T1*", "FLAIR": "*FLAIR*"}


def test_four_dimensional_files_numbered_files_and_studies(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    save_nifti(tmp_path / "whole.nii.gz", np.stack([image, image + 1], -1))
    save_nifti(tmp_path / "p1_0000.nii.gz", image)
    save_nifti(tmp_path / "p1_0001.nii.gz", image)
    save_nifti(tmp_path / "s1" / "x_T1.nii.gz", image)
    save_nifti(tmp_path / "s1" / "x_FLAIR.nii.gz", image)
    for name in ("T1", "FLAIR", "T2"):
        write_mr_series(tmp_path / "pacs" / name, image, AFFINE, description=f"ax {name}", study="s", case="c")

    items = {i.case: i for i in make_worklist(discover(tmp_path), CHANNELS, MAP).items}

    assert set(items) == {"whole", "p1", "s1", "pacs"}
    assert all(not i.problem for i in items.values())
    assert [e.description for e in items["pacs"].entries if e] == ["ax T1", "ax FLAIR"]
    np.testing.assert_array_equal(items["whole"].read(["T1", "FLAIR"]).array[1], image + 1)


@pytest.mark.parametrize(("names", "case"), [(("P0_T1", "P0_FLAIR"), "P0"), (("T1-P0", "FLAIR-P0"), "P0")])
def test_scans_that_share_a_folder_have_the_words_that_their_files_share(
    names: tuple[str, str], case: str, tmp_path: Path
) -> None:
    for name in names:
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])
        save_nifti(tmp_path / f"{name.replace('P0', 'P1')}.nii.gz", blob_case(1)[0])

    items = make_worklist(discover(tmp_path), CHANNELS, MAP).items

    assert sorted(i.case for i in items) == [case, case.replace("P0", "P1")]


def test_an_optional_channel_may_be_absent_and_a_required_one_may_not(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    save_nifti(tmp_path / "s1" / "x_FLAIR.nii.gz", image)
    save_nifti(tmp_path / "s2" / "x_T1.nii.gz", image)

    items = {i.case: i for i in make_worklist(discover(tmp_path), CHANNELS, MAP).items}

    assert not items["s1"].read(["T1", "FLAIR"]).array[0].any()
    assert "channel FLAIR is missing" in items["s2"].problem


def test_with_one_channel_every_image_is_a_scan(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", blob_case(0)[0])
    save_nifti(tmp_path / "b_0000.nii.gz", blob_case(1)[0])

    work = make_worklist(discover(tmp_path), [("T1", False)], {})

    assert [i.case for i in work.items] == ["a", "b"]


def test_numbered_grey_images_are_the_channels_of_one_scan_and_not_three_colour_scans(tmp_path: Path) -> None:
    values = [np.full((4, 5), n, np.uint8) for n in (10, 20, 30)]
    for n, grey in enumerate(values):
        Image.fromarray(grey).save(tmp_path / f"p1_{n:04d}.png")
    Image.fromarray(values[0]).save(tmp_path / "p2_0000.png")
    Image.fromarray(np.stack(values, axis=-1)).save(tmp_path / "p3_0000.png")

    items = {i.case: i for i in make_worklist(discover(tmp_path), [(n, False) for n in "RGB"], {}).items}

    assert set(items) == {"p1", "p2", "p3"}
    found = {case: item.read("RGB").array[:, 0, 0, 0].tolist() for case, item in items.items()}
    assert found == {"p1": [10, 20, 30], "p2": [10, 10, 10], "p3": [10, 20, 30]}


@pytest.mark.parametrize(("channels", "n_files"), [((("T1", False),), 2), (CHANNELS, 3)])
def test_scans_with_more_numbered_channels_than_the_model_are_refused(
    tmp_path: Path, channels: tuple[tuple[str, bool], ...], n_files: int
) -> None:
    for case in ("a", "b"):
        for k in range(n_files):
            save_nifti(tmp_path / f"{case}_{k:04d}.nii.gz", blob_case(0)[0])

    items = make_worklist(discover(tmp_path), channels, {}).items

    assert [i.case for i in items] == ["a", "b"]
    assert all("has more channels than the model" in i.problem for i in items)


def test_numbers_of_a_single_series_are_scans(tmp_path: Path) -> None:
    for k in range(3):
        save_nifti(tmp_path / f"IMG_{k:04d}.nii.gz", blob_case(0)[0])
    items = make_worklist(discover(tmp_path), [("T1", False)], {}).items
    assert [i.problem for i in items] == [""] * 3


def test_a_name_of_another_sequence_than_the_models_channel_is_noted(tmp_path: Path) -> None:
    for name in ("a_T1w", "a_mask", "b_FLAIR", "c", "labels/d"):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])
    items = {i.case: i.note for i in make_worklist(discover(tmp_path), [("T1", False)], {}).items}
    flair, mask = (
        f"by its name this is {w}" for w in ("FLAIR, and the model was trained on T1", "a mask or another result")
    )
    mask += ", and not an image"
    assert items == {"a_T1w": "", "a_mask": mask, "b_FLAIR": flair, "c": "", "labels__d": mask}


@pytest.mark.parametrize("place", [".", "patient/visit/T1/image.nii.gz"])
def test_a_scan_gets_the_context_values_of_the_searched_folder(tmp_path: Path, place: str) -> None:
    save_nifti(tmp_path / "patient" / "visit" / "T1" / "image.nii.gz", blob_case(0)[0])
    (tmp_path / "context.csv").write_text("case,age_years\npatient,50\n")

    (item,) = make_worklist(discover(tmp_path / place), [("T1", False)], {}).items

    assert read_context(item.read(["T1"]), ("age_years",)) == ({"age_years": 50.0} if place == "." else {})


def test_scans_with_equal_names_get_different_names_and_a_note(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nii", "b/c.nii.gz", "b__c.nii.gz", "d_0000.nii.gz", "d.nii.gz", "E.nii", "e.nii"):
        save_nifti(tmp_path / name, blob_case(0)[0])

    items = make_worklist(discover(tmp_path), [("T1", False)], {}).items

    assert len({i.case.casefold() for i in items}) == len(items) == 8
    assert {"a_nii", "a_niigz", "d_0000", "d_nifti"} <= {i.case for i in items}
    assert all("another scan would be named" in i.note for i in items)


def test_numbers_in_names_of_series_and_years_in_file_names_are_not_channels(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    for number, name in (("0000", "FLAIR"), ("0001", "T1")):
        write_mr_series(tmp_path / "p1" / f"SER_{number}", image, AFFINE, description=name, study="p1", case="c")
    save_nifti(tmp_path / "p2" / "T1_2019.nii.gz", image)
    save_nifti(tmp_path / "p2" / "FLAIR_2019.nii.gz", image)

    items = {i.case: i for i in make_worklist(discover(tmp_path), CHANNELS, MAP).items}

    assert set(items) == {"p1", "p2"}
    assert [e.description for e in items["p1"].entries if e] == ["T1", "FLAIR"]
    assert [e.name for e in items["p2"].entries if e] == ["p2__T1_2019", "p2__FLAIR_2019"]


def test_two_files_of_one_number_are_refused(tmp_path: Path) -> None:
    for name in ("p_0000.nii.gz", "p_0000.nii", "p_0001.nii.gz"):
        save_nifti(tmp_path / name, blob_case(0)[0])

    (item,) = make_worklist(discover(tmp_path), CHANNELS, MAP).items

    assert "two files of one channel" in item.problem


@pytest.mark.parametrize("names", [("s1/x_T1.nii", "s1/x_FLAIR.nii"), ("p_0000.nii", "p_0001.nii")])
def test_an_optional_channel_that_cannot_be_read_is_not_missing(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        save_nifti(tmp_path / name, blob_case(0)[0])
    (tmp_path / names[0]).write_bytes((tmp_path / names[0]).read_bytes()[:100])

    items = make_worklist(discover(tmp_path), CHANNELS, MAP).items

    assert all(i.problem for i in items)
    assert any("cannot be used" in i.problem for i in items)


def test_series_without_study_number_are_studies_by_folder(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    for folder, name in (("a", "T1"), ("b", "FLAIR")):
        for path in write_mr_series(tmp_path / folder, image, AFFINE, description=name, study=folder, case="c"):
            dataset = pydicom.dcmread(path)
            del dataset.StudyInstanceUID
            dataset.save_as(path)

    items = make_worklist(discover(tmp_path), CHANNELS, MAP).items

    assert len(items) == 2, "nothing says that they belong together"


def test_keyed_names_that_would_be_equal_also_depend_on_paths(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_mr_series(tmp_path / folder, blob_case(0)[0], AFFINE, description="T1", study=folder, case="c")
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.save_as(path)
    work = make_worklist(discover(tmp_path), [("T1", False)], {})
    assert [i.case for i in work.items] == ["a", "b"]

    names = [i.case for i in work.deidentified(Deidentifier(b"0" * 32)).items]

    assert len(set(names)) == 2
    assert all(len(name) == 20 for name in names)


BOTH = [("T1", False), ("FLAIR", False)]


@pytest.mark.parametrize(
    ("names", "scans"),
    [
        (["p1_T1", "p2_FLAIR"], [["p1_T1"], ["p2_FLAIR"]]),
        (["T1_anna", "FLAIR_bert"], [["T1_anna"], ["FLAIR_bert"]]),
        (["001_T1", "002_FLAIR"], [["001_T1"], ["002_FLAIR"]]),
        (["p1__T1", "p2__FLAIR"], [["p1__T1"], ["p2__FLAIR"]]),
        (["T1_2019", "FLAIR_2020"], [["T1_2019"], ["FLAIR_2020"]]),
        (["p1_T1", "p1_FLAIR", "p2_T1", "p2_FLAIR"], [["p1_T1", "p1_FLAIR"], ["p2_T1", "p2_FLAIR"]]),
        (["p1_T1w_mprage", "p1_3d_FLAIR", "notes"], [["p1_T1w_mprage", "p1_3d_FLAIR"]]),
        (["sub-1_acq-iso_T1w", "sub-1_FLAIR"], [["sub-1_acq-iso_T1w", "sub-1_FLAIR"]]),
        (["all/sub-01_T1", "all/sub-02_FLAIR"], [["all__sub-01_T1"], ["all__sub-02_FLAIR"]]),
        (["p1/5_T1_tfl", "p1/7_FLAIR_x"], [["p1__5_T1_tfl", "p1__7_FLAIR_x"]]),
        (["p1_T1_0000", "p1_FLAIR_0001"], [["p1_T1_0000", "p1_FLAIR_0001"]]),
        (["c_0000", "c_0001"], [["c_0000", "c_0001"]]),
        (["p1_pre_T1", "p1_post_FLAIR"], [["p1_pre_T1"], ["p1_post_FLAIR"]]),
        (["p1_run-1_T1", "p1_run-2_FLAIR"], [["p1_run-1_T1"], ["p1_run-2_FLAIR"]]),
        (["p1_run-01_T1", "p1_run-1_FLAIR"], [["p1_run-01_T1", "p1_run-1_FLAIR"]]),
        (["p1_run-2_T1", "p1_FLAIR"], [["p1_run-2_T1", "p1_FLAIR"]]),
        (["p1_T1_pre", "p1_FLAIR"], [["p1_T1_pre", "p1_FLAIR"]]),
    ],
)
@pytest.mark.parametrize("rules", [{}, MAP])
def test_files_are_one_scan_if_their_names_are_equal_but_for_the_channels(
    tmp_path: Path, names: list[str], scans: list[list[str]], rules: dict[str, str]
) -> None:
    for name in names:
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])

    items = make_worklist(discover(tmp_path), BOTH, rules).items

    assert sorted([e.name for e in i.entries if e] for i in items) == sorted(scans)
    assert all(bool(i.problem) == (len(i.entries) < 2) for i in items)
    assert all("is missing" in i.problem for i in items if i.problem)


@pytest.mark.parametrize("rows", ["x_T1,T1", "p1_T1,T1\np2_FLAIR,FLAIR"])
def test_a_table_groups_files_of_other_names_only_if_it_lists_them_all(tmp_path: Path, rows: str) -> None:
    for name in ("p1_T1", "p2_FLAIR"):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"x")
    (tmp_path / "channels.csv").write_text(f"scan,channel\n{rows}\n")

    items = [i for i in make_worklist(discover(tmp_path), BOTH, {}).items if "T1" in i.case or "FLAIR" in i.case]

    assert [bool(i.problem) for i in items] == ([True, True] if "x_T1" in rows else [False])


@pytest.mark.parametrize(
    "names", [["T1_0000", "FLAIR_0000"], ["FLAIR_0000"], ["T1_0000", "T1_0001", "FLAIR_0000", "FLAIR_0001"]]
)
@pytest.mark.parametrize("folder", ["", "p1"])
def test_a_number_of_another_channel_than_the_word_refuses_the_scan(
    tmp_path: Path, names: list[str], folder: str
) -> None:
    for name in names:
        save_nifti(tmp_path / folder / f"{name}.nii.gz", blob_case(0)[0])

    items = make_worklist(discover(tmp_path), [("T1", False), ("FLAIR", True)], {}).items

    assert items
    assert all("are of different channels" in i.problem and "FLAIR_0000" in i.problem for i in items)


def test_a_study_in_an_archive_has_the_name_of_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p1.zip", "w") as archive:
        for name in ("T1", "FLAIR"):
            archive.write(save_nifti(tmp_path / "x.nii.gz", blob_case(0)[0]), f"{name}.nii.gz")
    (tmp_path / "x.nii.gz").unlink()
    found = discover(tmp_path)

    (item,) = make_worklist(found, BOTH, {}).items

    assert (item.case, item.problem) == ("p1", "")


@pytest.mark.parametrize("third", ["p1_FLAIR", "p1_FLAIR_post", "p1_pre_FLAIR"])
@pytest.mark.parametrize("rules", [{}, {"T1": "*T1_pre*", "T1ce": "*T1_post*"}])
def test_t1_before_and_after_contrast_agent_are_one_scan(tmp_path: Path, third: str, rules: dict[str, str]) -> None:
    for name in ("p1_T1_pre", "p1_T1_post" if rules else "p1_T1ce_post", third):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])

    (item,) = make_worklist(discover(tmp_path), [*BOTH, ("T1ce", False)], rules).items

    assert not item.problem


def test_the_images_before_and_after_an_operation_are_two_scans(tmp_path: Path) -> None:
    for name in ("p1_pre_T2", "p1_pre_FLAIR", "p1_post_T2", "p1_post_FLAIR"):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])

    items = make_worklist(discover(tmp_path), [("T2", False), ("FLAIR", False)], {}).items

    assert [[e.name for e in i.entries if e] for i in items] == [
        ["p1_post_T2", "p1_post_FLAIR"],
        ["p1_pre_T2", "p1_pre_FLAIR"],
    ]


def test_channels_named_pre_and_post_are_one_scan(tmp_path: Path) -> None:
    for name in ("p1_pre", "p1_post"):
        save_nifti(tmp_path / f"{name}.nii.gz", blob_case(0)[0])

    (item,) = make_worklist(discover(tmp_path), [("pre", False), ("post", False)], {}).items

    assert not item.problem
