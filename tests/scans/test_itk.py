"""NRRD and MHA, and any axis order, come out as SimpleITK and nibabel see them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.errors import ScanError
from medhybrid.geometry import Grid
from medhybrid.scans.reader import read_scan
from tests.geometry.test_resample import to_sitk
from tests.strategies import grids


@given(grid=grids(), suffix=st.sampled_from([".nrrd", ".mha"]))
def test_reading_agrees_with_the_same_image_as_nifti(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, suffix: str
) -> None:
    array = np.random.default_rng(0).integers(0, 999, grid.shape).astype(np.int16)
    folder = tmp_path_factory.mktemp("itk")
    sitk.WriteImage(to_sitk(array, grid), str(folder / f"x{suffix}"))
    sitk.WriteImage(to_sitk(array, grid), str(folder / "x.nii"))  # SimpleITK's own way to NIfTI is the judge

    scan = read_scan(folder / f"x{suffix}")

    judge = nib.load(folder / "x.nii")
    np.testing.assert_array_equal(scan.array[0], np.asarray(judge.dataobj))
    np.testing.assert_allclose(scan.affine, judge.affine, atol=1e-3)


def test_vectors_become_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)  # (z, y, x, C)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "x.mha"))

    scan = read_scan(tmp_path / "x.mha")

    np.testing.assert_array_equal(scan.array, array.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("content", [b"", b"NRRD0004\ntype: short\n", b"ObjectType = Image\nNDims = 3\n"])
def test_reject_damaged_files(tmp_path: Path, content: bytes) -> None:
    for name in ("x.nrrd", "x.mha"):
        (tmp_path / name).write_bytes(content)

        with pytest.raises(ScanError):
            read_scan(tmp_path / name)


@pytest.mark.parametrize("n", ["-1", "999999999999", "3.5", ""])
def test_a_number_of_axes_that_would_end_the_process_is_refused(tmp_path: Path, n: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / "x.mha"))
    content = (tmp_path / "x.mha").read_bytes()
    (tmp_path / "x.mha").write_bytes(content.replace(b"NDims = 3", b"NDims = " + n.encode()))

    with pytest.raises(ScanError, match=r"x\.mha has an unusable header"):
        read_scan(tmp_path / "x.mha")


@pytest.mark.parametrize(("name", "key"), [("x.mhd", "ElementDataFile = "), ("x.nhdr", "data file: ")])
def test_values_in_another_file_are_read_from_the_same_folder_alone(tmp_path: Path, name: str, key: str) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for folder in ("here", "elsewhere"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / folder / name))
    path = tmp_path / "here" / name
    np.testing.assert_array_equal(read_scan(path).array[0], array.transpose(2, 1, 0))

    lines = path.read_text().split("\n")
    for elsewhere in (f"../elsewhere/{name.split('.')[0]}.raw", str(tmp_path / "elsewhere" / "x.raw"), "LIST"):
        path.write_text("\n".join(key + elsewhere if line.startswith(key) else line for line in lines))
        with pytest.raises(ScanError, match="has its values elsewhere"):
            read_scan(path)


@pytest.mark.parametrize(
    "hidden",
    [
        b"Comment = ElementDataFile = LOCAL\nNDims = -1\n",
        b"Comment = ElementDataFile\nNDims = -3\n",
        b"NDims : -1\n",
    ],
)
def test_what_would_end_the_process_is_found_wherever_it_hides(tmp_path: Path, hidden: bytes) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / "x.mha"))
    content = (tmp_path / "x.mha").read_bytes()
    (tmp_path / "x.mha").write_bytes(content.replace(b"NDims = 3\n", hidden))

    with pytest.raises(ScanError, match=r"x\.mha has an unusable header"):
        read_scan(tmp_path / "x.mha")


def test_a_name_elsewhere_is_found_wherever_it_hides(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.raw").write_bytes(array.tobytes())
    for name, key in (("x.mhd", "ElementDataFile = "), ("x.nhdr", "data file: ")):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
        lines = (tmp_path / name).read_text().split("\n")
        there = tmp_path / "elsewhere" / "x.raw"
        bad = "\n".join(key.replace(" = ", " : ") + str(there) if line.startswith(key) else line for line in lines)
        padded = bad if name == "x.mhd" else bad.replace("type:", "#" * 2**20 + "\ntype:")
        (tmp_path / name).write_text(padded)
        with pytest.raises(ScanError, match=r"values elsewhere|no end of it"):
            read_scan(tmp_path / name)
