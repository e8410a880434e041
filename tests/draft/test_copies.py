"""A file packed beside the plain one is a copy only with the same content."""

from __future__ import annotations

from pathlib import Path

import pytest

from medhybrid.steps.init import init_study
from tests.synthetic import blob_case, save_nifti


def write_case(root: Path, seed: int, *suffixes: str, label: int = 1) -> None:
    image, labels = blob_case(seed, (12, 10, 8))
    for suffix in suffixes:
        save_nifti(root / f"p{seed}" / f"p{seed}_t1{suffix}", image)
        save_nifti(root / f"p{seed}" / f"p{seed}_seg{suffix}", labels * label)


@pytest.mark.parametrize("n_packed", [1, 4])
def test_packed_copies_are_left_out(n_packed: int, tmp_path: Path) -> None:
    for i in range(4):
        write_case(tmp_path / "d", i, ".nii", *([".nii.gz"] if i < n_packed else []))

    draft = init_study(tmp_path / "d", tmp_path / "study.yaml").draft

    assert draft.n_cases == 4
    assert f"{2 * n_packed} files in another format than their copies, such as p0/p0_seg.nii.gz" in draft.remarks


def test_a_packed_file_with_other_content_is_no_copy(tmp_path: Path) -> None:
    for i in range(4):
        write_case(tmp_path / "d", i, ".nii")
    write_case(tmp_path / "d", 0, ".nii.gz", label=2)

    draft = init_study(tmp_path / "d", tmp_path / "study.yaml").draft

    assert draft.n_cases == 3
    assert any("have several masks" in r for r in draft.remarks)
