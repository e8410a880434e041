"""Tests of headers changed by archives and exporters: unknown VRs, rounded directions, duplicate instances."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless

from medhybrid.errors import SeriesError
from medhybrid.geometry import is_sheared
from medhybrid.scans import discover
from medhybrid.scans.dicom import deflated
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.scans.dicom.enhanced import write_enhanced
from tests.scans.dicom.test_awkward import edit_all
from tests.synthetic import AFFINE

SHAPE = (40, 34, 6)


def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, SHAPE).astype(np.uint16)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "series", array(), AFFINE, description="T1", study="s", case="c")


# --- VR UN ----------------------------------------------------------------------------------------------------------


def implicit_bytes(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def sequence_bytes(items: Any) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    from pydicom.dataelem import DataElement

    write_sequence(buffer, DataElement(0x00081115, "SQ", items), ["iso8859"])
    return buffer.getvalue()


def hide_vrs(dataset: Dataset) -> None:
    """Write every attribute except the pixels as UN, with sequences as items of implicit VR."""
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if tag in (0x7FE00010, 0x00080016, 0x00080018):
            continue
        if element.VR == "SQ":
            content = sequence_bytes(element.value)
        else:
            one = Dataset()
            one[tag] = element
            content = implicit_bytes(one)[8:]
        dataset._dict[tag] = RawDataElement(tag, "UN", len(content), content, 0, False, True)


def test_attributes_of_unknown_vr_are_read_by_the_dictionary(series: list[Path]) -> None:
    expected = read_scan(series)
    edit_all(series, lambda d, _: hide_vrs(d))
    assert pydicom.dcmread(series[0]).get_item("ImagePositionPatient").VR == "UN"

    scan = read_scan(series)

    np.testing.assert_array_equal(scan.array, expected.array)
    np.testing.assert_array_equal(scan.affine, expected.affine)


def test_functional_groups_of_unknown_vr_are_read_by_the_dictionary(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm", [array()], AFFINE)
    expected = read_scan(path)
    edit_all([path], lambda d, _: hide_vrs(d))
    assert pydicom.dcmread(path).get_item("PerFrameFunctionalGroupsSequence").VR == "UN"

    scan = read_scan(path)

    np.testing.assert_array_equal(scan.array, expected.array)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    assert [e.problem for e in discover(tmp_path).entries] == [""]


# --- directions and spacings of few digits ----------------------------------------------------------------------------


def oblique(degrees_about_x: float, degrees_about_z: float) -> np.ndarray:
    a, b = np.radians([degrees_about_x, degrees_about_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * (0.5, 0.5, 3.0)
    return affine


@pytest.mark.parametrize("n_slices", [6, 60])
@pytest.mark.parametrize("angles", [(7.3, 11.1), (33.0, 41.0), (12.0, 0.0), (45.3, 44.7)])
def test_directions_with_three_decimals_are_refined_by_the_positions(
    angles: tuple[float, float], n_slices: int, tmp_path: Path
) -> None:
    true = oblique(*angles)
    values = np.zeros((64, 48, n_slices), np.uint16)
    paths = write_mr_series(tmp_path, values, true, description="T1", study="s", case="c")

    def round_directions(d: Dataset, _: int) -> None:
        d.ImageOrientationPatient = [f"{float(v):.3f}" for v in d.ImageOrientationPatient]

    edit_all(paths, round_directions)

    scan = read_scan(paths)

    assert not is_sheared(scan.affine)
    corners = np.array([(x, y, z, 1) for x in (0, 63) for y in (0, 47) for z in (0, n_slices - 1)])
    off_mm = np.linalg.norm(corners @ scan.affine.T - corners @ true.T, axis=1).max()
    assert off_mm < 64 * 0.5 * 1.3e-3  # displacement of the last pixel by half a unit of the third decimal


@pytest.mark.parametrize("ups", [(0, 1), (0, 1, 1, 0, 1), (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1)])
def test_directions_that_differ_in_the_last_digit_are_one_volume(ups: tuple[int, ...], tmp_path: Path) -> None:
    true = oblique(33.0, 41.0)
    values = np.random.default_rng(0).integers(0, 4000, (24, 18, 12))
    paths = write_mr_series(tmp_path, values, true, description="T1", study="s", case="c")

    def jitter(d: Dataset, k: int) -> None:
        cosines = np.round(np.array(d.ImageOrientationPatient, float), 3)
        cosines[1] += 1e-3 * ups[k % len(ups)]
        d.ImageOrientationPatient = [f"{v:.3f}" for v in cosines]

    edit_all(paths, jitter)

    scan = read_scan(paths)

    assert scan.array.shape == (1, 24, 18, 12)
    np.testing.assert_allclose(scan.affine, true, atol=0.02 * 0.5)  # of a voxel
    np.testing.assert_array_equal(scan.array[0], values)


@pytest.mark.parametrize(
    ("order", "is_rounding"),
    [((0, 1, 2), True), ((0, 1, 2, 1, 0, 0, 2, 2, 1, 0, 1, 2), True), ((0, 1, 2), False), ((0, 1), False)],
)
def test_slices_of_several_nearly_equal_directions_are_one_volume_or_refused(
    order: tuple[int, ...], is_rounding: bool, tmp_path: Path
) -> None:
    true = oblique(33.0, 41.0)
    values = np.random.default_rng(0).integers(0, 4000, (24, 18, 12))
    paths = write_mr_series(tmp_path, values, true, description="T1", study="s", case="c")

    def jitter(d: Dataset, k: int) -> None:
        cosines = np.round(np.array(d.ImageOrientationPatient, float), 3)
        cosines += 1e-3 * np.array([(0,) * 6, (0, 1, 0, 0, 0, 0), (0, 1, 0, 0, 1, 0)])[order[k % len(order)]]
        if not is_rounding:  # rotated within the slice
            row, column, turn = *np.array(d.ImageOrientationPatient, float).reshape(2, 3), 0.002 * order[k % len(order)]
            cosines = np.concatenate([row + turn * column, column - turn * row])
        d.ImageOrientationPatient = [f"{v:.{3 if is_rounding else 6}f}" for v in cosines]

    edit_all(paths, jitter)

    if is_rounding:
        np.testing.assert_array_equal(read_scan(paths).array[0], values)
        return
    with pytest.raises(SeriesError, match="are interleaved") as caught:
        read_scan(paths)
    assert caught.value.code == "mixed_orientation"


def test_echoes_with_alternating_rounded_directions_are_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (24, 18, 12))
    for e in (0, 1):
        paths = write_mr_series(tmp_path / f"{e}", values, oblique(33.0, 41.0), description="T1", study="s", case="c")

        def jitter(d: Dataset, k: int, e: int = e) -> None:
            cosines = np.round(np.array(d.ImageOrientationPatient, float), 3)
            cosines[1] += 1e-3 * ((k + e) % 2)
            d.ImageOrientationPatient = [f"{v:.3f}" for v in cosines]
            d.EchoTime, d.SeriesInstanceUID, d.SOPInstanceUID = str(10 + 70 * e), "1.2.3", f"1.2.3.{e + 1}.{k + 1}"
            d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID

        edit_all(paths, jitter)

    with pytest.raises(SeriesError, match="are interleaved") as caught:
        read_scan([*(tmp_path / "0").iterdir(), *(tmp_path / "1").iterdir()])
    assert caught.value.code == "mixed_orientation"


def test_a_real_tilt_is_not_treated_as_rounding(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path, np.zeros((64, 48, 40)), oblique(12, 0), description="T1", study="s", case="c")

    def tilt(d: Dataset, k: int) -> None:
        d.ImageOrientationPatient = [f"{float(v):.3f}" for v in d.ImageOrientationPatient]
        column = np.array(d.ImageOrientationPatient, float)[3:]
        d.ImagePositionPatient = [float(v) + 0.05 * k * c for v, c in zip(d.ImagePositionPatient, column, strict=True)]

    edit_all(paths, tilt)

    with pytest.raises(SeriesError, match=r"found 0\.9\d degrees") as caught:
        read_scan(paths)

    assert caught.value.code == "gantry_tilt"


def test_directions_that_are_not_at_right_angles_are_refused_with_their_numbers(series: list[Path]) -> None:
    edit_all(series, lambda d, _: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0.01, 1, 0]))

    with pytest.raises(SeriesError, match=r"lengths 1\.\d+, 1\.\d+, inner product 0\.010"):
        read_scan(series)


@pytest.mark.parametrize("other", ["0.976563", "0.97656", "0.9766"])
def test_spacings_that_differ_by_rounding_are_one_series(other: str, series: list[Path]) -> None:
    edit_all(series, lambda d, k: setattr(d, "PixelSpacing", ["0.9765625", other] if k % 2 else ["0.9765625"] * 2))

    np.testing.assert_allclose(read_scan(series).grid.spacing_mm[:2], 0.9765625, atol=4e-5)


def test_differences_are_shown_with_enough_digits(series: list[Path]) -> None:
    edit_all(series, lambda d, k: setattr(d, "PixelSpacing", ["0.9765625", "0.97749" if k else "0.977"]))

    with pytest.raises(SeriesError, match=r"0\.9770 mm.*0\.9775 mm") as caught:
        read_scan(series)

    assert caught.value.code == "mixed_shape"


def test_a_sideways_shift_is_not_reported_as_a_distance(series: list[Path]) -> None:
    def shift_one(d: Dataset, k: int) -> None:
        if k == 2:
            x, y, z = map(float, d.ImagePositionPatient)
            d.ImagePositionPatient = [x + 1, y, z]

    paths = write_mr_series(series[0].parent / "straight", array(), np.eye(4), description="T1", study="s", case="c")
    edit_all(paths, shift_one)

    with pytest.raises(SeriesError, match=r"shifted sideways by different distances.*-1\.000, 0\.000, 1\.000 mm"):
        read_scan(paths)


# --- instances that are there twice -----------------------------------------------------------------------------------


def test_an_instance_saved_in_another_encoding_is_used_once(series: list[Path]) -> None:
    expected = read_scan(series)
    d = pydicom.dcmread(series[2])
    d.compress(JPEGLSLossless, generate_instance_uid=False)
    d.save_as(series[2].with_name("copy.dcm"))
    series[3].with_name("bare").write_bytes(series[3].read_bytes()[132:])

    scan = read_scan(series[0].parent)

    np.testing.assert_array_equal(scan.array, expected.array)
    assert [e.problem for e in discover(series[0].parent).entries] == [""]


@pytest.mark.parametrize(("modality", "is_read"), [("MR", True), ("CT", False)])
def test_an_empty_rescaling_is_none_except_where_values_have_a_unit(
    modality: str, is_read: bool, series: list[Path]
) -> None:
    expected = read_scan(series[0].parent)
    for path in series:
        d = pydicom.dcmread(path)
        d.Modality, d.RescaleSlope, d.RescaleIntercept = modality, None, None
        d.save_as(path)

    if is_read:
        np.testing.assert_array_equal(read_scan(series[0].parent).array, expected.array)
    else:
        with pytest.raises(SeriesError, match="its rescaling is damaged"):
            read_scan(series[0].parent)


def other_pixels(d: Dataset) -> None:
    d.PixelData = bytes(6) + d.PixelData[6:]


def other_place(d: Dataset) -> None:
    d.ImagePositionPatient = [float(v) + 0.00001 for v in d.ImagePositionPatient]


def other_scale(d: Dataset) -> None:
    d.RescaleSlope, d.RescaleIntercept = 2, 0


def other_echo(d: Dataset) -> None:
    d.EchoTime = "80"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_pixels, "3 of 1360 values of changed.dcm differ"),
        (other_place, r"ImagePositionPatient \(.*\) and \(.*00001.*\)"),
        (other_scale, "found slope 1.0 and 2.0"),
        (other_echo, "found another echo"),
    ],
    ids=["pixels", "place", "scale", "echo"],
)
def test_different_files_with_one_sop_instance_uid_are_refused(
    change: Callable[[Dataset], None], message: str, series: list[Path]
) -> None:
    d = pydicom.dcmread(series[2])
    change(d)
    d.save_as(series[2].with_name("changed.dcm"))

    with pytest.raises(SeriesError, match=message) as caught:
        read_scan(series[0].parent)

    assert caught.value.code == "duplicate_slice"
    assert "the same SOPInstanceUID" in str(caught.value)


# --- deflated ------------------------------------------------------------------------------------------------------


def deflate(path: Path, n_zeros: int) -> None:
    d = pydicom.dcmread(path)
    d.add_new(0x00091010, "OB", bytes(n_zeros))
    d.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    d.save_as(path)


def test_a_deflated_file_with_an_excessive_size_is_refused_before_it_is_read(
    series: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deflated, "MIN_CHECKED_BYTES", 1 << 20)
    expected = read_scan(series).array
    for path in series:
        deflate(path, 1000)
    np.testing.assert_array_equal(read_scan(series).array, expected)
    deflate(series[2], 20 << 20)

    with pytest.raises(SeriesError, match="inflate to more than") as caught:
        read_scan(series)
    assert caught.value.code == "encrypted_or_unreadable"


@pytest.mark.parametrize("kind", ["wrong length", "no length", "no preamble", "long meta information"])
def test_the_size_of_a_deflated_file_is_checked_with_any_header(
    series: list[Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deflated, "MIN_CHECKED_BYTES", 1 << 20)
    deflate(series[2], 20 << 20)
    content = series[2].read_bytes()
    length = int.from_bytes(content[140:144], "little")
    if kind == "wrong length":
        content = content[:140] + (length + 2).to_bytes(4, "little") + content[144:]
    elif kind == "no length":
        content = content[:132] + content[144:]
    elif kind == "no preamble":
        content = content[132:]
    else:
        private = b"\x02\x00\x02\x01OB\x00\x00" + (6000).to_bytes(4, "little") + bytes(6000)
        first = content[144 : 144 + length]
        at = first.index(b"\x02\x00\x03\x00")
        # long elements before the transfer syntax are not in order, but pydicom reads them
        first = first[:at] + private + first[at:]
        content = content[:140] + len(first).to_bytes(4, "little") + first + content[144 + length :]
    series[2].write_bytes(content)

    with pytest.raises(SeriesError, match="inflate to more than"):
        read_scan(series)


@pytest.mark.parametrize("limit", [0, 99_999, 100_000, 200_000])
def test_the_inflated_size_of_a_stream_is_exact(limit: int) -> None:
    engine = zlib.compressobj(wbits=-15)
    stream = engine.compress(bytes(100_000)) + engine.flush()
    chunks = [stream[i : i + 7] for i in range(0, len(stream), 7)]

    assert deflated.inflates_beyond(chunks, limit) == (limit < 100_000)
