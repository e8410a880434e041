"""Further headers from public reports, compared with SimpleITK and with the values that were written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, TiffImagePlugin

from medhybrid.errors import ScanError
from medhybrid.scans import write_nifti
from medhybrid.scans.reader import read_scan

RNG = np.random.default_rng(0)
OBLIQUE = np.array([[1.433, -0.226, 0.262, -10], [0.443, 0.73, -0.847, 20], [0, 0.236, 2.866, -30], [0, 0, 0, 1.0]])


def itk_geometry(path: Path) -> tuple[tuple[float, ...], ...]:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()


# --- NIfTI ------------------------------------------------------------------------------------------------------------


IN_PLANE = np.array([[1.2, -0.5, 0, -10], [0.9, 0.66666667, 0, 20], [0, 0, 2, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("affine", [np.diag([1.5, 0.8, 3, 1.0]), np.diag([-1.5, -0.8, 3, 1.0]), IN_PLANE], ids=str)
def test_the_mask_of_an_image_of_two_axes_opens_where_its_image_opens(affine: np.ndarray, tmp_path: Path) -> None:
    affine = affine.copy()
    affine[2, 3] = 7
    nib.save(nib.Nifti1Image(RNG.integers(0, 99, (6, 5)).astype(np.int16), affine), tmp_path / "image.nii.gz")
    scan = read_scan(tmp_path / "image.nii.gz")

    write_nifti(tmp_path / "mask.nii.gz", np.ones((6, 5, 1), np.uint8), scan.affine, like=scan.source)

    assert nib.load(tmp_path / "mask.nii.gz").shape == (6, 5)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(tmp_path / "image.nii.gz").affine)
    assert itk_geometry(tmp_path / "mask.nii.gz") == itk_geometry(tmp_path / "image.nii.gz")
    assert read_scan(tmp_path / "mask.nii.gz").array.shape == (1, 6, 5, 1)


@pytest.mark.parametrize("has_qform", [True, False])
def test_a_negative_voxel_size_beside_an_sform_is_noted(has_qform: bool, tmp_path: Path) -> None:
    """ITK turns the axis also where only the sform gives the place."""
    image = nib.Nifti1Image(RNG.integers(0, 99, (6, 5, 4)).astype(np.int16), OBLIQUE)
    image.set_sform(OBLIQUE, 1)
    image.set_qform(OBLIQUE, 1 if has_qform else 0)
    content = bytearray(image.to_bytes())
    content[84:88] = np.float32(-0.8).tobytes()  # pixdim[2]
    (tmp_path / "a.nii").write_bytes(content)

    scan = read_scan(tmp_path / "a.nii")

    np.testing.assert_allclose(scan.affine, OBLIQUE, atol=1e-5)
    assert any(n.startswith("pixdim[2] is negative; the sform is used") for n in scan.notes)


@pytest.mark.parametrize(("name", "offset"), [("qform_code", 252), ("sform_code", 254)])
def test_an_invalid_form_code_beside_a_valid_one_is_noted(name: str, offset: int, tmp_path: Path) -> None:
    image = nib.Nifti1Image(RNG.integers(0, 99, (6, 5, 4)).astype(np.int16), np.diag([1, 1, 2, 1.0]))
    image.set_sform(np.diag([1, 1, 2, 1.0]), 2)
    image.set_qform(np.diag([1, 1, 2, 1.0]), 2)
    content = bytearray(image.to_bytes())
    content[offset : offset + 2] = np.int16(300).tobytes()
    (tmp_path / "a.nii").write_bytes(content)

    assert f"{name} is 300, which is not valid; 0 is used" in read_scan(tmp_path / "a.nii").notes


# --- NRRD and MetaImage -----------------------------------------------------------------------------------------------

SPACES = {
    "right-anterior-superior-time": False,
    "left-anterior-superior-time": False,
    "LAST": False,
    "RAST": False,
    "left-posterior-superior-time": True,
    "LPST": True,
}


@pytest.mark.parametrize(("space", "is_alike"), SPACES.items())
def test_a_space_with_time_that_itk_places_elsewhere_is_noted(space: str, is_alike: bool, tmp_path: Path) -> None:
    values = RNG.integers(0, 99, (2, 4, 5, 6)).astype("<i2")  # (time, z, y, x)
    text = (
        f"NRRD0004\ntype: short\ndimension: 4\nspace: {space}\nsizes: 6 5 4 2\n"
        "space directions: (1.5,0,0,0) (0,0.8,0,0) (0,0,3,0) (0,0,0,2)\nkinds: domain domain domain time\nendian: little\n"
        "encoding: raw\nspace origin: (-10,20,-30,0)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + values.tobytes())

    scan = read_scan(tmp_path / "a.nrrd")

    lps = np.diag([-1.0, -1, 1, 1]) @ scan.affine
    is_at_origin = bool(np.allclose(lps[:3, 3], sitk.ReadImage(str(tmp_path / "a.nrrd")).GetOrigin()[:3]))
    assert is_at_origin == is_alike
    assert any("take the space" in n for n in scan.notes) == (not is_alike)


@pytest.mark.parametrize("name", ["LIST", "LIST 2D", "LIST 3", "slice%03d.raw 0 4 1", "slice%.3d.raw 0 4 1"])
def test_values_in_several_files_are_named_as_such(name: str, tmp_path: Path) -> None:
    text = f"ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementDataFile = {name}\n"
    (tmp_path / "a.mhd").write_text(text)

    with pytest.raises(ScanError, match="values in several files"):
        read_scan(tmp_path / "a.mhd")


# --- TIFF -------------------------------------------------------------------------------------------------------------

PLANES = RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8)  # (page, y, x)


def write_ome(path: Path, assigned: str, *, n_slices: int = 4) -> Path:
    """Write `PLANES` as pages of a TIFF with OME metadata."""
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        f'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="6" SizeY="5" SizeZ="{n_slices}" SizeC="1" SizeT="1">'
        f"{assigned}</Pixels></Image></OME>"
    )
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = text
    first, *others = (Image.fromarray(p) for p in PLANES)
    first.save(path, save_all=True, append_images=others, tiffinfo=info)
    return path


def tiff_data(order: list[int]) -> str:
    return "".join(f'<TiffData IFD="{page}" FirstZ="{z}" PlaneCount="1"/>' for z, page in enumerate(order))


@pytest.mark.parametrize("assigned", ["", "<TiffData/>", '<TiffData IFD="0" PlaneCount="4"/>', tiff_data([0, 1, 2, 3])])
def test_slices_of_ome_in_the_order_of_the_pages_are_read(assigned: str, tmp_path: Path) -> None:
    scan = read_scan(write_ome(tmp_path / "a.ome.tif", assigned))

    np.testing.assert_array_equal(scan.array[0], PLANES.T)


@pytest.mark.parametrize(
    ("assigned", "n_slices", "found"),
    [
        (tiff_data([3, 2, 1, 0]), 4, "slices in another order"),
        (tiff_data([1, 0, 2, 3]), 4, "slices in another order"),
        ('<TiffData IFD="1" FirstZ="0" PlaneCount="3"/>', 3, "4 pages, of which its metadata list 3"),
        ("<TiffData/>", 2, "4 pages, of which its metadata list 2"),
    ],
)
def test_slices_of_ome_in_another_order_or_selection_are_refused(
    assigned: str, n_slices: int, found: str, tmp_path: Path
) -> None:
    with pytest.raises(ScanError, match=found):
        read_scan(write_ome(tmp_path / "a.ome.tif", assigned, n_slices=n_slices))


def test_a_bigtiff_of_big_endian_order_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"MM\0+\0\x08\0\0" + bytes(8))

    with pytest.raises(ScanError, match="a BigTIFF of big-endian byte order"):
        read_scan(tmp_path / "a.tif")
