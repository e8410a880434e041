"""Subjects, parts and folds that a dataset gives by the names of its cases are used, or the reason is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medhybrid.data.layouts import list_dataset
from medhybrid.data.splits import load_folds
from medhybrid.steps.init import Initialised, init_study
from tests.draft.test_draft import write_pair

CASES = ("a1", "a2", "b1", "b2", "c1", "c2")
PARTS = dict(zip(CASES, ("train", "train", "train", "val", "test", "test"), strict=True))


def by_part(part: str) -> list[str]:
    return [c for c, p in PARTS.items() if p == part]


def drafted(root: Path) -> Initialised:
    for i, case in enumerate(CASES):
        write_pair(root, f"images/{case}.nii.gz", f"masks/{case}.nii.gz", i)
    return init_study(root, root.parent / "study.yaml")


def table(header: str, line: str) -> Callable[[Path], object]:
    lines = [line.format(c=c, part=p, person=c[0]) for c, p in PARTS.items()]
    return lambda root: (root / "any.csv").write_text("\n".join([header, *lines]))


def lists(form: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for part in ("train", "val", "test"):
            (root / form.format(part)).parent.mkdir(exist_ok=True)
            header = ["file"] if form.endswith("csv") else []
            (root / form.format(part)).write_text("\n".join([*header, *(f"images/{c}.nii.gz" for c in by_part(part))]))

    return write


def objects(name: str, make: Callable[[dict[str, list[str]]], object]) -> Callable[[Path], object]:
    parts = {part: by_part(part) for part in ("train", "val", "test")}
    return lambda root: (root / name).write_text(json.dumps(make(parts)))


@pytest.mark.parametrize(
    "write",
    [
        table("name,split", "{c},{part}"),
        table("id;Subset;age", "images/{c}.nii.gz;{part} set;70"),
        lists("{}.txt"),
        lists("splits/{}_set.txt"),
        lists("lists/{}_list.txt"),
        lists("splits/{}_ids.csv"),
        objects("splits.json", lambda p: p),
        objects("split.json", lambda p: {k: [f"{n}.nii.gz" for n in v] for k, v in p.items()}),
        objects("data_splits.json", lambda p: {"training": p["train"], "validation": p["val"], "testing": p["test"]}),
        objects("folds.json", lambda p: {"fold_0": {"train": p["train"], "val": p["val"]}}),
        objects("dataset.json", lambda p: {"labels": {"background": 0, "x": 1}, "train": p["train"], "val": p["val"]}),
    ],
)
def test_parts_of_cases_are_used(tmp_path: Path, write: Callable[[Path], object]) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d")

    data = drafted(tmp_path / "d").config.data
    [fold], _ = load_folds(data, list_dataset(data).cases)

    assert (sorted(fold.train), sorted(fold.validation)) == (by_part("train"), by_part("val"))


@pytest.mark.parametrize(
    ("header", "line"), [("case,patient", "{c},{person}"), ("file,subject_id,sex", "{c}.nii.gz,{person},f")]
)
def test_subjects_of_a_table_are_used(tmp_path: Path, header: str, line: str) -> None:
    (tmp_path / "d").mkdir()
    table(header, line)(tmp_path / "d")

    made = drafted(tmp_path / "d")

    assert {c.name: c.subject for c in list_dataset(made.config.data).cases} == {c: c[0] for c in CASES}
    assert "subjects are those of any.csv" in made.draft.remarks


def test_folds_of_a_table_are_used(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    lines = [f"{c},{i // 2}" for i, c in enumerate(CASES)]
    (tmp_path / "d" / "any.csv").write_text("\n".join(["id,fold", *lines]))

    data = drafted(tmp_path / "d").config.data
    folds, _ = load_folds(data, list_dataset(data).cases)

    assert [sorted(f.validation) for f in folds] == [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(c, p) for c, p in PARTS.items() if c != "b2"], "it has no value for 1 of 6 cases, such as b2"),
        ([*PARTS.items(), ("a1", "val")], "it has several values for a1"),
    ],
)
def test_incomplete_and_contradicting_parts_are_named(tmp_path: Path, rows: list[tuple[str, str]], reason: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "any.csv").write_text("\n".join(["name,split", *(f"{c},{p}" for c, p in rows)]))

    made = drafted(tmp_path / "d")

    assert f"the column split of any.csv is not used: {reason}" in made.draft.remarks
    assert all(c.fold is None for c in list_dataset(made.config.data).cases)


def test_parts_that_divide_a_subject_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    table("name,patient,split", "{c},{person},{part}")(tmp_path / "d")

    made = drafted(tmp_path / "d")

    assert any("1 subjects are in both, such as b" in r for r in made.draft.remarks)
    assert {c.name for c in list_dataset(made.config.data).cases} == {
        "a1",
        "a2",
        "b1",
        "b2",
    }  # those for testing stay out


def test_a_table_of_clinical_values_stays_unused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    table("name,age,stage", "{c},70,II")(tmp_path / "d")

    made = drafted(tmp_path / "d")

    assert "any.csv is not used: it has no columns of images and masks" in made.draft.remarks


def test_labels_and_channel_of_a_json_file_without_a_list_are_used(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    values = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 4}}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(values))

    data = drafted(tmp_path / "d").config.data

    assert ([c.name for c in data.channels], list(data.labels)) == (["CT"], ["liver", "spleen"])


@pytest.mark.parametrize(
    ("header", "line", "reason"),
    [
        ("PatientID,PatientName", "{c},Anonymous", "it has no columns of images and masks"),
        ("file,subject", "{c},human", "the column subject of any.csv is not used: all cases have human"),
        ("id,fold", "{c},0", "the column fold of any.csv is not used: all cases have 0"),
        ("id,split", "{c},val", "the column split of any.csv is not used: all cases have validation"),
        ("id,split", "{c},test", "the column split of any.csv is not used: all cases have test"),
    ],
)
def test_values_of_all_cases_are_not_used(tmp_path: Path, header: str, line: str, reason: str) -> None:
    (tmp_path / "d").mkdir()
    table(header, line)(tmp_path / "d")

    made = drafted(tmp_path / "d")

    assert any(reason in r for r in made.draft.remarks)
    folds, _ = load_folds(made.config.data, list_dataset(made.config.data).cases)
    assert len(folds) == 5


@pytest.mark.parametrize("first", [1, 3])
def test_folds_are_numbered_from_0(tmp_path: Path, first: int) -> None:
    (tmp_path / "d").mkdir()
    lines = [f"{c},{first + 2 * (i // 2)}" for i, c in enumerate(CASES)]
    (tmp_path / "d" / "any.csv").write_text("\n".join(["id,fold", *lines]))

    data = drafted(tmp_path / "d").config.data

    assert [sorted(f.validation) for f in load_folds(data, list_dataset(data).cases)[0]] == [
        ["a1", "a2"],
        ["b1", "b2"],
        ["c1", "c2"],
    ]


def test_rows_of_other_cases_and_unknown_words_do_not_hide_the_subjects(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    lines = [f"{c},{c[0]},excluded" for c in CASES] + [f"z{i},y{i},train" for i in range(60)]
    (tmp_path / "d" / "any.csv").write_text("\n".join(["id,patient,split", *lines]))

    made = drafted(tmp_path / "d")

    assert {c.name: c.subject for c in list_dataset(made.config.data).cases} == {c: c[0] for c in CASES}
    assert any("the split of any.csv is not used" in r for r in made.draft.remarks)


def test_a_table_does_not_divide_the_sides_of_a_person(tmp_path: Path) -> None:
    root = tmp_path / "d"
    names = [f"patient{i:03d}_{side}" for i in range(3) for side in ("left", "right")]
    for i, name in enumerate(names):
        write_pair(root, f"images/{name}.nii.gz", f"masks/{name}.nii.gz", i)
    (root / "any.csv").write_text("\n".join(["id,subject", *(f"{n},eye{i}" for i, n in enumerate(names))]))

    made = init_study(root, tmp_path / "study.yaml")

    assert len({c.subject for c in list_dataset(made.config.data).cases}) == 3


@pytest.mark.parametrize(
    "others", [{}, {"trainval": ("a1", "a2", "b1", "b2")}, {"train": ("a1", "a2"), "other": ("b1",)}]
)
def test_a_list_for_testing_is_kept_out_whatever_other_lists_there_are(
    tmp_path: Path, others: dict[str, tuple[str, ...]]
) -> None:
    (tmp_path / "d").mkdir()
    for name, cases in ({"test": ("c1", "c2")} | others).items():
        (tmp_path / "d" / f"{name}.txt").write_text("\n".join(cases))

    listing = list_dataset(drafted(tmp_path / "d").config.data)

    assert [c.name for c in listing.cases] == ["a1", "a2", "b1", "b2"]


def test_a_table_of_videos_gives_the_subjects(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    table("frame_id,sequence_id,png_image_path", "{c},{person},images/{c}.nii.gz")(tmp_path / "d")

    made = drafted(tmp_path / "d")

    assert {c.name: c.subject for c in list_dataset(made.config.data).cases} == {c: c[0] for c in CASES}


@pytest.mark.parametrize("lines", ["case-05/t1.nii.gz", "case-05/", '"case-05"', "Case-05", "case-05/t1.nii.gz 1"])
@pytest.mark.parametrize("name", ["test.txt", "split/test_ids.txt"])
def test_lists_name_cases_by_their_folders(tmp_path: Path, name: str, lines: str) -> None:
    root = tmp_path / "d"
    for i in range(1, 6):
        write_pair(root, f"case-{i:02d}/t1.nii.gz", f"case-{i:02d}/seg.nii.gz", i)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(lines)

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert (len(listing.cases), len(listing.testing)) == (4, 1)


def test_a_list_for_testing_counts_beside_folders_and_folds(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(1, 7):
        part = "train" if i < 5 else "val"
        write_pair(root, f"{part}/images/s{i}.nii.gz", f"{part}/masks/s{i}.nii.gz", i)
    for k in (0, 1):
        (root / f"fold{k}").mkdir()
        for kind, names in (("train", "s3 s4"), ("val", "s5 s6"), ("test", "s1")):
            (root / f"fold{k}" / f"{kind}.txt").write_text("\n".join(names.split() if k else names.split()[::-1]))

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert "s1" not in {c.name.split("_")[-1] for c in listing.cases}


def test_an_index_of_the_table_is_not_the_name_of_the_case(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(8):
        write_pair(root, f"images/{i}.nii.gz", f"masks/{i}.nii.gz", i)
    rows = [f"{i},{7 - i},{'test' if i < 2 else 'train'}" for i in range(8)]
    (root / "t.csv").write_text("\n".join(["Unnamed: 0,id,split", *rows]))

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert [c.name for c in listing.cases] == [str(i) for i in range(6)]


@pytest.mark.parametrize("name", ["test1.txt", "test_A.txt", "testlist01.txt", "test_internal.txt", "TEST.txt"])
def test_lists_for_testing_have_many_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_text("c1\nc2")

    assert len(list_dataset(drafted(tmp_path / "d").config.data).cases) == 4


def test_numbers_without_zeros_are_those_of_the_cases(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(1, 6):
        write_pair(root, f"images/{i:03d}.nii.gz", f"masks/{i:03d}.nii.gz", i)
    (root / "t.csv").write_text("\n".join(["id,patient", *(f"{i},p{i % 2}" for i in range(1, 6))]))

    cases = list_dataset(init_study(root, tmp_path / "study.yaml").config.data).cases

    assert [c.subject for c in cases] == ["p1", "p0", "p1", "p0", "p1"]


def test_a_table_of_other_names_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "any.csv").write_text("id,patient,split\nx7,p,train\nx8,q,test")

    remarks = drafted(tmp_path / "d").draft.remarks

    assert "any.csv is not used: its names are not those of the cases, such as 'x7'" in remarks
    assert not any("no columns of images" in r for r in remarks)


def test_a_list_for_testing_does_not_take_all_cases_for_training_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    table("name,split", "{c},{part}")(tmp_path / "d")
    (tmp_path / "d" / "test.txt").write_text("a1\na2\nb1")

    cases = list_dataset(drafted(tmp_path / "d").config.data).cases

    assert [c.name for c in cases] == ["a1", "a2", "b1", "b2"]


def test_a_table_in_a_folder_of_the_dataset_gives_the_subjects(tmp_path: Path) -> None:
    (tmp_path / "d" / "info").mkdir(parents=True)
    lines = [f"{c},{c[0]}" for c in CASES]
    (tmp_path / "d" / "info" / "clinical.csv").write_text("\n".join(["name,patient ID", *lines]))
    (tmp_path / "d" / "info" / "other.csv").write_text("x,y\n1,2\n")

    made = drafted(tmp_path / "d")

    cases = list_dataset(made.config.data).cases
    assert {c.name: c.subject for c in cases} == {c: c[0] for c in CASES}
    assert not [r for r in made.draft.remarks if "other.csv" in r]
