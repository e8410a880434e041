"""The list `training` of nnU-Net's version 1 gives subject, fold and part of its cases, as a data list does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medhybrid.config import DataConfig
from medhybrid.data.layouts import Listing, list_dataset
from tests.synthetic import save_nifti

IMAGE = np.arange(60, dtype=np.int16).reshape(5, 4, 3)


def listing_of(root: Path, keys: list[dict[str, object]], **changes: object) -> Listing:
    """Return the listing of a folder whose entry `i` has the keys `keys[i]`, besides image and label."""
    for i in range(len(keys)):
        save_nifti(root / "imagesTr" / f"c{i}_0000.nii.gz", IMAGE + i)
        save_nifti(root / "labelsTr" / f"c{i}.nii.gz", (IMAGE > 9).astype(np.uint8))
    entries = [
        {"image": f"./imagesTr/c{i}.nii.gz", "label": f"./labelsTr/c{i}.nii.gz", **k} for i, k in enumerate(keys)
    ]
    (root / "dataset.json").write_text(json.dumps({"training": entries, "test": []}))
    config = {"root": str(root), "channels": ({"name": "A"},), "labels": {"x": 1}, **changes}
    return list_dataset(DataConfig.model_validate(config))


def test_subjects_and_folds_of_the_entries_are_used(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, [{"subject": f"P{i // 2}", "fold": i // 2} for i in range(6)])

    assert [(c.subject, c.fold) for c in listing.cases] == [(f"P{i // 2}", i // 2) for i in range(6)]


def test_an_entry_without_subject_does_not_train_where_others_have_one(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, [{"subject": "P0"}, {}, {"subject": "P1"}])

    assert [c.problem is None for c in listing.cases] == [True, False, True]
    assert "entry has no `subject`" in str(listing.cases[1].problem)


def test_entries_for_testing_and_others_of_their_subject_do_not_train(tmp_path: Path) -> None:
    keys = [{"split": "test", "subject": "P0"}, *({"split": "train", "subject": f"P{i}"} for i in (0, 1, 2))]
    listing = listing_of(tmp_path, keys)

    assert [c.name for c in listing.cases] == ["c2", "c3"]


@pytest.mark.parametrize("key", ["validation", "val"])
def test_cases_of_a_list_for_validation_validate_in_the_only_fold(tmp_path: Path, key: str) -> None:
    listing_of(tmp_path, [{"fold": 0}, {"fold": 1}, {}])
    values = json.loads((tmp_path / "dataset.json").read_text())
    lists = {"training": values["training"][:2], key: values["training"][2:]}
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    config = DataConfig.model_validate({"root": str(tmp_path), "channels": ({"name": "A"},), "labels": {"x": 1}})

    assert [(c.name, c.fold) for c in list_dataset(config).cases] == [("c0", -1), ("c1", -1), ("c2", 0)]


def test_other_keys_of_the_entries_are_named(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, [{"site": "a"}, {"site": "b"}])

    assert ("1 keys of the entries are not used", "site") in [(n.message, n.found) for n in listing.notes]


def test_a_fold_that_is_no_number_is_a_problem_of_its_case(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, [{"fold": "first"}, {"fold": 0}])

    assert [c.problem is None for c in listing.cases] == [False, True]


@pytest.mark.parametrize("pattern", [r"^(p\d)", None])
def test_a_subject_with_a_scan_in_the_folder_for_testing_does_not_train(tmp_path: Path, pattern: str | None) -> None:
    for i, name in enumerate(("p0_a", "p1_a", "p2_a")):
        save_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", IMAGE + i)
        save_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", (IMAGE > 9).astype(np.uint8))
    save_nifti(tmp_path / "imagesTs" / "p1_b_0000.nii.gz", IMAGE + 9)
    config = DataConfig.model_validate(
        {"root": str(tmp_path), "channels": ({"name": "A"},), "labels": {"x": 1}, "subject_pattern": pattern}
    )

    names = [c.name for c in list_dataset(config).cases]

    assert names == (["p0_a", "p2_a"] if pattern else ["p0_a", "p1_a", "p2_a"])
