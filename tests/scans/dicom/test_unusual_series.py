"""Tests of unusual series: one volume, several volumes, or refused with a reason; compared with each frame's header."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.scans.dicom import test_dimensions as enhanced
from tests.scans.dicom.test_awkward import copies, edit_all
from tests.scans.dicom.truth import is_right

N = 8
AFFINE = np.diag([1, 1, 2, 1.0])


def values(seed: int = 0, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (9, 8, n)).astype(np.uint16)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "series", values(), AFFINE, description="T1", study="s", case="c")


def alternate(paths: list[Path], name: str, *found: object) -> None:
    edit_all(paths, lambda d, k: setattr(d, name, found[k % len(found)]))


# --- numbers that alternate between slices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("RepetitionTime", "900", "1200"),
        ("EchoTime", "10", "10.15"),
        ("FlipAngle", "150", "140"),
        ("InversionTime", "2300", "2500"),
        ("KVP", "120", "125"),
    ],
)
def test_alternating_values_within_the_tolerance_are_one_volume(
    name: str, one: str, other: str, series: list[Path]
) -> None:
    alternate(series, name, one, other)

    (entry,) = discover(series[0].parent).entries

    assert (entry.problem, entry.part) == ("", "")
    assert is_right(series, [read_scan(series)])


@pytest.mark.parametrize(
    ("name", "one", "other", "trait"),
    [
        ("RepetitionTime", "900", "1500", "repetition"),
        ("EchoTime", "10", "10.3", "echo"),
        ("FlipAngle", "150", "130", "flip"),
        ("InversionTime", "2000", "2500", "inversion"),
        ("KVP", "120", "130", "kvp"),
    ],
)
def test_alternating_values_beyond_the_tolerance_are_two_volumes(
    name: str, one: str, other: str, trait: str, series: list[Path]
) -> None:
    alternate(series, name, one, other)

    entries = discover(series[0].parent).entries

    assert [e.part for e in entries] == [f"{trait}_1", f"{trait}_2"]
    assert is_right(series, [read_entry(e, e.name) for e in entries])


@pytest.mark.parametrize(
    ("name", "values_of_one", "other", "trait"),
    [
        ("RepetitionTime", ("500", "510", "510", "500"), "4000", "repetition"),
        ("EchoTime", ("10", "10.1", "10.1", "10"), "80", "echo"),
        ("KVP", ("80", "80.5", "80.5", "80"), "140", "kvp"),
    ],
)
def test_two_alternating_kinds_are_two_volumes_also_if_one_varies_within_the_tolerance(
    name: str, values_of_one: tuple[str, ...], other: str, trait: str, series: list[Path]
) -> None:
    alternate(series, name, *[v for one in values_of_one for v in (one, other)])

    entries = discover(series[0].parent).entries

    assert [(e.part, e.shape) for e in entries] == [(f"{trait}_{n}", (9, 8, N // 2)) for n in (1, 2)]
    assert is_right(series, [read_entry(e, e.name) for e in entries])


# --- volumes that any attribute separates -------------------------------------------------------------------------


def averages(d: Dataset, v: int) -> None:
    d.NumberOfAverages = str(v + 1)


def protocol(d: Dataset, v: int) -> None:
    d.ProtocolName = f"scan {v}"


def nested(d: Dataset, v: int) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = f"P{v}", "99TEST", "procedure"
    d.PerformedProtocolCodeSequence = Items([code])


def private(d: Dataset, v: int) -> None:
    d.private_block(0x0019, "TEST", create=True).add_new(0x10, "LO", f"volume {v}")


def content_time(d: Dataset, v: int) -> None:
    d.ContentTime = f"12{v:02d}00"


SEPARATING = [averages, protocol, nested, private, content_time]


@pytest.mark.parametrize("separate", SEPARATING, ids=lambda f: f.__name__)
def test_an_attribute_of_any_kind_separates_volumes_of_a_classic_series(
    separate: Callable[[Dataset, int], None], series: list[Path]
) -> None:
    def second(d: Dataset, k: int) -> None:
        d.PixelData = np.ascontiguousarray(values(1)[:, :, k].T).tobytes()
        separate(d, 1)

    added = copies(series, second)
    edit_all(series, lambda d, _: separate(d, 0))

    entries = discover(series[0].parent).entries

    assert [e.part for e in entries] == ["volume_1", "volume_2"]
    scans = [read_entry(e, e.name) for e in entries]
    assert is_right(series, scans[:1])
    assert is_right(added, scans[1:])


@pytest.mark.parametrize("separate", SEPARATING, ids=lambda f: f.__name__)
def test_an_attribute_of_any_kind_separates_volumes_of_an_enhanced_file(
    separate: Callable[[Dataset, int], None], tmp_path: Path
) -> None:
    def group(frame: Dataset, v: int) -> None:
        enhanced.no_index(frame, v)
        frame.UnassignedPerFrameConvertedAttributesSequence = Items([Dataset()])
        separate(frame.UnassignedPerFrameConvertedAttributesSequence[0], v)

    path = enhanced.write(tmp_path / "enhanced.dcm", 2, group)

    entries = discover(tmp_path).entries

    assert [e.part for e in entries] == ["volume_1", "volume_2"]
    assert is_right([path], [read_entry(e, e.name) for e in entries])


def test_an_attribute_does_not_separate_volumes_of_two_slices(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "s", values(n=2), AFFINE, description="T1", study="s", case="c")
    copies(paths, lambda d, _: averages(d, 1))
    edit_all(paths, lambda d, _: averages(d, 0))

    (entry,) = discover(tmp_path).entries

    assert entry.code == "multi_volume"
    assert "NumberOfAverages" in entry.problem


# --- parallel stacks ----------------------------------------------------------------------------------------------


def shift_second_half(d: Dataset, k: int) -> None:
    """Move the second half of the slices, as the second breast lies apart from the first."""
    d.ImagePositionPatient = [0, 0, 2 * k + 31 * (k >= N // 2)]


def test_parallel_stacks_of_a_classic_series_are_one_volume_per_stack_id(series: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        shift_second_half(d, k)
        d.StackID = "1" if k < N // 2 else "2"

    edit_all(series, edit)

    entries = discover(series[0].parent).entries

    assert [(e.part, e.shape, e.problem) for e in entries] == [(f"stack_{n}", (9, 8, N // 2), "") for n in (1, 2)]
    assert is_right(series, [read_entry(e, e.name) for e in entries])


def test_parallel_stacks_of_an_enhanced_file_are_one_volume_per_stack_id(tmp_path: Path) -> None:
    path = enhanced.write(tmp_path / "enhanced.dcm", 2, enhanced.no_index)
    d = pydicom.dcmread(path)
    for i, frame in enumerate(d.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].StackID = str(1 + i // 4)
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2 * i + 31 * (i // 4)]
    d.save_as(path)

    entries = discover(tmp_path).entries

    assert [e.part for e in entries] == ["stack_1", "stack_2"]
    assert is_right([path], [read_entry(e, e.name) for e in entries])


def test_a_gap_between_slices_of_one_stack_is_refused(series: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        shift_second_half(d, k)
        d.StackID = "1"

    edit_all(series, edit)

    with pytest.raises(SeriesError) as caught:
        read_scan(series)

    assert caught.value.code in ("nonuniform", "missing_slice")


def test_stacks_that_continue_each_other_are_one_volume(series: list[Path]) -> None:
    edit_all(series, lambda d, k: setattr(d, "StackID", "1" if k < N // 2 else "2"))

    assert is_right(series, [read_scan(series)])


# --- a new study in each file -------------------------------------------------------------------------------------


def new_study(d: Dataset, _: int) -> None:
    d.StudyInstanceUID = generate_uid()


def test_slices_of_one_series_with_a_new_study_in_each_file_are_one_volume(series: list[Path]) -> None:
    edit_all(series, new_study)

    (entry,) = discover(series[0].parent).entries

    assert (entry.problem, entry.shape) == ("", (9, 8, N))
    assert is_right(series, [read_scan(series)])


def test_slices_of_several_patients_are_not_joined(series: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        new_study(d, k)
        d.PatientID = d.PatientName = f"patient {k % 2}"

    edit_all(series, edit)

    entries = discover(series[0].parent).entries

    assert sorted(e.shape for e in entries if not e.problem) == [(9, 8, N // 2)] * 2
    assert is_right(series, [read_entry(e, e.name) for e in entries])


def test_series_of_several_slices_in_two_studies_are_not_joined(series: list[Path]) -> None:
    studies = [generate_uid(), generate_uid()]
    edit_all(series, lambda d, k: setattr(d, "StudyInstanceUID", studies[k // 4]))

    assert [e.shape for e in discover(series[0].parent).entries] == [(9, 8, 4)] * 2


# --- refused with the reason --------------------------------------------------------------------------------------


def test_a_cine_of_one_slice_is_refused_with_that_reason(series: list[Path]) -> None:
    def edit(d: Dataset, k: int) -> None:
        d.ImagePositionPatient, d.TriggerTime = [0, 0, 0], str(40 * k)

    edit_all(series, edit)

    (entry,) = discover(series[0].parent).entries

    assert entry.code == "multi_volume"
    assert f"{N} images of a single slice, such as the times of a cine" in entry.problem
    assert "Expected at least two slice positions, found 1" in entry.problem


def test_an_enhanced_cine_of_one_slice_is_refused_with_that_reason(tmp_path: Path) -> None:
    path = enhanced.write(tmp_path / "cine.dcm", 3, enhanced.cardiac_delay)
    d = pydicom.dcmread(path)
    for i, frame in enumerate(d.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
        frame.CardiacSynchronizationSequence[0].NominalCardiacTriggerDelayTime = 40.0 * i
    d.save_as(path)

    with pytest.raises(SeriesError, match="12 images of a single slice, such as the times of a cine"):
        read_scan(path)


# --- values -------------------------------------------------------------------------------------------------------


def test_an_empty_modality_lut_is_none(series: list[Path]) -> None:
    edit_all(series, lambda d, _: setattr(d, "ModalityLUTSequence", Items([])))

    assert is_right(series, [read_scan(series)])


def test_a_modality_lut_is_refused(series: list[Path]) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [2, 0, 16], "US"
    table.add_new("LUTData", "US", [0, 1])
    edit_all(series, lambda d, _: setattr(d, "ModalityLUTSequence", Items([table])))

    with pytest.raises(SeriesError, match="lookup table"):
        read_scan(series)


def write_map(path: Path, pixels: np.ndarray, sources: list[Path], slope: float, intercept: float) -> Path:
    """Write a parametric map of pixels (slice, row, column) with highdicom."""
    edit_all(sources, lambda d, _: setattr(d, "PatientName", "c^"))
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ADC",
        lut_explanation="diffusion",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 4000.0) if pixels.dtype.kind == "f" else (0, 4000),
        slope=slope,
        intercept=intercept,
    )
    hd.pm.ParametricMap(
        [pydicom.dcmread(p) for p in sources],
        pixels,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=100, window_width=200)],
    ).save_as(path)
    return path


@pytest.mark.parametrize(("slope", "intercept"), [(0.001, 0.0), (2.5, -1024.0), (1.0, 0.0)])
def test_integers_of_a_parametric_map_are_its_real_world_values(
    slope: float, intercept: float, series: list[Path], tmp_path: Path
) -> None:
    path = write_map(tmp_path / "map.dcm", values().transpose(2, 1, 0).copy(), series, slope, intercept)

    scan, image = read_scan(path), read_scan(series)

    np.testing.assert_allclose(scan.array, image.array * slope + intercept, rtol=1e-5)
    np.testing.assert_allclose(scan.affine, image.affine, atol=1e-5)


def test_numbers_of_a_float_parametric_map_are_mapped(series: list[Path], tmp_path: Path) -> None:
    pixels = values().transpose(2, 1, 0).astype(np.float32)
    path = write_map(tmp_path / "map.dcm", pixels, series, 2.0, 5.0)

    np.testing.assert_allclose(read_scan(path).array, read_scan(series).array * 2.0 + 5.0, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lookup table", "several lines"])
def test_a_parametric_map_with_another_mapping_is_refused(kind: str, series: list[Path], tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.dcm", values().transpose(2, 1, 0).copy(), series, 1.0, 0.0)
    d = pydicom.dcmread(path)
    for groups in (*d.SharedFunctionalGroupsSequence, *d.PerFrameFunctionalGroupsSequence):
        for mapping in list(groups.get("RealWorldValueMappingSequence", [])):
            if kind == "lookup table":
                mapping.RealWorldValueLUTData = [0.0, 1.0]
            else:
                other = copy.deepcopy(mapping)
                other.RealWorldValueSlope = 3.0
                groups.RealWorldValueMappingSequence.append(other)
    d.save_as(path)

    with pytest.raises(SeriesError, match="mapped to real values by a lookup table"):
        read_scan(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ImagePositionPatient", lambda d: "\\".join(map(str, d.ImagePositionPatient))),
        ("PixelSpacing", lambda d: "\\".join(str(v).replace(".", ",") for v in d.PixelSpacing)),
        ("ImageOrientationPatient", lambda d: "\\".join(map(str, d.ImageOrientationPatient)) + "\\"),
    ],
)
def test_numbers_in_a_text_are_read(name: str, value: Callable[[Any], str], series: list[Path], tmp_path: Path) -> None:
    expected = read_scan(series)

    def change(d: Any, _: int) -> None:
        text = value(d)
        del d[name]
        d.add_new(tag_for_keyword(name), "LT", text)

    edit_all(series, change)

    found = read_scan(series)
    np.testing.assert_allclose(found.affine, expected.affine)
    np.testing.assert_array_equal(found.array, expected.array)


@pytest.mark.parametrize("intercept", [0, 4095])
def test_a_negative_slope_inverts_integers(intercept: int, series: list[Path]) -> None:
    before = read_scan(series).array.astype(int)  # stored values: the series has no rescaling

    def change(d: Any, _: int) -> None:
        d.RescaleSlope, d.RescaleIntercept = -1, intercept

    edit_all(series, change)

    np.testing.assert_array_equal(read_scan(series).array, intercept - before)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "RTIMAGE"}, "radiotherapy image"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "ImagePositionPatient": None}, "screen save"),
    ],
)
def test_images_of_other_kinds_are_skipped(
    changes: dict[str, Any], reason: str, series: list[Path], tmp_path: Path
) -> None:
    def change(d: Any, _: int) -> None:
        for name, value in changes.items():
            if value is None:
                delattr(d, name)
            else:
                setattr(d, name, value)

    edit_all(series, change)

    assert {e.skip_reason for e in discover(series[0].parent).entries} == {reason}


@pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_the_mapping_of_other_images_does_not_change_their_values(place: str, tmp_path: Path) -> None:
    path = enhanced.write(tmp_path / "mr.dcm", 1, enhanced.nothing)
    d = pydicom.dcmread(path)
    for groups in d[place].value:
        groups.RealWorldValueMappingSequence = enhanced.item(RealWorldValueSlope=0.5, RealWorldValueIntercept=3.0)
    d.save_as(path)

    assert is_right([path], [read_scan(path)])
