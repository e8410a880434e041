"""Tests of NIfTI reading against nibabel, of writing on the same grid, and of refusal with a reason."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.spm99analyze import Spm99AnalyzeImage
from scipy.io import loadmat, savemat

from medhybrid.errors import ScanError
from medhybrid.geometry import Grid
from medhybrid.scans.nifti import read_nifti, write_nifti
from medhybrid.scans.nifti_header import GEOMETRY_FIELDS
from medhybrid.scans.reader import read_scan
from tests.strategies import ImageFile, affines, grids, nifti_files


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
    "array",
    [
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 2, 2, 3), np.uint8),
        np.zeros((3, 3, 3), np.complex64),
        np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
    ],
)
def test_reject_files_that_are_not_volumes_of_numbers(tmp_path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "x.nii")

    with pytest.raises(ScanError):
        read_scan(tmp_path / "x.nii")


def test_a_header_of_terabytes_is_refused_before_allocation(tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[42:48] = (32767).to_bytes(2, "little") * 3
    path.write_bytes(bytes(data))

    with pytest.raises(ScanError, match="too many values"):
        read_scan(path)


QFORM = np.diag([-0.9, 1.1, 2.5, 1.0])

ARRAY = np.arange(24, dtype=np.int16).reshape(4, 3, 2)


def write_edited(
    path: Path, edit: Callable[[Any], object], array: np.ndarray = ARRAY, form: np.ndarray = QFORM
) -> Path:
    """Write a file with `form` as sform and qform in its header, edited without nibabel's repairs."""
    header = nib.Nifti1Image(array, form).header.copy()
    header.set_qform(form, 1)
    header.set_sform(form, 1)
    edit(header)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4) + array.tobytes(order="F"))
    return path


def empty_sform(header: Any) -> None:
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row] = 0


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e3), ("meter", 1e-3), ("mm", 1.0), ("unknown", 1.0)])
def test_lengths_are_converted_to_mm_from_any_unit(tmp_path: Path, unit: str, factor: float) -> None:
    form = np.diag([0.4 * factor, 0.4 * factor, 0.8 * factor, 1.0])
    form[:3, 3] = np.array([-0.5, 0.5, 1]) * factor
    path = write_edited(tmp_path / "x.nii", lambda h: h.set_xyzt_units(unit, "sec"), form=form)

    scan = read_scan(path)

    np.testing.assert_allclose(scan.grid.spacing_mm, (0.4, 0.4, 0.8), rtol=1e-6)
    np.testing.assert_allclose(scan.affine[:3, 3], (-0.5, 0.5, 1), rtol=1e-6)
    assert scan.notes == ()


@pytest.mark.parametrize(("code", "found"), [(5, "unknown code"), (1, "implausible"), (3, "implausible")])
def test_a_doubtful_unit_is_noted(tmp_path: Path, code: int, found: str) -> None:
    scan = read_scan(write_edited(tmp_path / "x.nii", lambda h: h.__setitem__("xyzt_units", code)))

    assert any(found in note for note in scan.notes)


def test_the_qform_replaces_an_empty_sform(tmp_path: Path) -> None:
    scan = read_scan(write_edited(tmp_path / "x.nii", empty_sform))

    np.testing.assert_allclose(scan.affine, QFORM, rtol=1e-6)
    assert scan.notes == ("sform is invalid; qform is used",)


def test_an_empty_sform_alone_is_refused(tmp_path: Path) -> None:
    path = write_edited(tmp_path / "x.nii", lambda h: (empty_sform(h), h.__setitem__("qform_code", 0)))

    with pytest.raises(ScanError, match="invalid affine"):
        read_scan(path)


def test_voxel_sizes_of_sform_and_pixdim_that_differ_are_noted_with_the_digits_that_differ(tmp_path: Path) -> None:
    def edit(header: Any) -> None:
        header.set_qform(None, 0)
        header["pixdim"][1:4] = [0.9, 1.1, 2.51]

    (note,) = read_scan(write_edited(tmp_path / "x.nii", edit)).notes

    assert note == "voxels measure 0.90 x 1.10 x 2.50 mm by the sform, 0.90 x 1.10 x 2.51 mm by pixdim; sform is used"


