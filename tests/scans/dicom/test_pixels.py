"""Tests of pixel reading against pydicom's decoding and rescaling."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
)

from medhybrid.errors import SeriesError
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

SHAPE = (9, 6, 3)


def rewrite(folder: Path, **changes: object) -> list[Path]:
    """Write a series of random bytes, with `changes` in its headers."""
    paths = write_mr_series(folder, np.zeros(SHAPE, np.uint16), np.eye(4), description="T1", study="s", case="c")
    rng = np.random.default_rng(0)
    for path in paths:
        d = pydicom.dcmread(path)
        for name, value in changes.items():
            setattr(d, name, value)
        d.HighBit = d.BitsStored - 1
        d.PixelData = rng.bytes(d.Rows * d.Columns * d.BitsAllocated // 8)
        d["PixelData"].VR = "OW"
        d.save_as(path)
    return paths


def by_pydicom(paths: list[Path]) -> np.ndarray:
    """Return values (X, Y, Z) decoded by pydicom and rescaled in float64."""
    slices = []
    for path in paths:
        d = pydicom.dcmread(path)
        slices.append(d.pixel_array.astype(float) * float(d.RescaleSlope) + float(d.RescaleIntercept))
    return np.stack(slices).transpose(2, 1, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bits=st.sampled_from([8, 16, 32]),
    unused=st.integers(0, 7),
    signed=st.booleans(),
    slope=st.sampled_from([1, 2, -1, 0.5, 1.25]),
    intercept=st.sampled_from([0, -1024, 1000, 0.5]),
)
def test_uncompressed_pixels_agree_with_pydicom(
    tmp_path: Path, bits: int, unused: int, signed: bool, slope: float, intercept: float
) -> None:
    paths = rewrite(
        tmp_path / f"{bits}-{unused}-{signed}",
        BitsAllocated=bits,
        BitsStored=bits - unused,
        PixelRepresentation=int(signed),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )

    scan = read_scan(paths[0].parent)

    np.testing.assert_allclose(scan.array[0].astype(float), by_pydicom(paths), rtol=1e-6)


@pytest.mark.parametrize(
    ("stored", "signed", "slope", "intercept", "kind"),
    [
        (12, 0, 1, -1024, np.int16),
        (16, 0, 1, 0, np.uint16),
        (16, 1, 1, 0, np.int16),
        (16, 0, 1, -1024, np.float32),  # 65535 - 1024 is beyond int16
        (12, 0, 1.5, 0, np.float32),
        (12, 0, 100, 0, np.float32),
    ],
)
def test_integers_keep_an_integer_type_if_their_range_allows_it(
    tmp_path: Path, stored: int, signed: int, slope: float, intercept: float, kind: type
) -> None:
    paths = rewrite(
        tmp_path / "s", BitsStored=stored, PixelRepresentation=signed, RescaleSlope=slope, RescaleIntercept=intercept
    )

    scan = read_scan(paths[0].parent)

    assert scan.array.dtype == kind
    np.testing.assert_allclose(scan.array[0].astype(float), by_pydicom(paths), rtol=1e-6)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_large_images_are_read_from_every_uncompressed_encoding(tmp_path: Path, syntax: str) -> None:
    """Read images that are large enough for deferred reading of pixels."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4000, (150, 120, 2)).astype(np.uint16)
    paths = write_mr_series(tmp_path / "s", values, np.eye(4), description="T1", study="s", case="c")
    for path in paths:
        d = pydicom.dcmread(path)
        pixels = d.pixel_array
        d.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            d.PixelData = pixels.astype(">u2").tobytes()
        pydicom.dcmwrite(
            path,
            d,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            force_encoding=True,
        )

    scan = read_scan(paths[0].parent)

    np.testing.assert_array_equal(scan.array[0], values)


