"""Tests of headers with more values than their file holds: refused before memory is allocated."""

import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medhybrid.errors import ScanError
from medhybrid.scans.reader import read_scan


def with_claim(path: Path) -> None:
    """Write a scan of 120 values with a header of 3,000 million values."""
    if ".nii" in path.name:
        image = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.eye(4))
        image.header.set_data_shape((1500, 1500, 1500))
        content = image.header.binaryblock + bytes(4 + 240)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(path))
    path.write_bytes(path.read_bytes().replace(b"6 5 4", b"1500 1500 1500"))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.nrrd", "x.nhdr", "x.mha", "x.mhd"])
def test_a_small_file_with_a_header_of_a_large_volume_is_refused_before_allocation(tmp_path: Path, name: str) -> None:
    with_claim(tmp_path / name)
    tracemalloc.start()

    with pytest.raises(
        ScanError, match=r"its header describes more values than the file can hold. Expected 6750000000 bytes"
    ):
        read_scan(tmp_path / name)

    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.nrrd", "x.nhdr", "x.mha", "x.mhd"])
def test_a_scan_of_zeros_is_read_compressed_and_uncompressed(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(np.zeros((50, 200, 210), np.int32))
    sitk.WriteImage(image, str(tmp_path / name), useCompression=name != "x.nii")

    assert read_scan(tmp_path / name).array.shape == (1, 210, 200, 50)


@pytest.mark.parametrize("value", ["slice%03d.raw 1 4 1", "gone.raw", "a\0b.raw"])
def test_values_in_a_missing_file_or_in_several_files_are_refused(tmp_path: Path, value: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(tmp_path / "x.mhd"))
    header = (tmp_path / "x.mhd").read_text().replace("x.raw", value)
    (tmp_path / "x.mhd").write_text(header)

    with pytest.raises(ScanError, match=r"x\.mhd"):
        read_scan(tmp_path / "x.mhd")
