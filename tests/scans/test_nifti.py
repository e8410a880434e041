"""NIfTI files are read as nibabel reads them, written on the same grid, or refused with a reason."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medhybrid.errors import ScanError
from medhybrid.geometry import Grid
from medhybrid.scans.nifti import read_nifti, write_nifti
from medhybrid.scans.reader import read_scan
from tests.strategies import affines, grids


@given(data=st.data(), affine=affines())
def test_reading_agrees_with_nibabel(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, affine: np.ndarray
) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]))
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=4, min_side=1, max_side=6))
    array = np.random.default_rng(0).integers(0, 120, shape).astype(dtype)
    path = tmp_path_factory.mktemp("nifti") / "x.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)

    scan = read_nifti(path)

    expected = nib.load(path)
    values = np.asarray(expected.dataobj)
    values = values[..., None] if values.ndim == 3 else values
    np.testing.assert_array_equal(np.moveaxis(scan.array, 0, -1), values)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    assert scan.array.dtype == (dtype if dtype[0] in "iu" else "float32")


@given(grid=grids())
def test_writing_and_reading_is_identity(tmp_path_factory: pytest.TempPathFactory, grid: Grid) -> None:
    array = np.random.default_rng(1).integers(0, 5, grid.shape).astype(np.uint8)
    path = tmp_path_factory.mktemp("nifti") / "mask.nii.gz"

    write_nifti(path, array, grid.affine)

    back = read_scan(path)
    np.testing.assert_array_equal(back.array[0], array)
    np.testing.assert_allclose(back.affine, grid.affine, atol=1e-4)  # headers hold float32
    assert list(path.parent.iterdir()) == [path]


def test_scaled_integers_are_read_as_their_values(tmp_path: Path) -> None:
    values = np.linspace(-3, 7, 27).reshape(3, 3, 3)
    image = nib.Nifti1Image(values, np.eye(4))
    image.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    nib.save(image, tmp_path / "x.nii")

    scan = read_nifti(tmp_path / "x.nii")

    np.testing.assert_allclose(scan.array[0], values, atol=1e-3)
    assert scan.array.dtype == np.float32


def test_forms_that_differ_carry_a_note(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.diag([1.0, 1, 5, 1]), 1)
    nib.save(image, tmp_path / "x.nii")

    assert "sform is used" in read_nifti(tmp_path / "x.nii").notes[0]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage", [_truncate, _corrupt, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"hello" * 99)]
)
def test_reject_damaged_files(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, 9, (20, 20, 20)).astype(np.uint8), np.eye(4)), path)
    damage(path)

    with pytest.raises(ScanError, match=r"x\.nii\.gz"):
        read_scan(path)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((2, 2, 2, 2, 3), np.uint8), np.zeros((3, 3, 3), np.complex64)]
)
def test_reject_what_is_no_volume_of_numbers(tmp_path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "x.nii")

    with pytest.raises(ScanError):
        read_scan(tmp_path / "x.nii")


def test_a_header_that_claims_terabytes_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[42:48] = (32767).to_bytes(2, "little") * 3
    path.write_bytes(bytes(data))

    with pytest.raises(ScanError, match="too many values"):
        read_scan(path)