def test_only_stored_bits_are_used_of_a_stream_with_more_bits(tmp_path: Path) -> None:
    paths = rewrite(tmp_path / "s", RescaleSlope=8, RescaleIntercept=-1024)
    values = np.random.default_rng(1).integers(0, 60_000, (3, SHAPE[1], SHAPE[0])).astype(np.uint16)
    for path, plane in zip(paths, values, strict=True):
        d = pydicom.dcmread(path)
        d.PixelData = encapsulate([imagecodecs.jpegls_encode(plane)])
        d["PixelData"].VR = "OB"
        d.file_meta.TransferSyntaxUID = JPEGLSLossless
        d.BitsStored, d.HighBit = 12, 11
        d.save_as(path)

    scan = read_scan(paths[0].parent)

    np.testing.assert_allclose(scan.array[0], (values % 4096).transpose(2, 1, 0) * 8.0 - 1024)
    assert "bits above BitsStored are set; they are not part of the values" in scan.notes


def test_pixels_that_start_above_the_lowest_bit_are_refused(tmp_path: Path) -> None:
    paths = rewrite(tmp_path / "s", RescaleSlope=1, RescaleIntercept=0)
    for path in paths:
        d = pydicom.dcmread(path)
        d.BitsStored, d.HighBit = 12, 15
        d.PixelData = (np.full(SHAPE[0] * SHAPE[1], 1000, np.uint16) << 4).tobytes()
        d.save_as(path)

    with pytest.raises(SeriesError, match="HighBit 11, found HighBit 15"):
        read_scan(paths[0].parent)

    for path in paths:  # a wrong HighBit in the header, with correct pixels
        d = pydicom.dcmread(path)
        d.PixelData = np.full(SHAPE[0] * SHAPE[1], 1000, np.uint16).tobytes()
        d.save_as(path)
    assert (read_scan(paths[0].parent).array == 1000).all()


def test_a_scan_does_not_need_its_files_after_reading(tmp_path: Path) -> None:
    paths = rewrite(tmp_path / "s", RescaleSlope=1, RescaleIntercept=0)
    for path in paths:
        d = pydicom.dcmread(path)
        d.add_new(0x00091010, "OB", bytes(50_000))
        d.save_as(path)
    scan = read_scan(paths[0].parent)
    for path in paths:
        path.unlink()

    write_seg(tmp_path / "seg.dcm", np.ones(SHAPE, np.uint8), scan, SegInfo({"x": 1}, "0"))


def test_jpeg_of_12_bits_is_decoded(tmp_path: Path) -> None:
    d = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = CTImageStorage
    d.Modality, d.PixelSpacing = "CT", [1, 1]
    d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    d.save_as(tmp_path / "a.dcm")

    array = read_scan(tmp_path / "a.dcm").array

    assert array.shape == (1, 256, 1024, 1)
    # values that pydicom's documentation gives for this file
    assert (array[0, 140, 420, 0], array[0, 120, 230, 0]) == (244, 95)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
@pytest.mark.parametrize("n_bits", [8, 12, 16])
def test_a_jpeg_of_8_bits_is_read_whatever_the_header_states(tmp_path: Path, syntax: str, n_bits: int) -> None:
    grey = np.linspace(0, 187, 16 * 20).reshape(16, 20).astype(np.uint8)
    (path,) = write_mr_series(
        tmp_path, np.zeros((20, 16, 1), np.uint16), np.eye(4), description="T1", study="s", case="c"
    )
    d = pydicom.dcmread(path)
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, n_bits, n_bits - 1, 0
    stream = bytes(imagecodecs.jpeg8_encode(grey, level=100))
    d.PixelData = encapsulate([stream])
    d["PixelData"].VR = "OB"
    d.file_meta.TransferSyntaxUID = syntax
    d.save_as(path)

    found = read_scan(path).array[0, :, :, 0]

    expected = np.asarray(imagecodecs.jpeg8_decode(stream)).T
    turned = [expected, expected[::-1], expected[:, ::-1], expected[::-1, ::-1]]
    assert any(np.array_equal(found, e) for e in turned)
