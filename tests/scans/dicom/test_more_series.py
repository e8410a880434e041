"""Tests of series from public reports: times across midnight, absent values, wrong offsets, and rounded positions."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from medhybrid.errors import ScanError, SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.decoding import frame_stream
from medhybrid.scans.dicom.moments import seconds_of, seconds_of_both, unwrapped
from medhybrid.scans.dicom.references import read_masks
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from medhybrid.steps.convert import convert
from tests.scans.dicom import test_dimensions as enhanced
from tests.scans.dicom.test_awkward import Edit, copies, edit_all
from tests.scans.dicom.test_references import CENTRE, OUTER, ellipse, write_rtstruct
from tests.scans.dicom.test_references import write_series as write_referenced
from tests.scans.dicom.truth import is_right

N = 6


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    array = np.random.default_rng(0).integers(0, 4000, (9, 8, N)).astype(np.uint16)
    return write_mr_series(tmp_path / "series", array, np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c")


def volumes_of(paths: list[Path]) -> dict[str, list[Path]]:
    """Return the files of each volume by its name, all of which must be readable."""
    entries = discover(paths[0].parent).entries
    assert [e.problem for e in entries] == [""] * len(entries)
    for entry in entries:
        read_entry(entry, "x")
    return {e.part: sorted(e.paths) for e in entries}


# --- times ------------------------------------------------------------------------------------------------------------

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))


@given(MOMENTS, MOMENTS)
def test_times_sort_as_their_moments(one: datetime, other: datetime) -> None:
    def both(moment: datetime) -> tuple[str, str]:
        date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
        return seconds_of(date, time), seconds_of_both(date + time)

    for a, b in zip(both(one), both(other), strict=True):
        assert float(a) - float(b) == pytest.approx((one - other).total_seconds(), abs=1e-4)


@pytest.mark.parametrize("text", ["", "noon", "20260131", "2026-01-31T10:00", "99999999120000"])
def test_what_is_not_a_moment_is_kept(text: str) -> None:
    assert seconds_of_both(text) == text


def test_an_offset_from_utc_is_subtracted() -> None:
    assert seconds_of_both("20260131003000+0100") == seconds_of_both("20260130233000")


@given(st.lists(st.floats(0, 5 * 3600), min_size=2, max_size=6, unique=True), st.floats(0, 86399))
def test_times_of_a_short_acquisition_are_in_order_across_midnight(after: list[float], began: float) -> None:
    clock = [(began + s) % 86400 for s in after]

    moved = unwrapped(clock)

    assert np.argsort(moved).tolist() == np.argsort(np.round(after, 6)).tolist() or len(set(np.round(clock, 6))) < len(
        clock
    )


@pytest.mark.parametrize("has_date", [True, False])
def test_time_points_across_midnight_are_in_order(has_date: bool, series: list[Path]) -> None:
    began = datetime(2026, 1, 31, 23, 59, 50)

    def at(n: int) -> dict[str, str]:
        moment = began + timedelta(seconds=6 * n)
        return {"AcquisitionTime": f"{moment:%H%M%S}", "AcquisitionDate": f"{moment:%Y%m%d}" if has_date else ""}

    later = [copies(series, lambda d, _, n=n: d.update(at(n)), f"time{n}") for n in (1, 2)]  # type: ignore[misc]
    edit_all(series, lambda d, _: d.update(at(0)))

    found = volumes_of(series)

    assert found == {"time_1": sorted(series), "time_2": sorted(later[0]), "time_3": sorted(later[1])}


# --- what the headers of a series differ in ---------------------------------------------------------------------------


def test_frames_without_a_value_are_a_volume(series: list[Path]) -> None:
    """Diffusion images often have no b-value where it is 0."""
    weighted = [copies(series, lambda d, _, b=b: setattr(d, "DiffusionBValue", b), f"b{b}") for b in (500.0, 1000.0)]  # type: ignore[misc]

    assert volumes_of(series) == {
        "b_none": sorted(series),
        "b_500": sorted(weighted[0]),
        "b_1000": sorted(weighted[1]),
    }


def test_a_parameter_that_varies_with_the_slice_does_not_hide_the_phases(series: list[Path]) -> None:
    late = copies(series, lambda d, k: d.update({"TriggerTime": str(500 + k), "InstanceNumber": 2 * k + 2}), "late")
    edit_all(series, lambda d, k: d.update({"TriggerTime": str(10 + k), "InstanceNumber": 2 * k + 1}))
    for paths in (series, late):
        edit_all(paths, lambda d, k: setattr(d, "RepetitionTime", str(40 + 2 * k)))

    assert volumes_of(series) == {"phase_1": sorted(series), "phase_2": sorted(late)}


@pytest.mark.parametrize("name", ["UnassignedPerFrameConvertedAttributesSequence"])
def test_a_converted_file_is_split_by_the_attributes_of_its_former_files(name: str, tmp_path: Path) -> None:
    def group(frame: pydicom.Dataset, v: int) -> None:
        setattr(frame, name, enhanced.item(EchoTime=str(10 + 70 * v)))

    path = enhanced.write(tmp_path / "converted.dcm", 2, group, [])

    entries = discover(path.parent).entries
    assert [e.part for e in entries] == ["echo_1", "echo_2"]
    assert is_right([path], [read_entry(e, "x") for e in entries])


def as_localizer(d: pydicom.Dataset, _: int) -> None:
    d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def as_capture(d: pydicom.Dataset, _: int) -> None:
    d.SOPClassUID = SecondaryCaptureImageStorage
    del d.ImagePositionPatient


@pytest.mark.parametrize(("edit", "said"), [(as_localizer, "1 localizer"), (as_capture, "1 secondary capture")])
def test_files_of_a_series_that_are_no_slices_are_counted(edit: Edit, said: str, series: list[Path]) -> None:
    edit_all(series[:1], edit)

    (entry,) = discover(series[0].parent).entries

    assert entry.note == f"other files of the series left out: {said}"
    assert entry.note in read_scan(series[0].parent).notes


def test_slices_that_turn_about_an_axis_are_no_localizer(series: list[Path]) -> None:
    def turn(d: pydicom.Dataset, k: int) -> None:
        angle = k * np.pi / N
        d.ImageOrientationPatient = [*(f"{v:.6f}" for v in (np.cos(angle), np.sin(angle), 0)), "0", "0", "-1"]

    edit_all(series, turn)

    (entry,) = discover(series[0].parent).entries

    assert (entry.code, entry.skip_reason) == ("mixed_orientation", "")


def test_an_earlier_volume_of_a_series_that_has_more_volumes_now_is_named(
    series: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    convert(series[0].parent, out=out)
    assert not caplog.messages
    edit_all(series, lambda d, _: setattr(d, "EchoTime", "10"))
    copies(series, lambda d, _: setattr(d, "EchoTime", "80"))

    convert(series[0].parent, out=out)

    assert [m for m in caplog.messages if "1 volumes of an earlier call" in m and "series.nii.gz" in m]
    assert sorted(p.name for p in out.glob("*.nii.gz")) == [
        "series.nii.gz",
        "series__echo_1.nii.gz",
        "series__echo_2.nii.gz",
    ], "files are not removed"


# --- pixels and rescaling ---------------------------------------------------------------------------------------------


def as_pet(d: pydicom.Dataset, k: int) -> None:
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
    d.Modality, d.Units, d.RescaleSlope, d.RescaleIntercept = "PT", "BQML", "0" if k == 2 else "1.5", "0"


def test_a_blank_slice_of_pet_may_have_slope_0(series: list[Path]) -> None:
    edit_all(series, as_pet)

    scan = read_scan(series)

    assert not scan.array[0, :, :, 2].any()
    assert is_right(series, [scan])


def test_ct_without_rescaling_is_read_with_a_note(series: list[Path]) -> None:
    edit_all(series, lambda d, _: setattr(d, "Modality", "CT"))

    scan = read_scan(series)

    assert sum("RescaleSlope" in note for note in scan.notes) == 1
    edit_all(series, lambda d, _: d.update({"RescaleSlope": "1", "RescaleIntercept": "-1024"}))
    assert not any("RescaleSlope" in note for note in read_scan(series).notes)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_a_slope_with_a_decimal_comma_is_read(series: list[Path]) -> None:
    expected = read_scan(series).array * np.float32(2.5)
    edit_all(series, lambda d, _: d.update({"RescaleSlope": "2.5", "RescaleIntercept": "0"}))
    for path in series:
        path.write_bytes(path.read_bytes().replace(b"2.5 ", b"2,5 "))

    assert np.allclose(read_scan(series).array, expected)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_pixels_that_are_not_compressed_as_the_header_says_are_read(syntax: str, series: list[Path]) -> None:
    expected = read_scan(series).array
    for path in series:
        path.write_bytes(with_syntax(path.read_bytes(), syntax))

    scan = read_scan(series)

    assert np.array_equal(scan.array, expected)
    assert any("not compressed" in note for note in scan.notes)


def with_syntax(content: bytes, uid: str) -> bytes:
    """Return a file that names another transfer syntax, with its data set unchanged."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    start = content.index(b"\x02\x00\x10\x00UI") + 6
    n_old = int.from_bytes(content[start : start + 2], "little")
    group = content.index(b"\x02\x00\x00\x00UL") + 8
    n_group = int.from_bytes(content[group : group + 4], "little") + len(value) - n_old
    changed = content[:group] + n_group.to_bytes(4, "little") + content[group + 4 : start]
    return changed + len(value).to_bytes(2, "little") + value + content[start + 2 + n_old :]


