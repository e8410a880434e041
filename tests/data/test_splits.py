"""Folds never have a subject on both sides."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.config import DataConfig
from medhybrid.data.layouts import Case
from medhybrid.data.splits import Fold, load_folds, make_folds, notes_on_folds
from medhybrid.errors import DataError


def cases_of(subjects: list[int]) -> list[Case]:
    return [Case(f"case_{i:03d}", f"subject_{s}", (), None) for i, s in enumerate(subjects)]


@given(
    subjects=st.lists(st.integers(0, 12), min_size=2, max_size=40).filter(lambda s: len(set(s)) > 1),
    n_folds=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_drawn_folds_keep_subjects_together_and_validate_each_case_once(
    subjects: list[int], n_folds: int, seed: int
) -> None:
    cases = cases_of(subjects)
    subject = {c.name: c.subject for c in cases}

    folds = make_folds(cases, n_folds, seed)

    validated = [n for f in folds for n in f.validation]
    assert sorted(validated) == [c.name for c in cases]
    for fold in folds:
        assert {subject[n] for n in fold.train}.isdisjoint({subject[n] for n in fold.validation})
        assert len(fold.train) + len(fold.validation) == len(cases)
    assert folds == make_folds(cases, n_folds, seed)


def test_the_cases_of_one_subject_all_train_with_a_note() -> None:
    cases = cases_of([1, 1, 1])

    (fold,) = make_folds(cases, 5, 0)

    assert (len(fold.train), fold.validation) == (3, ())
    (note,) = notes_on_folds([fold], cases, "drawn")
    assert "none validates" in note.message


def config(root: Path) -> DataConfig:
    return DataConfig.model_validate({"root": str(root), "channels": [{"name": "T1"}], "labels": {"a": 1}})


def test_folds_of_a_file_are_used_unchanged(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["case_000"], "val": ["case_001"]}]))

    folds, origin = load_folds(config(tmp_path), cases_of([1, 2]))

    assert folds[0].validation == ("case_001",)
    assert origin == "splits.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"train": ["case_000"], "validation": ["case_001"]}], "same subjects in training and validation"),
        ([{"train": [], "validation": ["case_001"]}], "no cases for training or validation"),
        ({"train": []}, "not a valid file of folds"),
        ([{"training": ["case_000"]}], "not a valid file of folds"),
    ],
)
def test_reject_unusable_fold_files(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "splits.json").write_text(json.dumps(content))

    with pytest.raises(DataError, match=message):
        load_folds(config(tmp_path), cases_of([1, 1]))


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.symlink_to("gone.json"), lambda p: p.mkdir()])
def test_a_file_of_folds_that_is_named_and_is_not_there_is_refused(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    named = config(tmp_path).model_copy(update={"splits": "my_split.json"})
    make(tmp_path / "my_split.json")
    with pytest.raises(DataError, match=r"my_split\.json is not a file of folds"):
        load_folds(named, cases_of([1, 2]))


def test_a_broken_link_with_the_default_name_is_refused_but_a_missing_file_is_not(tmp_path: Path) -> None:
    assert load_folds(config(tmp_path), cases_of([1, 2]))[1] == "drawn with seed 0"
    (tmp_path / "splits.json").symlink_to("gone.json")
    with pytest.raises(DataError, match=r"a broken link to gone\.json"):
        load_folds(config(tmp_path), cases_of([1, 2]))


def test_unused_folds_of_nnunet_are_reported(tmp_path: Path) -> None:
    (tmp_path / "splits_final.json").write_text("[]")
    folds, origin = load_folds(config(tmp_path), cases_of([1, 2]))
    (note,) = notes_on_folds(folds, cases_of([1, 2]), origin, config(tmp_path))
    assert (note.where, note.remedy) == ("splits_final.json", "set data.splits=splits_final.json to use its folds")


def test_duplicate_names_in_a_fold_are_used_once_and_reported(tmp_path: Path) -> None:
    names = {"train": ["case_000", "case_000"], "validation": ["case_001", "case_001", "case_001"]}
    (tmp_path / "splits.json").write_text(json.dumps([names]))

    folds, origin = load_folds(config(tmp_path), cases_of([1, 2]))

    assert folds == [Fold(train=("case_000",), validation=("case_001",))]
    (note,) = notes_on_folds(folds, cases_of([1, 2]), origin, config(tmp_path))
    assert note.found == "case_000, case_001"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-8-sig"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_a_file_of_folds_may_have_another_unicode_form_and_encoding(
    tmp_path: Path, encoding: str, form: str
) -> None:
    names = ("Jérôme", "Zoë")
    cases = [Case(n, n, (), None) for n in names]
    train, validation = (unicodedata.normalize(form, n) for n in names)
    text = json.dumps([{"train": [train], "validation": [validation]}], ensure_ascii=False)
    (tmp_path / "splits.json").write_bytes(text.encode(encoding))
    assert load_folds(config(tmp_path), cases)[0] == [Fold(train=names[:1], validation=names[1:])]