@pytest.mark.parametrize("shape", [(4, 3, 2, 1, 1), (4, 3, 2, 1, 3), (4, 3, 2, 3), (4, 3), (4, 3, 1, 1, 2)])
def test_axes_of_length_one_are_dropped_and_vectors_become_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(array, QFORM), tmp_path / "x.nii.gz")

    scan = read_scan(tmp_path / "x.nii.gz")

    spatial = (*shape, 1)[:3]
    np.testing.assert_array_equal(np.moveaxis(scan.array, 0, -1), array.reshape(*spatial, -1))
    np.testing.assert_allclose(scan.affine, QFORM, rtol=1e-6)


def test_a_slice_without_thickness_has_1_mm_and_a_note(tmp_path: Path) -> None:
    def edit(header: Any) -> None:
        header["sform_code"] = 0
        header["pixdim"][3] = 0

    scan = read_scan(write_edited(tmp_path / "x.nii", edit, ARRAY[:, :, 0].copy()))

    np.testing.assert_allclose(scan.grid.spacing_mm, (0.9, 1.1, 1), rtol=1e-6)
    assert scan.notes == ("the thickness of the slice is unknown; 1 mm is assumed",)


def test_gzip_is_detected_from_the_content(tmp_path: Path) -> None:
    content = nib.Nifti1Image(ARRAY, QFORM).to_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(content)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(content))
    (tmp_path / "UPPER.NII.GZ").write_bytes(gzip.compress(content))

    for name in ("plain.nii.gz", "packed.nii", "UPPER.NII.GZ"):
        scan = read_scan(tmp_path / name)
        np.testing.assert_array_equal(scan.array[0], ARRAY)
        assert scan.case == name.split(".")[0]


@pytest.mark.parametrize("endian", ["<", ">"])
def test_analyze_is_read_with_a_note_on_its_orientation(tmp_path: Path, endian: str) -> None:
    header = nib.AnalyzeHeader(endianness=endian)
    header.set_data_dtype(np.int16)
    header.set_data_shape(ARRAY.shape)
    header.set_zooms((0.9, 1.1, 2.5))
    (tmp_path / "x.hdr").write_bytes(header.binaryblock)
    (tmp_path / "x.img").write_bytes(ARRAY.astype(f"{endian}i2").tobytes(order="F"))

    scan = read_scan(tmp_path / "x.img")

    np.testing.assert_array_equal(scan.array[0], ARRAY)
    np.testing.assert_allclose(scan.affine, nib.load(tmp_path / "x.hdr").affine)
    (note,) = scan.notes
    assert note.startswith(
        "Analyze 7.5 headers store no orientation: left and right may be swapped; ITK-based programs"
    )
    write_nifti(tmp_path / "mask.nii.gz", ARRAY, scan.affine, like=scan.source)


OBLIQUE = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["mat", "M"])
def test_analyze_lies_where_the_matrix_of_spm_beside_it_states(tmp_path: Path, name: str) -> None:
    nib.save(Spm99AnalyzeImage(ARRAY, OBLIQUE), tmp_path / "x.img")
    if name == "M":  # of older versions, without the flip of left and right
        savemat(tmp_path / "x.mat", {"M": loadmat(tmp_path / "x.mat")["M"]}, format="4")

    scan = read_scan(tmp_path / "x.hdr")

    np.testing.assert_allclose(scan.affine, nib.load(tmp_path / "x.img").affine)
    np.testing.assert_allclose(scan.affine, OBLIQUE)
    assert any(".mat file of SPM" in note for note in scan.notes)


def test_a_matrix_of_another_program_beside_analyze_is_not_used(tmp_path: Path) -> None:
    nib.save(Spm99AnalyzeImage(ARRAY, OBLIQUE), tmp_path / "x.img")
    (tmp_path / "x.mat").unlink()
    expected = read_scan(tmp_path / "x.hdr").affine
    (tmp_path / "x.mat").write_text("1 0 0 5\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")  # FSL

    np.testing.assert_array_equal(read_scan(tmp_path / "x.hdr").affine, expected)


def test_one_file_of_a_pair_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ARRAY, QFORM), tmp_path / "x.hdr")
    (tmp_path / "x.img").rename(tmp_path / "y.img")

    for name, lacking in (("x.hdr", r"x\.img"), ("y.img", r"y\.hdr")):
        with pytest.raises(ScanError, match=f"Expected {lacking}"):
            read_scan(tmp_path / name)


