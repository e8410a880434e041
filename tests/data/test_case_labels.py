"""Tables and lists say which labels a case has; folds spread such cases, and measures leave out what is not known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medhybrid.config import ChannelConfig, DataConfig
from medhybrid.data.annotation import keep_annotated
from medhybrid.data.fingerprint import UNKNOWN, combine, fingerprint_case
from medhybrid.data.layouts import Case, list_cases
from medhybrid.data.layouts.case_labels import CaseLabelsError, read_annotated
from medhybrid.data.splits import make_folds
from medhybrid.draft.study import draft_study
from medhybrid.errors import DataError
from tests.synthetic import blob_case, save_nifti, write_csv

LABELS = {"liver": 1, "left kidney": 2, "spleen": 3}


def data(root: Path | str = "nowhere", labels: object = LABELS) -> DataConfig:
    return DataConfig.model_validate({"root": str(root), "channels": [ChannelConfig(name="CT")], "labels": labels})


@pytest.mark.parametrize("text", ["spleen; liver", "liver,spleen", "Spleen|LIVER", ["liver", "spleen"]])
def test_names_are_separated_and_compared_by_words(text: object) -> None:
    assert read_annotated(text, data(), where="case a") == ("liver", "spleen")


def test_a_name_with_a_separator_is_read_as_a_whole() -> None:
    assert read_annotated("a, b", data(labels={"a, b": 1, "c": 2}), where="case a") == ("a, b",)


@pytest.mark.parametrize("text", ["all", " ALL ", "liver; left_kidney; spleen"])
def test_all_labels_are_no_partly_labelled_case(text: str) -> None:
    assert read_annotated(text, data(), where="case a") is None


def test_regions_are_named_in_place_of_their_classes() -> None:
    config = data(labels={"whole": [1, 2], "core": [2]})

    assert read_annotated("whole", config, where="case a") == ("whole",)
    with pytest.raises(CaseLabelsError, match="whole_rest"):
        read_annotated("whole_rest", config, where="case a")


@pytest.mark.parametrize(
    ("value", "found"), [("liver; heart", "heart"), ("", "an empty list"), ([], "an empty list"), (3, "3")]
)
def test_unknown_names_and_empty_lists_are_refused(value: object, found: str) -> None:
    with pytest.raises(CaseLabelsError, match=rf"case a: .*names among liver, left kidney, spleen.*found {found}"):
        read_annotated(value, data(), where="case a")


def by_name(root: Path) -> dict[str, Case]:
    return {c.name: c for c in list_cases(data(root))}


def test_a_column_of_a_table_gives_the_labels_of_each_case(tmp_path: Path) -> None:
    cells = {"a": "liver", "b": "all", "c": "heart", "d": ""}
    write_csv(tmp_path, [{"case": n, "CT": f"{n}.nii", "mask": f"{n}_m.nii", "labels": v} for n, v in cells.items()])

    cases = by_name(tmp_path)

    assert (cases["a"].annotated, cases["b"].annotated) == (("liver",), None)
    assert "unknown labels" in str(cases["c"].problem)
    assert "line 5 has no labels, while other lines have" in str(cases["d"].problem)


def test_an_empty_column_leaves_every_case_with_all_labels(tmp_path: Path) -> None:
    write_csv(tmp_path, [{"case": n, "CT": f"{n}.nii", "mask": f"{n}_m.nii", "labels": ""} for n in "ab"])

    assert all(c.annotated is None and c.problem is None for c in by_name(tmp_path).values())


def test_a_key_of_a_list_gives_the_labels_of_each_case(tmp_path: Path) -> None:
    labels = {"a": ["spleen"], "b": "all", "c": None}
    listed = [{"image": f"{n}.nii", "label": f"{n}_m.nii", "labels": v} for n, v in labels.items()]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))

    cases = by_name(tmp_path)

    assert (cases["a"].annotated, cases["b"].annotated) == (("spleen",), None)
    assert "its entry in dataset.json has no `labels`, while other entries have" in str(cases["c"].problem)


def write_nnunet(root: Path, case_labels: object) -> None:
    for name in ("a", "b"):
        for folder, end in (("imagesTr", "_0000"), ("labelsTr", "")):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / f"{name}{end}.nii.gz").touch()
    (root / "dataset.json").write_text(json.dumps({"case_labels": case_labels}))


def test_a_table_in_nnunets_file_gives_the_labels_of_partly_labelled_cases(tmp_path: Path) -> None:
    write_nnunet(tmp_path, {"a": ["liver", "spleen"]})

    cases = by_name(tmp_path)

    assert (cases["a"].annotated, cases["b"].annotated) == (("liver", "spleen"), None)


@pytest.mark.parametrize("case_labels", [{"c": ["liver"]}, ["a"]])
def test_a_table_with_names_that_are_no_cases_is_refused(tmp_path: Path, case_labels: object) -> None:
    write_nnunet(tmp_path, case_labels)

    with pytest.raises(DataError, match="`case_labels` has names that are not cases"):
        by_name(tmp_path)


@pytest.mark.parametrize("column", ["case", "scan"])
def test_a_draft_keeps_the_labels_of_each_case_and_says_so(tmp_path: Path, column: str) -> None:
    """A table with another name for the case is written again."""
    rows = []
    for name in "ab":
        image, mask = blob_case(0)
        save_nifti(tmp_path / f"{name}.nii.gz", image)
        save_nifti(tmp_path / f"{name}_mask.nii.gz", mask)
        rows.append({column: name, "CT": f"{name}.nii.gz", "mask": f"{name}_mask.nii.gz", "labels": "liver"})
    write_csv(tmp_path, rows)

    draft = draft_study(tmp_path)

    assert draft.n_cases == 2
    if column == "scan":
        place = draft.table[0].index("labels")
        assert [line[place] for line in draft.table[1:]] == ["liver", "liver"]
    assert any("2 cases are partly labelled" in remark for remark in draft.remarks)


def test_folds_spread_the_cases_of_each_label() -> None:
    kinds = [("liver",)] * 5 + [("spleen",)] * 10 + [None] * 5
    cases = [Case(f"c{i}", f"s{i}", (), None, annotated=kind) for i, kind in enumerate(kinds)]

    folds = make_folds(cases, 5, seed=0)

    of_case = {c.name: c.annotated for c in cases}
    for fold in folds:
        assert Counter(of_case[n] for n in fold.validation) == {("liver",): 1, ("spleen",): 2, None: 1}


def test_voxels_of_labels_that_a_case_does_not_have_become_background_of_it_and_are_named() -> None:
    mask = np.array([0, 1, 2, 3, UNKNOWN], np.uint8)

    kept, others = keep_annotated(mask, data(), ("liver",))

    np.testing.assert_array_equal(kept, [0, 1, 0, 0, UNKNOWN])
    assert others == ("left kidney", "spleen")


def test_values_that_tell_an_annotated_region_stay() -> None:
    regions = data(labels={"whole": [1, 2], "core": [2], "node": [4]})

    kept, others = keep_annotated(np.array([0, 1, 2, 3], np.uint8), regions, ("whole",))

    np.testing.assert_array_equal(kept, [0, 1, 2, 0])
    assert others == ("node",)


def test_medians_are_those_of_the_cases_that_have_a_label() -> None:
    def measure(n_liver: int, missing: tuple[str, ...]) -> object:
        labels = np.zeros((8, 8, 8), np.uint8)
        labels[:n_liver, 0, 0] = 1
        if "spleen" not in missing:
            labels[:4, 4, 4] = 3
        image = np.ones((1, 8, 8, 8))
        return fingerprint_case(image, labels, (1.0, 1.0, 1.0), 1.0, ["CT"], list(LABELS), missing=missing)

    found = combine([measure(2, ("spleen", "left kidney")), measure(6, ())])

    assert found.median_foreground_ml == {"liver": 4, "left kidney": 0, "spleen": 4}
    assert found.thickness_mm["spleen"] == (4, 1, 1)
    assert found.median_labels_mm == (6, 5, 5), "only of cases with all labels"


def test_the_thickness_of_a_region_is_that_of_the_whole() -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[1:9, 1:9, 1:9] = 1
    labels[2:8, 2:8, 2:8] = 2
    image = np.ones((1, 10, 10, 10))

    found = fingerprint_case(
        image, labels, (1.0, 1.0, 1.0), 1.0, ["CT"], ["whole_rest", "core"], regions={"whole": (1, 2), "core": (2,)}
    )

    assert found.thickness_mm == {"whole": (8, 8, 8), "core": (6, 6, 6)}
    assert found.foreground_ml == {"whole": 512, "core": 216}