@given(
    st.lists(st.binary(min_size=2, max_size=40).filter(lambda b: len(b) % 2 == 0), min_size=2, max_size=6), st.data()
)
def test_frames_are_found_whatever_the_offset_table_says(streams: list[bytes], data: st.DataObject) -> None:
    d = pydicom.Dataset()
    d.NumberOfFrames = len(streams)
    content = bytearray(encapsulate(streams, has_bot=True))
    wrong = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(streams), max_size=len(streams)))
    content[8 : 8 + 4 * len(streams)] = np.array(wrong, "<u4").tobytes()
    d.PixelData = bytes(content)

    assert [frame_stream(d, i) for i in range(len(streams))] == streams


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.625, 1.25, 0.875])
def test_positions_rounded_to_a_tenth_are_read_as_equal_distances(step: float, series: list[Path]) -> None:
    edit_all(series, lambda d, k: setattr(d, "ImagePositionPatient", ["0", "0", f"{k * step:.1f}"]))

    scan = read_scan(series)

    assert scan.grid.spacing_mm[2] == pytest.approx(step, abs=0.1 / (N - 1))
    assert any("rounded to 0.1 mm" in note for note in scan.notes)


def test_distances_that_differ_by_more_than_rounding_are_refused(series: list[Path]) -> None:
    along = [0, 0.6, 1.2, 2.0, 2.6, 3.2]
    edit_all(series, lambda d, k: setattr(d, "ImagePositionPatient", ["0", "0", str(along[k])]))

    with pytest.raises(SeriesError, match="slice distances differ"):
        read_scan(series)


# --- contours ---------------------------------------------------------------------------------------------------------


def test_a_contour_of_one_or_two_points_covers_its_voxels(tmp_path: Path) -> None:
    write_referenced(tmp_path / "in")
    scan = read_scan(tmp_path / "in")
    below, above = (ellipse(scan.source.header[k], CENTRE, OUTER) for k in (1, 3))
    point = (scan.affine @ (12, 8, 2, 1))[None, :3] * (-1, -1, 1)  # the centre of a voxel, in LPS mm
    path = write_rtstruct(tmp_path / "rt.dcm", {"x": [below, point, above], "point": [point]})

    mask = read_masks(path, scan, ["x"])["x"]

    assert mask.any((0, 1)).tolist() == [False, True, True, True, False, False, False]
    assert np.argwhere(mask[:, :, 2]).tolist() == [[12, 8]]
    with pytest.raises(ScanError, match="contours of one or two points"):
        read_masks(path, scan, ["point"])
