"""Tables with a line for each file are read as tables with a line for each case."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from medhybrid.data.layouts import list_dataset
from medhybrid.draft.long_tables import as_wide
from medhybrid.steps.init import init_study
from medhybrid.tables import Table
from tests.draft.test_draft import write_pair


@pytest.mark.parametrize("keys", [("case",), ("patient",), ("subject",), ("patient", "visit"), ("scan_id", "age")])
def test_files_of_a_case_are_joined(tmp_path: Path, keys: tuple[str, ...]) -> None:
    root = tmp_path / "d"
    lines = [",".join([*keys, "type", "file"])]
    for i, values in enumerate(product("abc", "12") if keys[-1] == "visit" else [("a", "1"), ("b", "1"), ("c", "1")]):
        write_pair(root, f"f/{i}x.nii.gz", f"f/{i}y.nii.gz", i)
        lines += [
            ",".join([*values[: len(keys)], kind, f"f/{i}{end}.nii.gz"]) for kind, end in (("T1", "x"), ("seg", "y"))
        ]
    (root / "files.csv").write_text("\n".join(lines))

    made = init_study(root, tmp_path / "study.yaml")

    cases = list_dataset(made.config.data).cases
    assert [c.problem for c in cases] == [None] * len(cases)
    assert len(cases) == (6 if keys[-1] == "visit" else 3)
    assert [c.name for c in made.config.data.channels] == ["T1"]
    for case in cases:
        assert case.mask is not None
        assert case.images[0] is not None
        assert (case.images[0].paths[0].name[:1], case.mask.paths[0].name[1:2]) == (case.mask.paths[0].name[:1], "y")
    if keys[-1] == "visit":
        assert sorted(c.subject for c in cases) == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize(
    "rows",
    [
        [
            ("a", "T1", "1"),
            ("a", "T1", "2"),
            ("a", "seg", "3"),
            ("b", "T1", "4"),
            ("b", "seg", "5"),
        ],  # two T1 of a case
        [("a", "T1", "1"), ("b", "T2", "2")],  # no masks
        [("a", "seg", "1"), ("b", "T2", "2")],  # one file of each case
    ],
)
def test_other_tables_stay_as_they_are(rows: list[tuple[str, str, str]]) -> None:
    columns = ("case", "type", "file")
    table = Table(columns, tuple((n, dict(zip(columns, row, strict=True))) for n, row in enumerate(rows, 2)), ",")

    assert as_wide(table, "file") is None


def test_columns_with_one_value_for_each_case_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lines = ["scan_id,patient_id,split,type,file"]
    for i, (patient, part) in enumerate([("a", "train"), ("a", "train"), ("b", "train"), ("c", "test")]):
        write_pair(root, f"f/{i}x.nii.gz", f"f/{i}y.nii.gz", i)
        lines += [f"s{i},{patient},{part},{kind},f/{i}{end}.nii.gz" for kind, end in (("T1", "x"), ("seg", "y"))]
    (root / "files.csv").write_text("\n".join(lines))

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert [c.subject for c in listing.cases] == ["a", "a", "b"]
    assert [c.subject for c in listing.testing] == ["c"]


def test_a_number_of_each_kind_of_file_does_not_name_the_case(tmp_path: Path) -> None:
    root = tmp_path / "d"
    lines = ["idx,patient,split,type,path"]
    for i in range(4):
        write_pair(root, f"f/{i}x.nii.gz", f"f/{i}y.nii.gz", i)
        lines += [f"{i},P{i},{'test' if i == 3 else 'train'},T1,f/{i}x.nii.gz", f"{3 - i},P{i},,seg,f/{i}y.nii.gz"]
    (root / "files.csv").write_text("\n".join(lines))

    listing = list_dataset(init_study(root, tmp_path / "study.yaml").config.data)

    assert [c.name for c in listing.cases] == ["P0", "P1", "P2"]
    for case in listing.cases:
        assert case.mask is not None
        assert case.images[0] is not None
        assert case.mask.paths[0].name[0] == case.images[0].paths[0].name[0] == case.name[1]
