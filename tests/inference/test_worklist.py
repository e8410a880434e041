"""Scans of several channels are put together by study, whatever form they come in."""

from pathlib import Path

import numpy as np
import pytest

from medhybrid.errors import DataError
from medhybrid.inference.worklist import make_worklist
from medhybrid.scans import discover
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


def test_an_optional_channel_may_be_absent_and_a_needed_one_may_not(tmp_path: Path) -> None:
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


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", blob_case(0)[0])
    save_nifti(tmp_path / "a.nii", blob_case(1)[0])

    with pytest.raises(DataError, match="the same name"):
        make_worklist(discover(tmp_path), [("T1", False)], {})
