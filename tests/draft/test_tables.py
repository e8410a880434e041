"""A table with columns of other names keeps its subjects, folds and cases for testing."""

from __future__ import annotations

from pathlib import Path

import pytest

from medhybrid.data.layouts import Listing, list_dataset
from medhybrid.errors import DataError
from medhybrid.steps.init import Initialised, init_study
from tests.draft.test_draft import write_pair
from tests.planning.test_others import Messages
from tests.synthetic import blob_case, save_nifti


def drafted(root: Path, header: str, rows: list[str]) -> tuple[Initialised, Listing]:
    """Return the draft and the cases of a table; `I` and `M` in row `i` are its image and its mask."""
    for i in range(len(rows)):
        image, mask = blob_case(i, (12, 10, 8))
        save_nifti(root / "d" / f"img/{i}.nii.gz", image)
        save_nifti(root / "d" / f"lab/{i}.nii.gz", mask)
    lines = [r.replace("I", f"img/{i}.nii.gz").replace("M", f"lab/{i}.nii.gz") for i, r in enumerate(rows)]
    (root / "d" / "list.csv").write_text("\n".join([header, *lines]) + "\n")
    made = init_study(root / "d", root / "study.yaml")
    return made, list_dataset(made.config.data)


@pytest.mark.parametrize("column", ["split", "Subset", "train_test", "fold"])
def test_cases_for_testing_stay_cases_for_testing(tmp_path: Path, column: str) -> None:
    made, listing = drafted(tmp_path, f"id,image,label,{column}", ["a,I,M,train", "b,I,M,train", "c,I,M,test"])

    assert [c.name for c in listing.cases] == ["a", "b"]
    assert [c.name for c in listing.testing] == ["c"]
    assert made.draft.n_cases == 2


def test_a_case_for_testing_without_mask_keeps_its_subject_from_training(tmp_path: Path) -> None:
    rows = ["a,p1,I,M,train", "b,p2,I,M,train", "c,p3,I,M,train", "d,p1,I,,test"]
    _, listing = drafted(tmp_path, "id,patient,image,label,split", rows)

    assert [c.name for c in listing.cases] == ["b", "c"]


@pytest.mark.parametrize(("header", "name"), [("id,image,label,fold", "fold_"), ("Case,Image,Mask,Fold", "")])
def test_folds_are_kept(tmp_path: Path, header: str, name: str) -> None:
    _, listing = drafted(tmp_path, header, [f"a,I,M,{name}0", f"b,I,M,{name}1", f"c,I,M,{name}0"])

    assert [(c.name, c.fold) for c in listing.cases] == [("a", 0), ("b", 1), ("c", 0)]


@pytest.mark.parametrize(
    "column",
    ["Patient ID", "PatientID", "subj_id", "participant-id", "MRN", "PatientNumber", "dicom_patient_id", "donor"],
)
def test_subjects_are_found_under_usual_names(tmp_path: Path, column: str) -> None:
    _, listing = drafted(tmp_path, f"scan_id,{column},image,label", ["a,P1,I,M", "b,P1,I,M", "c,P2,I,M"])

    assert [c.subject for c in listing.cases] == ["P1", "P1", "P2"]


@pytest.mark.parametrize("column", ["patient_age", "PatientSex", "number"])
def test_other_columns_about_persons_are_no_subjects(tmp_path: Path, column: str) -> None:
    _, listing = drafted(tmp_path, f"scan_id,{column},image,label", ["a,1,I,M", "b,1,I,M", "c,2,I,M"])

    assert [c.subject for c in listing.cases] == ["a", "b", "c"]


def test_paths_may_have_the_separators_of_windows(tmp_path: Path) -> None:
    drafted(tmp_path, "id,file,label", ["a,I,M", "b,I,M"])
    table = tmp_path / "d" / "list.csv"
    table.write_text(table.read_text().replace("/", "\\"))

    made = init_study(tmp_path / "d", tmp_path / "again.yaml")

    assert [c.problem for c in list_dataset(made.config.data).cases] == [None, None]


def test_without_subjects_the_names_tell_them(tmp_path: Path) -> None:
    _, listing = drafted(tmp_path, "scan_id,image,label", ["p1_a,I,M", "p1_b,I,M", "p2_a,I,M", "p2_b,I,M"])

    assert [c.subject for c in listing.cases] == ["p1", "p1", "p2", "p2"]


def test_a_line_without_subject_does_not_train_where_others_have_one(tmp_path: Path) -> None:
    made, listing = drafted(tmp_path, "id,patient,image,label", ["a,P1,I,M", "b,,I,M", "c,P2,I,M"])

    assert [c.problem is None for c in listing.cases] == [True, False, True]
    assert "1 lines without patient are skipped, while other lines have one: fill the cells" in made.draft.remarks


