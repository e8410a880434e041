"""Radiographs (CR, DX) have no position: each is a scan of one slice, with a segmentation on its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.layouts import Case, Files
from medhybrid.data.load import load_image, load_mask
from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.frames import CAPTURED, NO_PIXEL_SIZE, NO_PIXEL_WIDTH
from medhybrid.scans.dicom.references import read_masks
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.reader import read_scan

CLASSES = {"DX": "1.2.840.10008.5.1.4.1.1.1.1", "CR": "1.2.840.10008.5.1.4.1.1.1"}
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PIXELS = np.arange(5 * 8, dtype=np.uint16).reshape(5, 8)  # (Y, X)
SERIES, STUDY = generate_uid(), generate_uid()


def write_radiograph(path: Path, *, modality: str = "DX", number: int = 1, **values: Any) -> Path:
    """Write a radiograph with pydicom."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CLASSES[modality]
    meta.MediaStorageSOPInstanceUID = generate_uid()
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.SeriesInstanceUID, d.StudyInstanceUID, d.Modality = SERIES, STUDY, modality
    d.PatientID, d.PatientName, d.StudyDate = "p", "a^b", "20200101"
    d.InstanceNumber, d.Rows, d.Columns = number, *PIXELS.shape
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 0
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, 12, 11
    d.PixelData = PIXELS.tobytes()
    for name, value in values.items():
        setattr(d, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("modality", CLASSES)
def test_a_radiograph_is_a_scan_of_one_slice(tmp_path: Path, modality: str) -> None:
    write_radiograph(tmp_path / "x" / "a.dcm", modality=modality, ImagerPixelSpacing=[0.2, 0.1])

    scan = read_scan(tmp_path / "x")

    np.testing.assert_array_equal(scan.array[0, :, :, 0].T, PIXELS)
    np.testing.assert_allclose(scan.affine, np.diag([-0.1, -0.2, 1, 1]))
    assert any("ImagerPixelSpacing" in note for note in scan.notes)


def test_the_calibrated_pixel_size_comes_first_and_a_missing_one_is_noted(tmp_path: Path) -> None:
    both = read_scan(write_radiograph(tmp_path / "a.dcm", PixelSpacing=[0.3, 0.3], ImagerPixelSpacing=[0.4, 0.4]))
    none = read_scan(write_radiograph(tmp_path / "b.dcm"))

    ratio = read_scan(write_radiograph(tmp_path / "c.dcm", PixelAspectRatio=["2", "1"]))

    assert ratio.grid.spacing_mm == (1.0, 2.0, 1.0)
    assert NO_PIXEL_WIDTH in ratio.notes
    assert both.grid.spacing_mm == pytest.approx((0.3, 0.3, 1.0))
    assert not both.notes
    assert none.grid.spacing_mm == (1.0, 1.0, 1.0)
    assert NO_PIXEL_SIZE in none.notes


def test_a_radiograph_as_secondary_capture_is_a_scan_unless_text_is_burned_in(tmp_path: Path) -> None:
    capture = {"SOPClassUID": CAPTURE, "modality": "CR", "PixelSpacing": [0.2, 0.1]}
    write_radiograph(tmp_path / "a" / "a.dcm", **capture)
    write_radiograph(tmp_path / "b" / "b.dcm", **capture, SeriesInstanceUID=generate_uid(), BurnedInAnnotation="YES")

    a, b = discover(tmp_path).entries
    scan = read_scan(tmp_path / "a")
    write_seg(tmp_path / "seg.dcm", (PIXELS.T[..., None] > 20).astype(np.uint8), scan, SegInfo({"lung": 1}, "0"))

    assert (a.problem, a.skip_reason, b.skip_reason) == ("", "", "secondary capture")
    assert CAPTURED in scan.notes
    np.testing.assert_allclose(scan.affine, np.diag([-0.1, -0.2, 1, 1]))
    reference = pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert reference.ReferencedSOPClassUID == CAPTURE


@pytest.mark.parametrize(
    "values",
    [
        {"ImagePositionPatient": None, "ImageOrientationPatient": None},
        {"ImagePositionPatient": [1, 2, 3]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
    ],
    ids=["empty", "position only", "orientation only"],
)
def test_an_empty_or_incomplete_place_is_none(tmp_path: Path, values: dict[str, Any]) -> None:
    scan = read_scan(write_radiograph(tmp_path / "a.dcm", PixelSpacing=[0.2, 0.1], **values))
    mask = (PIXELS.T[..., None] > 20).astype(np.uint8)
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"lung": 1}, "0"))

    np.testing.assert_allclose(scan.affine, np.diag([-0.1, -0.2, 1, 1]))
    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["lung"])["lung"], mask)


def test_several_radiographs_of_a_series_are_separate_scans(tmp_path: Path) -> None:
    for n in (2, 1):
        write_radiograph(tmp_path / f"{n}.dcm", number=n)

    entries = discover(tmp_path).entries

    assert [(e.part, e.paths[0].name, e.problem) for e in entries] == [
        ("image_1", "1.dcm", ""),
        ("image_2", "2.dcm", ""),
    ]


def test_radiographs_of_one_folder_have_the_names_of_their_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_radiograph(tmp_path / f"{name}.dcm", SeriesInstanceUID=generate_uid())
    write_radiograph(tmp_path / "study" / "c.dcm", SeriesInstanceUID=generate_uid())

    assert [e.name for e in discover(tmp_path).entries] == ["a", "b", "study"]


def test_its_segmentation_has_its_pixels_and_no_position(tmp_path: Path) -> None:
    scan = read_scan(write_radiograph(tmp_path / "a.dcm", ImagerPixelSpacing=[0.2, 0.1]))
    mask = np.zeros((8, 5, 1), np.uint8)
    mask[1:4, 2:4], mask[5:8, 0] = 1, 4

    sources = write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"lung": 1, "heart": 4}, "0"))
    write_report(tmp_path / "sr.dcm", tmp_path / "seg.dcm", sources, [RegionMeasure("lung", 0, 1.0, 2.0)], {})

    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(seg.pixel_array.reshape(-1, 5, 8)[0], (mask == 1)[..., 0].T)
    assert "FrameOfReferenceUID" not in seg
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    found = read_masks(tmp_path / "seg.dcm", scan, ["lung", "heart"])
    np.testing.assert_array_equal(found["lung"] + 4 * found["heart"], mask)


def test_a_png_is_the_mask_of_a_radiograph(tmp_path: Path) -> None:
    labels = (PIXELS % 3).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "m.png")
    path = write_radiograph(tmp_path / "a.dcm", ImagerPixelSpacing=[0.2, 0.1])
    data = DataConfig.model_validate({"channels": [{"name": "DX"}], "labels": {"a": 1, "b": 2}})
    case = Case("a", "a", (Files((path,)),), Files((tmp_path / "m.png",)))

    image = load_image(case, data, ScansConfig())
    mask = load_mask(case, image, data, ScansConfig())

    np.testing.assert_array_equal(mask.array[0, :, :, 0].T, labels)
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_a_slice_without_a_place_among_others_is_refused(tmp_path: Path) -> None:
    for n in range(4):
        place = {"ImagePositionPatient": [0, 0, n - 2], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        write_radiograph(tmp_path / f"{n}.dcm", number=n, PixelSpacing=[1, 1], **({} if n == 2 else place))

    with pytest.raises(SeriesError, match=r"2.dcm has no position or orientation") as caught:
        read_scan(tmp_path)
    assert caught.value.code == "no_geometry"
