"""Tests with random valid headers: values and affines agree with nibabel and SimpleITK, except as in
docs/explanation/coordinates.md."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import Phase, given, settings

from medhybrid.geometry import LPS_FROM_RAS
from medhybrid.scans.reader import read_scan
from tests.strategies import ImageFile, meta_files, nifti_files, nrrd_files

MM_PER_UNIT = [1, 1000, 1, 0.001]

SCANNER = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return tmp_path_factory.mktemp("agree")


def write_alone(file: ImageFile, folder: Path) -> Path:
    """Write a file into an empty folder: ITK would read x.nii instead of x.nii.gz."""
    alone = folder / str(len(list(folder.iterdir())))
    alone.mkdir()
    return file.write(alone)


def read_by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read values (C, X, Y, Z) and the affine to RAS with SimpleITK."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif array.ndim == 3:
        array = array[None]
    n = image.GetDimension()
    lps = np.eye(4)
    lps[:3, :3] = (np.array(image.GetDirection()).reshape(n, n) * image.GetSpacing())[:3, :3]
    lps[:3, 3] = image.GetOrigin()[:3]
    return array.transpose(0, 3, 2, 1), LPS_FROM_RAS @ lps


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(file=nifti_files())
def test_nifti_reading_agrees_with_nibabel_and_itk(folder: Path, file: ImageFile) -> None:
    path = write_alone(file, folder)
    header = file.header
    unit = MM_PER_UNIT[int(header["xyzt_units"]) & 7]

    scan = read_scan(path)

    judge = nib.load(path)
    expected = np.asarray(judge.dataobj).reshape(*judge.shape[:3], -1)
    np.testing.assert_array_equal(np.moveaxis(scan.array, 0, -1), expected.astype(scan.array.dtype))
    np.testing.assert_allclose(scan.affine, np.diag([unit, unit, unit, 1]) @ judge.affine)  # nibabel ignores the unit
    if header["sizeof_hdr"] == 540:
        return  # SimpleITK's reader does not know NIfTI-2
    array, affine = read_by_itk(path)
    if header["scl_slope"] == header["scl_slope"]:  # ITK multiplies by NaN, although NaN means no scaling
        np.testing.assert_allclose(scan.array, array.astype(np.float64), rtol=1e-6, atol=1e-5)
    if not header["sform_code"] and not header["qform_code"]:
        assert "does not give position" in " ".join(scan.notes)  # ITK: flipped, at the origin
        return
    takes_sform = header["sform_code"] == SCANNER or not header["qform_code"]
    by_itk = judge.get_sform() if takes_sform else judge.get_qform()
    by_itk[:3, :3] *= header["pixdim"][1:4] / np.linalg.norm(
        by_itk[:3, :3], axis=0
    )  # ITK takes voxel sizes only from pixdim
    by_itk[:3] *= unit
    np.testing.assert_allclose(by_itk, affine, rtol=1e-4, atol=2e-3 * unit)
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]).T
    corners = np.diag([*np.subtract(scan.grid.shape, 1), 1]) @ corners
    gap_mm = np.linalg.norm(((by_itk - scan.affine) @ corners)[:3], axis=0).max()
    is_same = gap_mm <= 0.12 * min(1.0, *np.linalg.norm(scan.affine[:3, :3], axis=0))
    assert is_same or "sform is used" in " ".join(scan.notes)


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(file=nrrd_files())
def test_nrrd_reading_agrees_with_itk(folder: Path, file: ImageFile) -> None:
    path = write_alone(file, folder)

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array, file.values.astype(scan.array.dtype))
    assert scan.notes == ()
    if b"bzip2" in file.content[:1000]:
        return  # SimpleITK is built without it
    array, affine = read_by_itk(path)
    np.testing.assert_array_equal(scan.array, array.astype(scan.array.dtype))
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(file=meta_files())
def test_metaimage_reading_agrees_with_itk(folder: Path, file: ImageFile) -> None:
    path = write_alone(file, folder)

    scan = read_scan(path)

    array, affine = read_by_itk(path)
    np.testing.assert_array_equal(scan.array, file.values.astype(scan.array.dtype))
    np.testing.assert_array_equal(scan.array, array.astype(scan.array.dtype))
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)
    assert scan.notes == ()
