"""Tests of unusual headers of image files, compared with the stored values and with nibabel or SimpleITK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.spm99analyze import Spm99AnalyzeHeader
from PIL import Image

from medhybrid.errors import ScanError
from medhybrid.geometry import spacing_mm
from medhybrid.scans import discover
from medhybrid.scans.raster import UNKNOWN_DISTANCE, has_known_size
from medhybrid.scans.reader import read_label_scan, read_scan
from medhybrid.scans.tiff_values import CALIBRATED
from tests.scans.test_itk import LPS, META, PLACE, RAW, write_meta, write_nrrd
from tests.scans.test_raster import imagej, in_rows, ome

ARRAY = np.arange(24, dtype=np.int16).reshape(4, 3, 2)

# --- Analyze and NIfTI --------------------------------------------------------------------------------------------


def write_analyze(folder: Path, endian: str = "<", **fields: float) -> Path:
    """Write a pair of Analyze 7.5 of stored values, with further fields of its header."""
    header = Spm99AnalyzeHeader(endianness=endian)
    header.set_data_dtype(np.int16)
    header.set_data_shape(ARRAY.shape)
    header.set_zooms((0.9, 1.1, 2.5))
    header["scl_slope"] = 0  # other programs than SPM leave it empty
    for name, value in fields.items():
        header[name] = value
    (folder / "x.hdr").write_bytes(header.binaryblock)
    (folder / "x.img").write_bytes(ARRAY.astype(f"{endian}i2").tobytes(order="F"))
    return folder / "x.hdr"


DISPLAY = {"cal_min": 10.0, "cal_max": 100.0, "glmin": 0, "glmax": 23}


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(
    "fields", [DISPLAY, {"cal_max": 1.0, "glmax": 4095}, {"scl_slope": np.nan, **DISPLAY}], ids=str
)
def test_ranges_for_display_do_not_change_the_values_of_analyze(
    fields: dict[str, float], endian: str, tmp_path: Path
) -> None:
    path = write_analyze(tmp_path, endian, **fields)

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array[0], ARRAY)
    assert scan.array.dtype == np.int16
    np.testing.assert_array_equal(in_rows(scan.array), sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("fields", [{}, DISPLAY], ids=["alone", "beside_ranges"])
def test_the_scale_factor_of_spm_changes_the_values_of_analyze(fields: dict[str, float], tmp_path: Path) -> None:
    path = write_analyze(tmp_path, scl_slope=0.25, **fields)

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array[0], ARRAY * 0.25)
    np.testing.assert_array_equal(scan.array[0], nib.load(path).get_fdata())


@pytest.mark.parametrize("dim", [(4, 4, 3, 2, 0), (5, 4, 3, 2, 0, 0), (7, 4, 3, 2, 1, 0, 0, 0)], ids=str)
@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header], ids=["nifti_1", "nifti_2"])
def test_a_length_of_0_of_an_axis_after_the_third_is_1(kind: type, dim: tuple[int, ...], tmp_path: Path) -> None:
    header = kind()
    header.set_data_dtype(np.int16)
    header.set_data_shape(ARRAY.shape)
    header.set_sform(np.diag([2.0, 2, 3, 1]), 1)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["dim"] = [*dim, *[0] * (8 - len(dim))]
    padding = bytes(int(header.single_vox_offset) - len(header.binaryblock))
    (tmp_path / "x.nii").write_bytes(header.binaryblock + padding + ARRAY.tobytes(order="F"))

    scan = read_scan(tmp_path / "x.nii")

    np.testing.assert_array_equal(scan.array[0], ARRAY)
    np.testing.assert_array_equal(scan.affine, np.diag([2.0, 2, 3, 1]))
    assert [e.shape for e in discover(tmp_path).entries] == [ARRAY.shape]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_length_of_0_of_an_axis_in_space_is_refused(axis: int, tmp_path: Path) -> None:
    content = bytearray(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes())
    content[40 + 2 * axis : 42 + 2 * axis] = bytes(2)
    (tmp_path / "x.nii").write_bytes(content)

    with pytest.raises(ScanError, match="is not a volume"):
        read_scan(tmp_path / "x.nii")


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("x.Hdr", "x.Img"),
        ("x.hdr", "x.Img"),
        ("x.HDR", "x.Img"),
        ("x.hdr", "x.Img.gz"),
        ("x.Hdr", "x.IMG"),
        ("X.hdr", "x.img"),
    ],
)
def test_a_pair_is_found_in_upper_and_lower_case(header: str, values: str, tmp_path: Path) -> None:
    suffix = ".img.gz" if values.lower().endswith(".gz") else ".img"
    nib.save(nib.Nifti1Pair(ARRAY, np.diag([2.0, 2, 3, 1])), tmp_path / f"a{suffix}")
    written = next(p for p in tmp_path.iterdir() if ".hdr" in p.name)
    (tmp_path / f"a{suffix}").rename(tmp_path / values)
    written.rename(tmp_path / (header + (".gz" if written.name.endswith(".gz") else "")))

    found = discover(tmp_path).entries

    np.testing.assert_array_equal(read_scan(tmp_path / values).array[0], ARRAY)
    assert [(e.shape, e.problem) for e in found] == [(ARRAY.shape, "")]


def test_one_of_several_files_that_differ_in_case_is_not_chosen(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ARRAY, np.eye(4)), tmp_path / "x.hdr")
    content = (tmp_path / "x.img").read_bytes()
    (tmp_path / "x.img").unlink()
    for name in ("X.img", "x.Img"):
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ScanError, match="a header without its values"):
        read_scan(tmp_path / "x.hdr")


# --- NRRD and MetaImage -------------------------------------------------------------------------------------------

UNPLACED = {"space": None, "space directions": None, "space origin": None}


@pytest.mark.parametrize("text", ["1,2,3", "1, 2, 3", "1 ,2 , 3", "1 2 3,", "1\t2\t3"])
def test_commas_between_numbers_of_nrrd_separate_them(text: str, tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "x.nrrd", UNPLACED | {"spacings": text})

    scan = read_scan(path)

    np.testing.assert_allclose(scan.affine, LPS @ np.diag([1, 2, 3, 1]))
    np.testing.assert_array_equal(scan.array[0].ravel(order="F"), RAW)


def test_a_comma_does_not_hide_a_missing_number(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="spacings"):
        read_scan(write_nrrd(tmp_path / "x.nrrd", UNPLACED | {"spacings": "1,2"}))


@pytest.mark.parametrize("unit", ["pixel", "pixels", "Pixel"])
def test_a_pixel_as_unit_of_nrrd_is_noted_as_1_mm(unit: str, tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "x.nrrd", {"space units": f'"{unit}" "{unit}" "{unit}"'})

    scan = read_scan(path)

    np.testing.assert_allclose(scan.affine, PLACE)
    np.testing.assert_allclose(sitk.ReadImage(str(path)).GetSpacing(), spacing_mm(scan.affine))
    assert scan.notes == ("its unit of length is a pixel: 1 mm is assumed for each unit",)


def with_frames(n_bytes: int) -> dict[str, str | None]:
    """Return fields of a MetaImage header of at least that many bytes, as of a tracked sequence."""
    matrix = " ".join(["0.123456789"] * 16)
    line = len(f"Seq_Frame000000_ProbeToTrackerTransform = {matrix}\n")
    return {f"Seq_Frame{n:06d}_ProbeToTrackerTransform": matrix for n in range(n_bytes // line + 1)}


@pytest.mark.parametrize("n_bytes", [1 << 16, 1 << 20, 3 << 20])
def test_a_long_header_of_metaimage_is_read(n_bytes: int, tmp_path: Path) -> None:
    path = write_meta(tmp_path / "x.mha", with_frames(n_bytes))

    scan = read_scan(path)

    np.testing.assert_array_equal(in_rows(scan.array), sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    np.testing.assert_allclose(scan.affine, PLACE)


def test_a_header_of_metaimage_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = write_meta(tmp_path / "x.mha", with_frames(1 << 24))

    with pytest.raises(ScanError, match="no end of the header"):
        read_scan(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("n_before", range(-1, 8))
def test_a_header_of_metaimage_may_end_at_any_byte(n_before: int, end: str, tmp_path: Path) -> None:
    size = (1 << 16) + n_before
    last = "".join(f"{k} = {v}{end}" for k, v in META.items())
    frames = "".join(f"{k} = {v}{end}" for k, v in with_frames(size - 2000).items())[: size - 1000]
    frames = frames[: frames.rindex(end) + len(end)]
    filled = "Seq_Note = "
    filled += "x" * (size - len(frames) - len(last) - len(filled) - len(end)) + end
    content = (frames + filled + last).encode()
    assert len(content) == size
    (tmp_path / "x.mha").write_bytes(content + RAW.tobytes())

    scan = read_scan(tmp_path / "x.mha")

    np.testing.assert_array_equal(scan.array[0].ravel(order="F"), RAW)


# --- TIFF ---------------------------------------------------------------------------------------------------------

GREY = np.arange(54, dtype=np.uint8).reshape(6, 9)  # (Y, X)


def write_tiff(path: Path, pages: list[np.ndarray], **options: Any) -> Path:
    first, *others = [Image.fromarray(p) for p in pages]
    first.save(path, save_all=True, append_images=others, **options)
    return path


IN_UNITS = {"x_resolution": 4.0, "y_resolution": 4.0}

WITHOUT_DISTANCE: dict[str, tuple[dict[str, Any], float]] = {
    "dpi": ({"resolution_unit": 3, "x_resolution": 50.0, "y_resolution": 50.0}, 0.2),
    "ImageJ": ({"description": imagej(unit="mm", images=3, slices=3), **IN_UNITS}, 0.25),
    "OME": ({"description": ome("mm").encode()}, 0.65),
}


@pytest.mark.parametrize("name", WITHOUT_DISTANCE)
@pytest.mark.parametrize("n_pages", [1, 3])
def test_a_distance_of_pages_that_is_not_stated_is_noted_for_a_stack(name: str, n_pages: int, tmp_path: Path) -> None:
    options, size = WITHOUT_DISTANCE[name]
    if name == "ImageJ" and n_pages == 1:
        options = {**options, "description": imagej(unit="mm")}
    path = write_tiff(tmp_path / "a.tif", [GREY] * n_pages, **options)

    scan = read_scan(path)

    np.testing.assert_allclose(spacing_mm(scan.affine), (size, size, 1.0), rtol=1e-6)
    assert has_known_size(scan)
    assert (UNKNOWN_DISTANCE in scan.notes) == (n_pages > 1)


STATED: dict[str, tuple[dict[str, Any], float]] = {
    "ImageJ": ({"description": imagej(unit="mm", images=3, slices=3, spacing=2), **IN_UNITS}, 2.0),
    "OME": (
        {"description": ome("mm").replace("/></Image>", ' PhysicalSizeZ="3" PhysicalSizeZUnit="mm"/></Image>')},
        3.0,
    ),
}


@pytest.mark.parametrize("name", STATED)
def test_a_stated_distance_of_pages_has_no_note(name: str, tmp_path: Path) -> None:
    options, distance = STATED[name]

    scan = read_scan(write_tiff(tmp_path / "a.tif", [GREY] * 3, **options))

    assert spacing_mm(scan.affine)[2] == pytest.approx(distance)
    assert UNKNOWN_DISTANCE not in scan.notes


def line(offset: float, factor: float, cf: int = 0) -> str:
    return imagej(cf=cf, c0=offset, c1=factor, vunit="HU")


CALIBRATIONS: dict[str, tuple[np.ndarray, float, float, type]] = {
    "signed": (GREY.astype(np.uint16) * 900, -32768.0, 1.0, np.int32),
    "hounsfield": (GREY.astype(np.uint16), -1024.0, 1.0, np.int32),
    "factor": (GREY, 0.0, 0.5, np.float32),
    "both": (GREY.astype(np.uint16), -3.5, 2.0, np.float32),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
@pytest.mark.parametrize("n_pages", [1, 3])
def test_the_calibration_of_imagej_is_applied_to_images_and_not_to_labels(
    name: str, n_pages: int, tmp_path: Path
) -> None:
    array, offset, factor, kind = CALIBRATIONS[name]
    pages = [array + n for n in range(n_pages)]
    path = write_tiff(tmp_path / "a.tif", pages, description=line(offset, factor))

    image, labels = read_scan(path), read_label_scan(path)

    np.testing.assert_array_equal(in_rows(image.array), np.array(pages, np.float64) * factor + offset)
    np.testing.assert_array_equal(in_rows(labels.array), pages)
    assert image.array.dtype == kind
    assert labels.array.dtype == array.dtype
    assert CALIBRATED in image.notes


@pytest.mark.parametrize(
    "description",
    [
        line(5, 2, cf=3),
        line(0, 1),
        line(5, 0),
        line(float("nan"), 1),
        imagej(cf=0, c0=5),
        "cf=0\nc0=5\nc1=2\n",
        imagej(cf=0, c0="five", c1=2),
    ],
    ids=["another_curve", "no_change", "no_factor", "no_number", "no_slope", "another_program", "a_word"],
)
def test_other_calibrations_leave_the_stored_values(description: str, tmp_path: Path) -> None:
    scan = read_scan(write_tiff(tmp_path / "a.tif", [GREY], description=description))

    np.testing.assert_array_equal(in_rows(scan.array)[0], GREY)
    assert scan.array.dtype == np.uint8
    assert CALIBRATED not in scan.notes


READERS: list[Callable[[Path], Any]] = [read_scan, read_label_scan]


@pytest.mark.parametrize("read", READERS)
def test_the_calibration_of_imagej_does_not_change_colours(read: Callable[[Path], Any], tmp_path: Path) -> None:
    colours = np.stack([GREY, GREY, GREY], axis=-1)
    path = write_tiff(tmp_path / "a.tif", [colours], description=line(5, 2))

    np.testing.assert_array_equal(read(path).array[0, ..., 0].T, GREY)