def test_words_for_an_empty_cell_are_no_files(tmp_path: Path) -> None:
    made, listing = drafted(tmp_path, "id,t1,t2,label", ["a,I,I,M", "b,I,NA,M", "c,I,-,M"])

    assert [(c.name, c.optional) for c in made.config.data.channels] == [("t1", False), ("t2", True)]
    assert [c.problem for c in listing.cases] == [None] * 3


def test_an_identifier_of_several_lines_is_the_subject(tmp_path: Path) -> None:
    made, listing = drafted(tmp_path, "ID,visit,image,label", ["P1,1,I,M", "P1,2,I,M", "P2,1,I,M"])

    assert [(c.name, c.subject) for c in listing.cases] == [("0", "P1"), ("1", "P1"), ("2", "P2")]
    assert "1 columns of list.csv are not used: visit" in made.draft.remarks


@pytest.mark.parametrize("column", ["prediction", "softmax_path", "brain_mask"])
def test_a_column_of_results_or_of_brain_masks_is_no_channel(tmp_path: Path, column: str) -> None:
    made, listing = drafted(tmp_path, f"id,image,label,{column}", ["a,I,M,M", "b,I,M,M"])

    assert [c.name for c in made.config.data.channels] == ["image"]
    assert [c.mask.paths[0].parent.name for c in listing.cases if c.mask] == ["lab", "lab"]
    assert f"1 columns of list.csv are not used: {column}" in made.draft.remarks


def test_tables_for_training_and_validation_are_joined(tmp_path: Path) -> None:
    drafted(tmp_path / "x", "id,image,label", ["a,I,M", "b,I,M", "c,I,M"])
    lines = (tmp_path / "x/d/list.csv").read_text().splitlines()
    for name, rows in (("train", lines[1:3]), ("val", lines[3:])):
        (tmp_path / f"x/d/{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    (tmp_path / "x/d/list.csv").unlink()

    made = init_study(tmp_path / "x/d", tmp_path / "joined.yaml")

    assert {c.name: c.fold for c in list_dataset(made.config.data).cases} == {"a": -1, "b": -1, "c": 0}
    (tmp_path / "x/d/val.csv").rename(tmp_path / "x/d/more.csv")
    with pytest.raises(DataError, match=r"has several tables of images and masks.*found more\.csv, train\.csv"):
        init_study(tmp_path / "x/d", tmp_path / "other.yaml")


@pytest.mark.parametrize("header", ["case,subject,image,mask", "id,patient,file,label"])
def test_the_cases_of_a_table_for_testing_keep_their_subjects_from_training(tmp_path: Path, header: str) -> None:
    drafted(tmp_path / "x", header, ["a,p1,I,M", "b,p2,I,M", "c,p3,I,M", "d,p3,I,M"])
    lines = (tmp_path / "x/d/list.csv").read_text().splitlines()
    (tmp_path / "x/d/train.csv").write_text("\n".join(lines[:4]) + "\n")
    without_mask = [line.rsplit(",", 1)[0] for line in (lines[0], lines[4])]
    (tmp_path / "x/d/test.csv").write_text("\n".join(without_mask) + "\n")
    (tmp_path / "x/d/list.csv").unlink()

    listing = list_dataset(init_study(tmp_path / "x/d", tmp_path / "joined.yaml").config.data)

    assert [c.name for c in listing.cases] == ["a", "b"]
    assert {c.name: c.subject for c in listing.testing} == {"c": "p3", "d": "p3"}


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    made, _ = drafted(tmp_path, "id,image,label,site", ["a,I,M,x", "b,I,M,y"])

    assert "1 columns of list.csv are not used: site" in made.draft.remarks


def test_a_column_of_diagnoses_is_no_list_of_labels(tmp_path: Path) -> None:
    made, listing = drafted(tmp_path, "id,image,label_file,labels", ["a,I,M,benign", "b,I,M,malignant", "c,I,M,normal"])

    assert [c.problem for c in listing.cases] == [None] * 3
    assert all(c.annotated is None for c in listing.cases)
    assert any("columns of list.csv are not used: labels" in r for r in made.draft.remarks)


def test_numbers_in_a_column_for_parts_are_refused(tmp_path: Path) -> None:
    """They may be 0 for training and 2 for testing, and the test cases would train."""
    with pytest.raises(DataError, match="numbers, which do not show what is for testing"):
        drafted(tmp_path, "case,T1,mask,split", [f"p{i},I,M,{i % 3}" for i in range(6)])


def test_folds_that_preprocess_refuses_are_named(tmp_path: Path) -> None:
    reporter = Messages()
    for i in range(6):
        write_pair(tmp_path / "d", f"img/{i}.nii.gz", f"lab/{i}.nii.gz", seed=i)
    rows = [f"p{i},img/{i}.nii.gz,lab/{i}.nii.gz,{1 + i % 3}" for i in range(6)]
    (tmp_path / "d" / "cases.csv").write_text("\n".join(["case,T1,mask,fold", *rows]))

    init_study(tmp_path / "d", tmp_path / "study.yaml", reporter=reporter)

    assert [m for m in reporter.shown if "not numbered from 0" in m]
