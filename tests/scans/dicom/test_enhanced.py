"""Tests of enhanced multi-frame files: geometry and rescaling per frame, and separation of volumes."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.context import read_context
from medhybrid.scans.reader import read_entry, read_scan
from tests.scans.dicom.enhanced import write_enhanced
from tests.synthetic import AFFINE

SHAPE = (9, 8, 5)


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, SHAPE)


def test_one_volume_is_read_with_its_per_frame_geometry(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm", [values(0)], AFFINE)

    scan = read_scan(path)

    np.testing.assert_allclose(np.sort(scan.array.ravel()), np.sort(values(0).ravel()))
    to_scan = np.linalg.inv(scan.affine) @ AFFINE
    index = np.argwhere(np.ones(SHAPE))
    where = np.rint(index @ to_scan[:3, :3].T + to_scan[:3, 3]).astype(int)
    np.testing.assert_array_equal(scan.array[0][tuple(where.T)], values(0)[tuple(index.T)])


def test_magnitude_and_phase_are_two_volumes_each_with_its_rescaling(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "mr.dcm", [values(0), values(1)], AFFINE)

    found = discover(tmp_path).entries

    assert [e.part for e in found] == ["type_1", "type_2"]
    scans = [read_entry(e, e.name).array for e in found]
    np.testing.assert_allclose(np.sort(scans[0].ravel()), np.sort(values(0).ravel()))
    np.testing.assert_allclose(np.sort(scans[1].ravel()), np.sort(values(1).ravel() * 2 - 10))


def test_a_multi_frame_secondary_capture_whose_frames_are_placed_is_a_scan(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "sc.dcm", [values(0)], AFFINE)
    d = pydicom.dcmread(path)
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    d.save_as(path)

    (entry,) = discover(tmp_path).entries

    assert (entry.skip_reason, entry.shape) == ("", SHAPE)


def test_times_of_an_enhanced_file_come_from_its_functional_groups(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm", [values(0), values(1)], AFFINE)
    d = pydicom.dcmread(path)
    del d.RepetitionTime
    for i, frame in enumerate(d.PerFrameFunctionalGroupsSequence):
        echo, inversion = Dataset(), Dataset()
        echo.EffectiveEchoTime, inversion.InversionTimes = (20.0, 90.0)[i % 2], [2500.0]
        frame.MREchoSequence, frame.MRModifierSequence = [echo], [inversion]
    timing = Dataset()
    timing.RepetitionTime = "3000"
    d.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [timing]
    d.save_as(path)

    entries = discover(tmp_path).entries

    assert [e.acquisition["echo_time_ms"] for e in entries] == [20, 90]
    assert [e.acquisition["repetition_time_ms"] for e in entries] == [3000, 3000]
    fields = ("echo_time_ms", "inversion_time_ms")
    assert [read_context(read_entry(e, e.name), fields) for e in entries] == [
        {"echo_time_ms": 20, "inversion_time_ms": 2500},
        {"echo_time_ms": 90, "inversion_time_ms": 2500},
    ]


def test_frames_without_a_position_are_refused(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm", [values(0)], AFFINE)
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    dataset.save_as(path)

    with pytest.raises(SeriesError) as caught:
        read_scan(path)

    assert caught.value.code == "no_geometry"


def test_frames_and_functional_groups_must_agree_in_number(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm", [values(0)], AFFINE)
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 4
    dataset.save_as(path)

    with pytest.raises(SeriesError) as caught:
        read_scan(path)

    assert caught.value.code == "no_geometry"


@pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_values_with_a_real_world_mapping_are_not_inverted_by_monochrome1(place: str, tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "mr.dcm", [values(0)], AFFINE)
    d = pydicom.dcmread(path)
    d.PhotometricInterpretation = "MONOCHROME1"
    mapping = pydicom.Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.1, 0.0
    for groups in d[place].value:
        groups.RealWorldValueMappingSequence = [mapping]
    d.save_as(path)

    np.testing.assert_array_equal(np.sort(read_scan(path).array.ravel()), np.sort(values(0).ravel()))


def test_files_of_one_volume_each_are_ordered_by_their_instance_numbers(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        path = write_enhanced(tmp_path / f"{number}.dcm", [values(number)], AFFINE)
        d = pydicom.dcmread(path)
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        d.InstanceNumber = number
        d.SeriesInstanceUID, d.StudyInstanceUID = "1.3", "1.4"
        d.save_as(path)

    found = discover(tmp_path).entries

    assert [e.part for e in found] == ["volume_1", "volume_2", "volume_3"]
    for number, entry in enumerate(found, start=1):
        np.testing.assert_array_equal(np.sort(read_entry(entry, "c").array.ravel()), np.sort(values(number).ravel()))
