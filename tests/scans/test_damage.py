"""Tests of damaged, incomplete or surplus values in each format and compression: refused or noted."""

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medhybrid.errors import ScanError
from medhybrid.scans.reader import read_scan

ARRAY = np.random.default_rng(0).integers(0, 99, (20, 16, 8)).astype("<i2")  # (X, Y, Z)

VALUES = ARRAY.tobytes(order="F")

NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 20 16 8\nendian: little\nencoding: {}\n"

META = "NDims = 3\nDimSize = 20 16 8\nElementType = MET_SHORT\nCompressedData = {}\n{}ElementDataFile = {}\n"


def write_packed(folder: Path, name: str) -> tuple[Path, Path]:
    """Write `ARRAY`, and return the file to read and the file of its compressed values."""
    path = folder / name.split()[0]
    packed = zlib.compress(VALUES)
    size = f"CompressedDataSize = {len(packed)}\n"
    contents = {
        "x.nii.gz": lambda: gzip.compress(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes()),
        "x.nrrd gzip": lambda: NRRD.format("gzip").encode() + b"\n" + gzip.compress(VALUES),
        "x.nrrd bzip2": lambda: NRRD.format("bzip2").encode() + b"\n" + bz2.compress(VALUES),
        "x.mha size": lambda: META.format("True", size, "LOCAL").encode() + packed,
        "x.mha": lambda: META.format("True", "", "LOCAL").encode() + packed,
    }
    if name in contents:
        path.write_bytes(contents[name]())
        return path, path
    values = folder / "x.raw.gz"
    is_meta = name.startswith("x.mhd")
    text = META.format("True", "", "x.raw.gz") if is_meta else NRRD.format("gzip") + "data file: x.raw.gz\n"
    path.write_text(text)
    values.write_bytes(packed if is_meta else gzip.compress(VALUES))
    return path, values


PACKED = ["x.nii.gz", "x.nrrd gzip", "x.nrrd bzip2", "x.nhdr gzip", "x.mha size", "x.mha", "x.mhd"]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(b ^ 0x5A for b in content[middle : middle + 20]) + content[middle + 20 :]


def zero_end(content: bytes) -> bytes:
    return content[: -len(content) // 3] + bytes(len(content) // 3)


def cut(content: bytes) -> bytes:
    return content[:-3]


def change_checksum(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize("name", PACKED)
def test_compressed_values_are_read(tmp_path: Path, name: str) -> None:
    scan = read_scan(write_packed(tmp_path, name)[0])

    np.testing.assert_array_equal(scan.array[0], ARRAY)
    assert "bytes" not in " ".join(scan.notes)


@pytest.mark.parametrize("damage", [flip, zero_end, cut, change_checksum])
@pytest.mark.parametrize("name", PACKED)
def test_damaged_compressed_values_are_refused(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path, values = write_packed(tmp_path, name)
    values.write_bytes(damage(values.read_bytes()))

    with pytest.raises(ScanError, match=r"is damaged or incomplete|more values than the file can hold"):
        read_scan(path)


def test_gzip_streams_padded_with_zeros_are_read(tmp_path: Path) -> None:
    content = nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes()
    parts = gzip.compress(content[:700]) + gzip.compress(content[700:]) + bytes(512)
    (tmp_path / "x.nii.gz").write_bytes(parts)
    packed = gzip.compress(VALUES[:99]) + gzip.compress(VALUES[99:]) + bytes(512)
    (tmp_path / "x.nrrd").write_bytes(NRRD.format("gzip").encode() + b"\n" + packed)

    for name in ("x.nii.gz", "x.nrrd"):
        np.testing.assert_array_equal(read_scan(tmp_path / name).array[0], ARRAY)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd gzip"])
def test_other_bytes_after_complete_gzip_values_are_noted(tmp_path: Path, name: str) -> None:
    path, _ = write_packed(tmp_path, name)
    path.write_bytes(path.read_bytes() + b"something else")

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array[0], ARRAY)
    assert any("surplus bytes" in note for note in scan.notes)


PLAIN = {
    "x.nii": lambda: nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes(),
    "x.nii.gz": lambda: nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes(),
    "x.nrrd": lambda: NRRD.format("raw").encode() + b"\n" + VALUES,
    "x.mha": lambda: META.format("False", "", "LOCAL").encode() + VALUES,
}


@pytest.mark.parametrize("name", PLAIN)
def test_too_few_or_too_many_uncompressed_values_are_refused(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(PLAIN[name]()[:-1]))
    with pytest.raises(ScanError, match=r"more values than the file can hold|is damaged or incomplete"):
        read_scan(tmp_path / name)

    (tmp_path / name).write_bytes(pack(PLAIN[name]() + bytes(2 * 20 * 16)))
    with pytest.raises(ScanError, match=r"more values than its header describes. Expected 5120 bytes, found 5760"):
        read_scan(tmp_path / name)

    (tmp_path / name).write_bytes(pack(PLAIN[name]() + b"end"))
    assert any("surplus bytes" in note for note in read_scan(tmp_path / name).notes)


@pytest.mark.parametrize("words", ["1 2 3", "1 2 3 4 x", "1 2 3 40000", "1 2 3 4 5"])
def test_values_as_text_that_do_not_fit_are_refused(tmp_path: Path, words: str) -> None:
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 1\nencoding: ascii\n\n"
    (tmp_path / "x.nrrd").write_text(header + words)

    with pytest.raises(ScanError, match=r"x\.nrrd"):
        read_scan(tmp_path / "x.nrrd")


def test_a_compressed_file_written_by_itk_is_read(tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x.nrrd", "x.nhdr", "x.mha", "x.mhd"):
        sitk.WriteImage(sitk.GetImageFromArray(ARRAY.T), str(tmp_path / name), useCompression=True)

        np.testing.assert_array_equal(read_scan(tmp_path / name).array[0], ARRAY)
