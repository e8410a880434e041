"""The direct way from file to volume against pydicom's own decoding and rescaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

SHAPE = (9, 6, 3)


def rewrite(folder: Path, **changes: object) -> list[Path]:
    """A series of random bytes whose headers have `changes`."""
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
    """Values (X, Y, Z) decoded by pydicom, rescaled in float64."""
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
def test_uncompressed_pixels_are_those_that_pydicom_decodes(
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
def test_whole_numbers_stay_whole_where_their_range_allows_it(
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
    """Large enough that pixels are left in the file until they are asked for."""
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
