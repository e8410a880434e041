"""Tests of the common reader for all formats, also in MONAI's transforms."""

import gzip
from pathlib import Path

import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage

from medhybrid.errors import ScanError, SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.monai_reader import ScanReader
from medhybrid.scans.reader import read_scan, stack_channels
from tests.synthetic import AFFINE, SHAPE, blob_case, save_nifti


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # MONAI also registers its own readers
def test_monai_loads_scans_with_the_reader(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    path = save_nifti(tmp_path / "x.nii.gz", image.astype(np.float32))

    loaded = LoadImage(reader=ScanReader(), image_only=True, ensure_channel_first=False)(str(path))

    assert tuple(loaded.shape) == (1, *SHAPE)
    np.testing.assert_allclose(np.asarray(loaded.affine), AFFINE)


def test_a_dicom_series_and_a_nifti_file_of_one_volume_agree(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    write_mr_series(tmp_path / "series", image, AFFINE, description="T1", study="s", case="c")

    dicom, file = read_scan(tmp_path / "series"), read_scan(save_nifti(tmp_path / "x.nii.gz", image))

    # axes may be reversed, so world positions are compared
    from medhybrid.geometry import turn_to_ras

    a, b = turn_to_ras(dicom.affine), turn_to_ras(file.affine)
    np.testing.assert_array_equal(a.apply(dicom.array), b.apply(file.array))
    np.testing.assert_allclose(a.grid(dicom.grid).affine, b.grid(file.grid).affine, atol=1e-4)


def test_a_missing_channel_becomes_zeros_and_is_noted(tmp_path: Path) -> None:
    one = read_scan(save_nifti(tmp_path / "a.nii.gz", blob_case(0)[0]))

    scan = stack_channels([None, one], ["T1", "FLAIR"], case="x")

    assert not scan.array[0].any()
    assert scan.notes == ("channel T1 is missing",)


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 2
    scans = [
        read_scan(save_nifti(tmp_path / "a.nii.gz", blob_case(0)[0])),
        read_scan(save_nifti(tmp_path / "b.nii.gz", blob_case(0)[0], moved)),
    ]

    with pytest.raises(ScanError, match="channel FLAIR has another grid"):
        stack_channels(scans, ["T1", "FLAIR"], case="x")


def test_a_folder_with_two_series_is_refused(tmp_path: Path) -> None:
    for name in ("T1", "T2"):
        paths = write_mr_series(tmp_path / name, blob_case(0)[0], AFFINE, description=name, study="s", case="c")
        for path in paths:
            path.rename(tmp_path / f"{name}_{path.name}")

    with pytest.raises(ScanError, match="one DICOM image series"):
        read_scan(tmp_path)


APPLE_DOUBLE = bytes.fromhex("00051607000200004d6163204f532058") + bytes(200)


def test_hidden_files_of_a_folder_are_not_read(tmp_path: Path) -> None:
    image, _ = blob_case(0)
    for path in write_mr_series(tmp_path / "in", image, AFFINE, description="T1", study="s", case="c"):
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)

    assert read_scan(tmp_path / "in").array.shape == (1, *image.shape)


@pytest.mark.parametrize(
    ("sop_class", "rows"),
    [("1.3.12.2.1107.5.9.1", None), ("1.3.46.670589.11.0.0.12.2", 4), ("1.2.840.10008.5.1.4.1.1.4.2", 4)],
)
@pytest.mark.parametrize("is_same_series", [True, False])
def test_an_object_without_pixels_is_skipped(
    is_same_series: bool, sop_class: str, rows: int | None, tmp_path: Path
) -> None:
    image, _ = blob_case(0)
    paths = write_mr_series(tmp_path / "in", image, AFFINE, description="T1", study="s", case="c")
    d = pydicom.dcmread(paths[0])
    for name in ("PixelData", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "Rows", "Columns"):
        delattr(d, name)
    if rows:
        d.Rows = d.Columns = rows
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = sop_class
    d.SOPInstanceUID = "1.2.3.4"
    if not is_same_series:
        d.SeriesInstanceUID = "1.2.3"
    d.save_as(tmp_path / "in" / "x.dcm")

    assert read_scan(tmp_path / "in").array.shape == (1, *image.shape)
    assert [e.problem for e in discover(tmp_path).entries if not e.skip_reason] == [""]
    assert [e.skip_reason for e in discover(tmp_path).entries if e.skip_reason] == (
        [] if is_same_series else ["no image"]
    )


def test_a_folder_whose_series_lies_one_folder_deeper_is_refused_with_its_place(tmp_path: Path) -> None:
    series = tmp_path / "patient" / "study" / "series"
    write_mr_series(series, np.zeros((4, 5, 6), np.uint16), np.eye(4), description="T1", study="s", case="c")
    (tmp_path / "patient" / "LICENSE").write_text("text")

    with pytest.raises(SeriesError, match="files in study/series") as caught:
        read_scan(tmp_path / "patient")

    assert caught.value.code == "no_dicom"


def test_a_folder_of_several_image_files_is_refused_with_their_number(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / f"{name}.nii.gz", np.zeros((4, 5, 6), np.uint8))

    with pytest.raises(SeriesError, match="2 image files"):
        read_scan(tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.mgz", "convert it to NIfTI"),
        ("a.nii.bz2", "unpack it"),
        ("a.tar.gz", "unpack it"),
        ("a.dcm.gz", "unpack it"),
        ("a.ZIP", "unpack it"),
        ("a.webp", "convert it to PNG"),
        ("a.npz", "the format NumPy is not read"),
    ],
)
def test_a_file_in_a_format_without_a_reader_is_refused_with_what_to_do(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"content")

    with pytest.raises(ScanError, match=remedy) as caught:
        read_scan(tmp_path / name)

    assert "remove" not in str(caught.value).lower()


def test_dicom_in_gzip_is_refused_with_what_to_do_under_any_name(tmp_path: Path) -> None:
    for folder, name in (("a", "x.dcm"), ("b", "x.dcm.gz")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(gzip.compress(b"content"))

        with pytest.raises(SeriesError, match=r"(?i)unpack it"):
            read_scan(tmp_path / folder)
