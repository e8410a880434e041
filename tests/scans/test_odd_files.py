"""Tests of unusual files: read correctly or refused with the reason, without crashes or other exceptions."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medhybrid.errors import ScanError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan

ARRAY = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)


def itk_image() -> sitk.Image:
    return sitk.GetImageFromArray(ARRAY.transpose(2, 1, 0))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd"])
def test_a_path_that_is_not_utf8_is_read(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(itk_image(), str(tmp_path / f"a{suffix}"))
    odd = tmp_path / os.fsdecode(b"M\xfcller")
    odd.mkdir()
    for path in [p for p in tmp_path.iterdir() if p.is_file()]:
        path.rename(odd / path.name)

    np.testing.assert_array_equal(read_scan(odd / f"a{suffix}").array[0], ARRAY)
    (entry,) = discover(tmp_path).entries
    assert not entry.problem


def test_large_integers_keep_their_digits_with_an_intercept(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "s", ARRAY, np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c")
    for k, path in enumerate(paths):
        d = pydicom.dcmread(path)
        d.BitsAllocated, d.BitsStored, d.HighBit = 32, 32, 31
        d.RescaleSlope, d.RescaleIntercept = "0.5", "-1073741824"
        d.PixelData = (ARRAY[:, :, k].T.astype(np.uint32) + 2**31).tobytes()
        d.save_as(path)

    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], ARRAY / 2)


def zipped(path: Path, *members: tuple[str, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # zipfile warns of repeated names
        for name, content in members:
            file.writestr(name, content)
    return path


def nifti(array: np.ndarray) -> bytes:
    return bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())


def test_a_zip_with_two_different_members_of_the_same_name_is_refused(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", ("x/scan.nii", nifti(ARRAY)), ("x/scan.nii", nifti(ARRAY + 1)))
    (entry,) = discover(tmp_path).entries
    assert "two members with the same name" in entry.problem


def test_a_zip_with_one_member_twice_is_read(tmp_path: Path) -> None:
    member = ("a.nii", nifti(np.zeros((4, 5, 6), np.int16)))
    zipped(tmp_path / "x.zip", member, member)

    assert [(e.name, e.problem) for e in discover(tmp_path).entries] == [("x__a", "")]


def test_a_hidden_folder_in_a_zip_is_named(tmp_path: Path) -> None:
    zipped(tmp_path / "x.zip", (".export/a.nii", nifti(np.zeros((4, 5, 6), np.int16))), ("__MACOSX/._a", b"x"))

    assert discover(tmp_path).passed_over == ("x.zip/.export",)


def test_a_zip_with_a_label_map_and_unusual_names_is_read(tmp_path: Path) -> None:
    label = np.zeros((260, 260, 170), np.uint8)
    label[5, 5, 5] = 1
    zipped(tmp_path / "a.zip", ("T1 12:30:05/scan.nii", nifti(ARRAY)), ("case/label.nii", nifti(label)))
    found = discover(tmp_path)
    assert [e.problem for e in found.entries] == ["", ""]


@pytest.mark.parametrize("name", ["list.raw", "50%.raw"])
def test_values_in_a_file_with_an_unusual_name_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(ARRAY.tobytes(order="F"))
    (tmp_path / "a.nhdr").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nendian: little\nencoding: raw\n"
        "space: right-anterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
        f"data file: {name}\n"
    )
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nhdr").array[0], ARRAY)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_values_beyond_float32_are_refused(tmp_path: Path, suffix: str) -> None:
    huge = ARRAY.astype(np.float64) * 1e300
    if suffix == ".nii":
        nib.save(nib.Nifti1Image(huge, np.eye(4)), tmp_path / "a.nii")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(huge.transpose(2, 1, 0)), str(tmp_path / f"a{suffix}"))
    with pytest.raises(ScanError, match="too large"):
        read_scan(tmp_path / f"a{suffix}")


def test_invalid_form_codes_are_named(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ARRAY, np.diag([2, 2, 2, 1.0]))
    content = bytearray(image.to_bytes())
    content[252:256] = bytes([0, 0, 6, 0])  # qform_code 0, sform_code 6
    (tmp_path / "a.nii").write_bytes(content)
    (note,) = read_scan(tmp_path / "a.nii").notes
    assert "6 and 0 are not valid" in note


@pytest.mark.parametrize(("name", "values"), [("KVP", ("120", "120.0")), ("RepetitionTime", ("2000", "2000.1"))])
def test_equal_numbers_in_other_notation_do_not_split_a_volume(
    tmp_path: Path, name: str, values: tuple[str, str]
) -> None:
    paths = write_mr_series(tmp_path / "s", ARRAY, np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c")
    for k, path in enumerate(paths):
        d = pydicom.dcmread(path)
        setattr(d, name, values[k % 2])
        d.save_as(path)
    (entry,) = discover(tmp_path).entries
    assert read_entry(entry, "c").array.shape == (1, 6, 5, 4)


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 3000, "absent.nii", "x.hdr.gz"])
def test_the_reader_raises_only_scan_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.hdr.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bytes(range(200)))
    with pytest.raises(ScanError):
        read_scan(path)


def test_a_folder_with_one_image_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "case.nii.gz").mkdir()
    (tmp_path / "case.nii.gz" / "case.nii").write_bytes(nifti(ARRAY))
    np.testing.assert_array_equal(read_scan(tmp_path / "case.nii.gz").array[0], ARRAY)
