"""Tests of DICOM SEG and structured report: exact masks, codes, references to source frames, validity for other tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medhybrid.config import LabelCode, ScansConfig, config_from_dict
from medhybrid.errors import ConfigError
from medhybrid.metrics import longest_distance, measure_components
from medhybrid.scans import Scan, discover
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.conftest import SHARED
from tests.scans.dicom.enhanced import write_enhanced
from tests.scans.dicom.test_awkward import edit_all, right_angled, shift, uneven
from tests.scans.dicom.test_seg import read_back
from tests.synthetic import AFFINE

INFO = SegInfo({"tumour": 3, "other": 7}, "1.0", "ab" * 32, {"tumour": LabelCode(type="Neoplasm", anatomy="Brain")})
SHAPE = (12, 10, 6)

TURNS = {  # columns of the matrix: directions of rows, columns and slices, in RAS
    "axial": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
    "sagittal": [[0, 0, 1], [-1, 0, 0], [0, -1, 0]],
    "coronal": [[-1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "prone": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "decubitus": [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
    "feet_first": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
    "oblique": [[0.9, -0.12, 0.3], [0.2, 1.1, 0.4], [-0.3, -0.1, 2.9]],
}


def random_mask(scan: Scan) -> np.ndarray:
    return np.random.default_rng(1).choice([0, 3, 7], scan.array.shape[1:]).astype(np.uint8)


def volume(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape)


@pytest.mark.parametrize("turn", TURNS)
def test_a_written_mask_is_read_unchanged_in_any_patient_position(turn: str, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array(TURNS[turn]) * (1.2, 0.8, 3.0 if turn != "oblique" else 1)
    affine[:3, 3] = (-10, 20, 30)
    write_mr_series(tmp_path / "in", volume(), right_angled(affine), description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "in")
    mask = random_mask(scan)

    write_seg(tmp_path / "seg.dcm", mask, scan, INFO)

    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", scan, INFO.labels), mask)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    write_mr_series(tmp_path / "in", volume(), AFFINE, description="T1", study="s", case="c")
    return read_scan(tmp_path / "in")


def test_every_frame_refers_to_the_image_at_its_position(scan: Scan, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", random_mask(scan), scan, INFO)

    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    place_of = {str(d.SOPInstanceUID): d.ImagePositionPatient for d in scan.source.header}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place_of[source], atol=1e-3)


def test_segments_are_coded_tracked_and_signed_by_the_model(scan: Scan, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", random_mask(scan), scan, INFO)

    tumour, other = hd.seg.segread(tmp_path / "seg.dcm").SegmentSequence
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert tumour.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert other.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "309825002"
    assert tumour.TrackingUID != other.TrackingUID
    made_by = tumour.SegmentationAlgorithmIdentificationSequence[0]
    assert made_by.AlgorithmName == "medhybrid"
    assert "ab" * 32 in made_by.AlgorithmParameters


def test_patient_and_study_are_those_of_the_source(scan: Scan, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", random_mask(scan), scan, INFO)

    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), scan.source.header[0]
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert seg[name].value == source[name].value


def test_probabilities_are_written_as_fractional_segmentation(scan: Scan, tmp_path: Path) -> None:
    shape = scan.array.shape[1:]
    probabilities = np.random.default_rng(2).random((2, *shape)).astype(np.float32)

    write_seg(tmp_path / "seg.dcm", np.ones(shape, np.uint8) * 3, scan, INFO, probabilities=probabilities)

    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.SegmentationType == "FRACTIONAL"
    back = seg.get_volume(combine_segments=False, rescale_fractional=True)
    np.testing.assert_allclose(np.sort(back.array.ravel()), np.sort(probabilities.ravel()), atol=1 / 255)


def test_a_segmentation_of_one_volume_in_a_multi_frame_file_refers_to_its_frames(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_enhanced(tmp_path / "in" / "mr.dcm", [volume(), volume() + 1], AFFINE)
    phase = read_entry(discover(tmp_path / "in").entries[1], "phase")
    mask = random_mask(phase)

    write_seg(tmp_path / "seg.dcm", mask, phase, INFO)

    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", phase, INFO.labels), mask)
    source = pydicom.dcmread(tmp_path / "in" / "mr.dcm")
    for frame in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        meant = source.PerFrameFunctionalGroupsSequence[number - 1]
        assert meant.MRImageFrameTypeSequence[0].ComplexImageComponent == "PHASE"
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient,
            meant.PlanePositionSequence[0].ImagePositionPatient,
            atol=1e-3,
        )


def test_a_segmentation_of_the_second_stack_of_a_file_has_its_geometry(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = write_enhanced(tmp_path / "in" / "mr.dcm", [volume(), volume() + 1], AFFINE)
    d = pydicom.dcmread(path)
    for k, frame in enumerate(d.PerFrameFunctionalGroupsSequence[1::2]):
        place, turn, measures = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient, turn.ImageOrientationPatient = [4.0 * k, -20.0, 30.0], [0, 1, 0, 0, 0, -1]
        measures.PixelSpacing, measures.SpacingBetweenSlices = [1.5, 1.25], "9"  # the true distance is 4
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [turn]
        frame.PixelMeasuresSequence = [measures]
    d.save_as(path)

    for entry in discover(tmp_path / "in").entries:
        stack = read_entry(entry, entry.name)
        mask = random_mask(stack)
        write_seg(tmp_path / "seg.dcm", mask, stack, INFO)
        np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", stack, INFO.labels), mask)
    measures = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.PixelSpacing, measures.SpacingBetweenSlices, measures.SliceThickness) == ([1.5, 1.25], 4, 4)


@pytest.mark.parametrize("kind", ["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.5"])
def test_images_of_a_private_or_retired_class_get_both_outputs(kind: str, scan: Scan, tmp_path: Path) -> None:
    for header in scan.source.header:
        header.SOPClassUID = kind

    seg, report = write_both(scan, random_mask(scan), tmp_path)

    for path in (seg, report):
        found = {e.value for e in pydicom.dcmread(path).iterall() if e.keyword == "ReferencedSOPClassUID"}
        assert kind in found
        assert "1.2.840.10008.5.1.4.1.1.7" not in found


# --- resampled series: the mask goes back to the slices -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["uneven", "tilted", "missing"])
def test_a_mask_of_an_irregular_series_is_written_on_the_original_slices(kind: str, tmp_path: Path) -> None:
    empty = np.zeros((30, 28, 12))
    paths = write_mr_series(tmp_path / "in", empty, np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c")
    if kind == "uneven":
        uneven(paths)
    elif kind == "tilted":
        edit_all(paths, lambda d, k: shift(d, 0.5 * k * np.array(d.ImageOrientationPatient[3:], float)))
    else:
        paths.pop(5).unlink()
    centre, radius = np.array([14.0, 15.0, 11.0]), 6.0
    edit_all(paths, lambda d, _: draw_ball(d, centre, radius))

    scan = read_scan(tmp_path / "in", options=ScansConfig(resample_irregular=True))

    index = np.argwhere(np.ones(scan.array.shape[1:]))
    ras = index @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    inside = (np.linalg.norm(ras - centre, axis=1) < radius).reshape(scan.array.shape[1:])
    bright = scan.array[0] > 500
    assert 2 * (bright & inside).sum() / (bright.sum() + inside.sum()) > 0.9
    write_seg(tmp_path / "seg.dcm", bright.astype(np.uint8) * 3, scan, INFO)
    shown = np.zeros(0, bool), np.zeros(0, bool)
    by_uid = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, paths)}
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    for pixels, frame in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = by_uid[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        shown = (
            np.append(shown[0], pixels.ravel() > 0),
            np.append(shown[1], source.pixel_array.ravel() > 500),
        )
    assert 2 * (shown[0] & shown[1]).sum() / (shown[0].sum() + shown[1].sum()) > 0.9


def draw_ball(d: pydicom.Dataset, centre_ras: np.ndarray, radius: float) -> None:
    rows, columns = np.indices((d.Rows, d.Columns))
    turn, place = np.array(d.ImageOrientationPatient, float), np.array(d.ImagePositionPatient, float)
    row_mm, column_mm = map(float, d.PixelSpacing)
    lps = place + columns[..., None] * column_mm * turn[:3] + rows[..., None] * row_mm * turn[3:]
    inside = np.linalg.norm(lps * (-1, -1, 1) - centre_ras, axis=-1) < radius
    d.PixelData = np.where(inside, 1000, 0).astype(np.uint16).tobytes()


# --- structured report --------------------------------------------------------------------------------------------


def write_both(scan: Scan, mask: np.ndarray, folder: Path) -> tuple[Path, Path]:
    sources = write_seg(folder / "seg.dcm", mask, scan, INFO)
    measures = [RegionMeasure("tumour", 0, 2.5, 31.0), RegionMeasure("tumour", 1, 1.5, 20.0)]
    write_report(folder / "sr.dcm", folder / "seg.dcm", sources, measures, INFO.codes)
    return folder / "seg.dcm", folder / "sr.dcm"


def test_the_report_has_volume_and_diameter_of_segment_and_lesions_and_refers_to_the_segmentation(
    scan: Scan, tmp_path: Path
) -> None:
    seg, sr = write_both(scan, random_mask(scan), tmp_path)

    groups = hd.sr.srread(sr).content.get_volumetric_roi_measurement_groups()

    assert [g.tracking_identifier for g in groups] == ["tumour, all", "tumour 1"]
    values = [{m.name.meaning: (m.value, m.unit.value) for m in g.get_measurements()} for g in groups]
    assert values[0] == {"Volume": (2.5, "mL"), "Long Axis": (31.0, "mm")}
    segment = groups[0].referenced_segment
    assert segment.referenced_sop_instance_uid == pydicom.dcmread(seg).SOPInstanceUID
    assert groups[0].finding_type.meaning == "Neoplasm"
    assert groups[0].finding_sites[0].topographical_modifier is None


def test_an_empty_mask_gives_an_empty_segmentation_and_a_report_without_findings(scan: Scan, tmp_path: Path) -> None:
    sources = write_seg(tmp_path / "seg.dcm", np.zeros(scan.array.shape[1:], np.uint8), scan, INFO)
    write_report(tmp_path / "sr.dcm", tmp_path / "seg.dcm", sources, [RegionMeasure("tumour", 0, 0, 0)], {})

    assert not hd.seg.segread(tmp_path / "seg.dcm").pixel_array.any()
    content = hd.sr.srread(tmp_path / "sr.dcm").content
    assert content.get_volumetric_roi_measurement_groups() == []
    assert "No abnormality detected" in str(content)


needs_tools = pytest.mark.skipif(
    not (shutil.which("dciodvfy") and shutil.which("dsrdump")), reason="dicom3tools and dcmtk are not installed"
)


def errors_of(path: Path) -> list[str]:
    verdict = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    return [line for line in (verdict.stdout + verdict.stderr).splitlines() if line.startswith("Error")]


@needs_tools
@pytest.mark.validators
@pytest.mark.parametrize("empty", [False, True])
def test_segmentation_and_report_are_valid_for_dciodvfy_and_dcmtk(empty: bool, scan: Scan, tmp_path: Path) -> None:
    seg, sr = write_both(scan, random_mask(scan) * (not empty), tmp_path)

    assert errors_of(seg) == []
    assert errors_of(sr) == []
    subprocess.run(["dcmdump", str(seg)], check=True, capture_output=True)
    subprocess.run(["dsrdump", str(sr)], check=True, capture_output=True)


@needs_tools
@pytest.mark.slow
@pytest.mark.validators
@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="no public data here")
def test_segmentation_and_report_of_every_real_series_are_valid(tmp_path: Path) -> None:
    n = 0
    for entry in discover(SHARED / "data" / "dicom").entries:
        is_tiled = len(entry.paths) == 1 and (".mr_mosaic" in f".{entry.name}" or "mr_vframe" in entry.name)
        if entry.skip_reason or entry.problem or is_tiled:
            continue
        try:
            real = read_entry(entry, entry.name, ScansConfig(resample_irregular=True))
        except Exception as refusal:
            pytest.fail(f"{entry.name}: {refusal}")
        mask = np.zeros(real.array.shape[1:], np.uint8)
        mask[2:9, 3:9, :] = 3
        seg, sr = write_both(real, mask, tmp_path)
        assert errors_of(seg) + errors_of(sr) == [], entry.name
        n += 1
    assert n >= 21


# --- codes and sizes ----------------------------------------------------------------------------------------------


def test_labels_carry_their_codes_in_the_config() -> None:
    values = {
        "name": "x",
        "data": {"channels": [{"name": "T1"}], "labels": {"lesion": {"value": 2, "anatomy": "Brain"}, "b": 3}},
    }

    config = config_from_dict(values, source="test")

    assert config.data.labels == {"lesion": 2, "b": 3}
    assert config.data.label_codes["lesion"].anatomy == "Brain"


def test_an_unknown_code_is_refused(scan: Scan, tmp_path: Path) -> None:
    info = SegInfo({"a": 3}, "1", "", {"a": LabelCode(type="Nonsenseword")})

    with pytest.raises(ConfigError, match="Nonsenseword"):
        write_seg(tmp_path / "seg.dcm", random_mask(scan), scan, info)


def test_the_longest_distance_is_that_of_the_two_farthest_points() -> None:
    from scipy.spatial.distance import pdist

    rng = np.random.default_rng(0)
    flat = np.pad(rng.random((400, 2)), ((0, 0), (0, 1)))
    line = np.outer(np.arange(500.0), [1, 2, 2])
    for points in (rng.random((50, 3)), rng.random((1000, 3)), flat, line):
        assert longest_distance(points) == pytest.approx(pdist(points).max())
    assert longest_distance(np.zeros((1, 3))) == 0


def test_components_are_measured_in_mm_on_an_anisotropic_grid() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[1, 1, 1:4] = True
    mask[5:7, 5, 5] = True

    first, second = measure_components(mask, np.diag([1.0, 2.0, 3.0, 1]))

    assert (first.volume_ml, first.diameter_mm) == (pytest.approx(0.018), pytest.approx(6.0))
    assert (second.volume_ml, second.diameter_mm) == (pytest.approx(0.012), pytest.approx(1.0))


def test_frames_of_a_volume_in_several_multi_frame_files_refer_to_their_files(tmp_path: Path) -> None:
    """Write one enhanced file per slice, as some scanners do."""
    (tmp_path / "in").mkdir()
    whole = pydicom.dcmread(write_enhanced(tmp_path / "mr.dcm", [volume()], AFFINE))
    pixels, groups = whole.pixel_array, list(whole.PerFrameFunctionalGroupsSequence)
    for k in range(len(groups)):
        part = pydicom.dcmread(tmp_path / "mr.dcm")
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.PerFrameFunctionalGroupsSequence, part.NumberOfFrames = groups[k : k + 1], 1
        if k % 2:  # in a file with one frame, the position may be in the shared groups
            shared = part.SharedFunctionalGroupsSequence[0]
            shared.PlanePositionSequence = groups[k].PlanePositionSequence
            del part.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
        part.PixelData = pixels[k].tobytes()
        part.save_as(tmp_path / "in" / f"{k}.dcm")
    scan = read_scan(tmp_path / "in")
    mask = random_mask(scan)

    sources = write_seg(tmp_path / "seg.dcm", mask, scan, INFO)
    write_report(tmp_path / "sr.dcm", tmp_path / "seg.dcm", sources, [RegionMeasure("tumour", 0, 1.0, 2.0)], {})

    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", scan, INFO.labels), mask)
    place_of = {}
    for d in map(pydicom.dcmread, scan.source.paths):
        own, shared = d.PerFrameFunctionalGroupsSequence[0], d.SharedFunctionalGroupsSequence[0]
        place = own if "PlanePositionSequence" in own else shared
        place_of[str(d.SOPInstanceUID)] = place.PlanePositionSequence[0].ImagePositionPatient
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedFrameNumber == 1
        place = place_of[source.ReferencedSOPInstanceUID]
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place, atol=1e-3)
    listed = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {i.ReferencedSOPInstanceUID for i in listed} == set(place_of)
