"""Every scan under a folder is found, at any depth; files that are none are counted."""

from pathlib import Path

import numpy as np
import pytest

from medhybrid.errors import ScanError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from tests.synthetic import AFFINE, SHAPE, blob_case, save_nifti


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image, _ = blob_case(0)
    save_nifti(tmp_path / "a" / "one.nii.gz", image)
    save_nifti(tmp_path / "a" / "b" / "two.nii", np.stack([image, image], -1))
    write_mr_series(tmp_path / "deep" / "er" / "series", image, AFFINE, description="T1 pre", study="s", case="c")
    (tmp_path / "notes.txt").write_text("no scan")
    (tmp_path / "broken.nii.gz").write_bytes(b"x")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"x")
    return tmp_path


def test_files_and_series_are_found_and_named_by_their_place(folder: Path) -> None:
    found = discover(folder)

    assert [e.name for e in found.entries] == ["a__b__two", "a__one", "broken", "deep__er__series"]
    assert [e.n_channels for e in found.entries] == [2, 1, 1, 1]
    assert found.n_skipped == 1


def test_a_broken_file_says_why(folder: Path) -> None:
    broken = next(e for e in discover(folder).entries if e.name == "broken")

    assert "cannot be read as NIfTI" in broken.problem


def test_headers_give_shape_and_axes(folder: Path) -> None:
    one = next(e for e in discover(folder).entries if e.name == "a__one")

    assert one.shape == SHAPE
    assert one.orientation == "LAS"


def test_a_folder_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        discover(tmp_path / "nowhere")