@given(file=nifti_files())
def test_a_mask_has_all_geometry_fields_of_its_image(tmp_path_factory: pytest.TempPathFactory, file: ImageFile) -> None:
    folder = tmp_path_factory.mktemp("like")
    scan = read_scan(file.write(folder))

    write_nifti(folder / "mask.nii.gz", np.ones(scan.grid.shape, np.uint8), scan.affine, like=scan.source)

    written = nib.load(folder / "mask.nii.gz").header
    assert int(written["sizeof_hdr"]) == int(file.header["sizeof_hdr"])
    np.testing.assert_array_equal(written["pixdim"][:4], file.header["pixdim"][:4])
    for name in GEOMETRY_FIELDS:
        np.testing.assert_array_equal(written[name], file.header[name], name)
    np.testing.assert_array_equal(read_scan(folder / "mask.nii.gz").affine, scan.affine)


def differ(header: Any) -> None:
    header.set_qform(QFORM + np.array([[0, 0, 0, 15]] * 3 + [[0] * 4]), 1)
    header["sform_code"] = 4


def shear(header: Any) -> None:
    header["srow_x"][1] = 0.2


def drop_codes(header: Any) -> None:
    header["sform_code"] = header["qform_code"] = 0


@pytest.mark.parametrize("edit", [differ, shear, drop_codes, empty_sform, lambda h: h.set_xyzt_units("micron")])
def test_itk_places_a_mask_where_it_places_the_image(tmp_path: Path, edit: Callable[[Any], object]) -> None:
    image = write_edited(tmp_path / "x.nii", edit)
    scan = read_scan(image)

    write_nifti(tmp_path / "mask.nii.gz", np.ones(scan.grid.shape, np.uint8), scan.affine, like=scan.source)

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    a, b = (sitk.ReadImage(str(p)) for p in (image, tmp_path / "mask.nii.gz"))
    assert (a.GetOrigin(), a.GetSpacing(), a.GetDirection()) == (b.GetOrigin(), b.GetSpacing(), b.GetDirection())


def test_an_array_on_another_grid_is_placed_by_its_affine(tmp_path: Path) -> None:
    scan = read_scan(write_edited(tmp_path / "x.nii", lambda h: (differ(h), h.set_xyzt_units("meter"))))
    other = np.diag([2.0, 2, 2, 1])

    write_nifti(tmp_path / "y.nii", ARRAY, other, like=scan.source)

    back = nib.load(tmp_path / "y.nii")
    np.testing.assert_array_equal(back.affine, other)
    assert (back.header.get_xyzt_units()[0], int(back.header["sform_code"])) == ("mm", 4)


@pytest.mark.parametrize("factor", [1.0000005, 1.0004])
def test_a_quaternion_too_long_by_rounding_is_normalised_with_a_note(tmp_path: Path, factor: float) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header["qform_code"], header["pixdim"][:4] = 1, (1, 2, 3, 4)
    header["quatern_b"], header["quatern_c"] = 0.6 * factor, 0.8 * factor
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_data_dtype(np.int16)
    path = tmp_path / "x.nii"
    path.write_bytes(header.binaryblock + bytes(4) + bytes(240))

    scan = read_scan(path)

    half_turn = 2 * np.outer((0.6, 0.8, 0), (0.6, 0.8, 0)) - np.eye(3)  # about that axis
    np.testing.assert_allclose(scan.affine[:3, :3], half_turn * (2, 3, 4), atol=1e-5)
    image = sitk.ReadImage(str(path))
    by_itk = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() * np.array([[-1], [-1], [1]])
    np.testing.assert_allclose(scan.affine[:3, :3], by_itk, atol=1e-4)
    assert "the quaternion of the qform has length" in " ".join(scan.notes)


def test_an_invalid_sign_of_the_qform_is_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(np.eye(4), 1)
    content = bytearray(image.to_bytes())
    content[76:80] = np.float32(3).tobytes()
    (tmp_path / "x.nii").write_bytes(content)

    assert "pixdim[0] is 3, neither 1 nor -1; 1 is assumed" in read_scan(tmp_path / "x.nii").notes
