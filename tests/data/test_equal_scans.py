"""Copies of a scan under another name are one subject, so that a fold does not validate on what it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.data.dataset import PreparedDataset
from medhybrid.data.equal_scans import equal_scans, hash_values, join_subjects
from medhybrid.data.layouts import Case
from medhybrid.steps.init import init_study
from medhybrid.steps.preprocess import preprocess
from tests.synthetic import AFFINE, blob_case, save_nifti

pytestmark = pytest.mark.usefixtures("in_this_process")

SHAPE = (12, 10, 8)


def write_copies(root: Path, name: str) -> None:
    """Write five cases, and a copy of the third one with another type of values and its first axis stored backwards."""
    for i in range(5):
        image, labels = blob_case(i, SHAPE)
        save_nifti(root / f"images/00{i}.nii.gz", image)
        save_nifti(root / f"labels/00{i}.nii.gz", labels)
        if i == 2:
            backwards = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
            backwards[:3, 3] += AFFINE[:3, 0] * (SHAPE[0] - 1)
            save_nifti(root / f"images/{name}.nii.gz", image[::-1].astype(np.float64), backwards)
            save_nifti(root / f"labels/{name}.nii.gz", labels[::-1], backwards)


@pytest.mark.parametrize("name", ["002(1)", "backup_of_two", "x9"])
def test_a_copy_under_another_name_is_in_the_fold_of_its_scan(name: str, tmp_path: Path) -> None:
    write_copies(tmp_path / "d", name)
    made = init_study(tmp_path / "d", tmp_path / "study.yaml")
    config = made.config.model_copy(
        update={"prepare": made.config.prepare.model_copy(update={"folder": str(tmp_path / "prepared")})}
    )

    prepared = preprocess(config)

    dataset = PreparedDataset(prepared.folder)
    (copy,) = set(dataset.names()) - {f"00{i}" for i in range(5)}
    folds = dataset.folds
    sides = [[n for n in ("002", copy) if n in f.validation] for f in folds]
    assert sorted(map(len, sides)) == [0] * (len(folds) - 1) + [2]
    (finding,) = [f for f in prepared.findings if f.code == "equal_scans"]
    assert finding.found == ", ".join(sorted(["002", copy]))
    assert preprocess(config).n_unchanged == 6


def test_a_file_of_folds_with_a_copy_on_both_sides_is_named(tmp_path: Path) -> None:
    write_copies(tmp_path / "d", "copy")
    (tmp_path / "d" / "splits.json").write_text(
        '[{"train": ["000", "001", "002"], "validation": ["003", "004", "copy"]}]'
    )
    made = init_study(tmp_path / "d", tmp_path / "study.yaml")
    config = made.config.model_copy(
        update={"prepare": made.config.prepare.model_copy(update={"folder": str(tmp_path / "prepared")})}
    )

    messages = [f.message for f in preprocess(config).findings if f.code == "equal_scans"]

    assert messages[1:] == ["fold 0 validates on 1 scans that also train: its Dice is too high"]


def test_the_hash_of_an_image_depends_on_its_values_alone() -> None:
    image = blob_case(0, SHAPE)[0][None]

    assert hash_values(image) == hash_values(np.asfortranarray(image.astype(np.float64)))
    assert hash_values(image) != hash_values(image + 1)
    assert hash_values(image) != hash_values(image.reshape(1, 10, 12, 8))
    assert hash_values(np.full((2, 4, 4, 4), 7)) == ""


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["", "a", "b", "c", "d"])), max_size=12))
def test_subjects_that_share_scans_directly_or_over_others_are_one(drawn: list[tuple[int, str]]) -> None:
    cases = [Case(f"c{i}", f"s{s}", (), None) for i, (s, _) in enumerate(drawn)]
    hashes = {f"c{i}": h for i, (_, h) in enumerate(drawn)}

    joined = join_subjects(cases, equal_scans(hashes))

    reached = {c.name: {c.name} for c in cases}  # independent: sets that grow until nothing changes
    for _ in cases:
        for a in cases:
            for b in cases:
                if a.subject == b.subject or (hashes[a.name] and hashes[a.name] == hashes[b.name]):
                    reached[a.name] |= reached[b.name]
    for a, b in zip(cases, joined, strict=True):
        assert {c.name for c in joined if c.subject == b.subject} == reached[a.name]
