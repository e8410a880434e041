"""Tests of discovery: all scans below a folder are found, and other files are counted."""

import errno
import os
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import medhybrid
from medhybrid.errors import ScanError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.synthetic import AFFINE, SHAPE, blob_case, make_test_plan, save_nifti


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


def test_files_and_series_are_found_and_named_by_their_path(folder: Path) -> None:
    found = discover(folder)

    assert [e.name for e in found.entries] == ["a__b__two", "a__one", "broken", "deep__er__series"]
    assert [e.n_channels for e in found.entries] == [2, 1, 1, 1]
    assert found.n_skipped == 1


def test_a_broken_file_is_listed_with_its_problem(folder: Path) -> None:
    broken = next(e for e in discover(folder).entries if e.name == "broken")

    assert "cannot be read as NIfTI" in broken.problem


def test_an_image_in_a_format_without_reader_is_named_and_takes_no_name(folder: Path) -> None:
    (folder / "a" / "one.mgz").write_bytes(b"x")

    found = discover(folder)

    assert {e.name: e.skip_reason for e in found.entries if e.skip_reason} == {
        "a__one.mgz": "the format MGH (FreeSurfer) is not read: convert it to NIfTI"
    }
    assert "a__one" in [e.name for e in found.entries]
    assert found.n_skipped == 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".mha", ".nrrd", ".nii", ".nii.gz", ".zip", ".mgz", ".tar"])
def test_dicom_is_recognised_under_the_name_of_another_format(tmp_path: Path, suffix: str) -> None:
    image, _ = blob_case(0)
    for path in write_mr_series(tmp_path / "s", image, AFFINE, description="T1", study="s", case="c"):
        path.rename(path.with_name(path.stem + suffix))

    found = discover(tmp_path)

    assert [(e.name, e.kind, e.shape, e.problem) for e in found.entries] == [("s", "dicom", SHAPE, "")]
    assert found.n_skipped == 0


def test_a_tiff_with_dicom_after_its_header_is_read_as_the_tiff(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    values = b"II*\0" + (200).to_bytes(4, "little") + bytes(120) + b"DICM" + bytes(8) + pixels.tobytes()
    tags = [(256, 5), (257, 4), (258, 8), (259, 1), (262, 1), (273, 140), (277, 1), (278, 4), (279, 20)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "x.tif").write_bytes(values.ljust(200, b"\0") + struct.pack("<H", len(tags)) + entries + bytes(4))

    np.testing.assert_array_equal(read_scan(tmp_path / "x.tif").array[0, :, :, 0].T, pixels)


def test_headers_give_shape_and_axes(folder: Path) -> None:
    one = next(e for e in discover(folder).entries if e.name == "a__one")

    assert one.shape == SHAPE
    assert one.orientation == "LAS"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        discover(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_listed_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_nifti(folder / "locked" / "x.nii.gz", blob_case(0)[0])
    plain = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refuse)

    (entry,) = (e for e in discover(folder).entries if "locked" in e.name)

    assert "cannot be listed. Found Permission denied" in entry.problem


def test_pipes_are_skipped(folder: Path) -> None:
    before = len(discover(folder).entries)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.nii")

    assert len(discover(folder).entries) == before


def test_a_folder_can_be_excluded(folder: Path) -> None:
    before = [e.name for e in discover(folder).entries]
    save_nifti(folder / "out" / "masks" / "x.nii.gz", blob_case(0)[0])

    assert [e.name for e in discover(folder, without=folder / "out").entries] == before
    assert len(discover(folder).entries) == len(before) + 1


def test_long_names_are_shortened_and_stay_unique(tmp_path: Path) -> None:
    for end in "ab":
        save_nifti(tmp_path / ("é" * 80) / ("x" * 90) / f"{'y' * 80}{end}.nii", blob_case(0)[0])

    names = [e.name for e in discover(tmp_path).entries]

    assert len(set(names)) == 2
    assert all(len(n.encode()) <= 180 for n in names)


def test_a_pair_is_one_scan_and_values_without_a_header_are_reported(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    nib.save(nib.Nifti1Pair(image, AFFINE), tmp_path / "pair.hdr")
    (tmp_path / "lone.img").write_bytes(bytes(999))
    (tmp_path / "spectra.hdr").write_text("ENVI\nsamples = 3\n")

    found = discover(tmp_path)

    assert [(e.name, [p.name for p in e.paths]) for e in found.entries] == [
        ("lone", ["lone.img"]),
        ("pair", ["pair.hdr", "pair.img"]),
    ]
    assert "without a header" in found.entries[0].problem
    assert found.n_skipped == 1
    np.testing.assert_array_equal(read_entry(found.entries[1], "c").array[0], image)
    assert [e.name for e in discover(tmp_path / "pair.img").entries] == ["pair"]


def test_values_in_another_file_belong_to_the_scan(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / "x.mhd"))

    (entry,) = discover(tmp_path).entries

    assert [p.name for p in entry.paths] == ["x.mhd", "x.raw"]
    assert read_entry(entry, "c").array.shape == (1, 4, 3, 2)


def test_hidden_folders_are_skipped_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = [e.name for e in discover(folder).entries]
    for place in (".Trash-1000/files", ".snapshot", "$RECYCLE.BIN"):
        save_nifti(folder / place / "old.nii.gz", blob_case(0)[0])

    found = discover(folder)

    assert [e.name for e in found.entries] == before
    assert found.passed_over == ("$RECYCLE.BIN", ".Trash-1000", ".snapshot")
    assert "3 hidden folders or result folders are not searched" in caplog.text
    assert [e.name for e in discover(folder / ".snapshot").entries] == ["old"]


def test_a_user_folder_with_names_of_a_run_is_searched(tmp_path: Path) -> None:
    for name in ("train/a.nii.gz", "validation/b.nii.gz"):
        save_nifti(tmp_path / name, blob_case(0)[0])
    (tmp_path / "config.yaml").write_text("x: 1")
    (tmp_path / "plan.json").write_text("{}")
    assert [e.name for e in discover(tmp_path).entries] == ["train__a", "validation__b"]

    (tmp_path / "plan.json").write_text(make_test_plan().model_dump_json())
    found = discover(tmp_path)
    assert ([e.name for e in found.entries], found.passed_over) == (["train__a"], ("validation",))


def test_converted_files_are_scans_except_while_converting_into_the_same_folder(tmp_path: Path) -> None:
    save_nifti(tmp_path / "in" / "a.nii.gz", blob_case(0)[0])
    for _ in range(2):
        rows = medhybrid.convert(tmp_path, out=tmp_path / "out")
        assert [r.name for r in rows] == ["in__a"]
    assert [e.name for e in discover(tmp_path).entries] == ["in__a", "out__in__a"]
