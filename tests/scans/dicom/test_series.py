"""Tests of DICOM series: read correctly or refused with a code; real series are compared with their headers."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings

from medhybrid.config import ScansConfig
from medhybrid.errors import SeriesError
from medhybrid.geometry import LPS_FROM_RAS, Grid, corner_distance_mm, is_sheared
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from medhybrid.steps.convert import convert
from tests.conftest import SHARED
from tests.strategies import affines
from tests.synthetic import AFFINE

PLAIN = {
    "ct_with_rtstruct/ct",
    "ct_with_seg/ct",
    "mr_coronal_philips",
    "mr_enhanced_hyperfine",
    "mr_enhanced_siemens",
    "mr_left_decubitus_siemens",
    "mr_oblique_hitachi",
    "mr_sagittal_jpegls",
    "mr_sagittal_siemens",
    "mr_slope_by_slice",
    "study_glioma_like/FLAIR",
    "study_glioma_like/HippoCrop",
    "study_glioma_like/T1post",
    "study_glioma_like/T1pre",
    "study_glioma_like/T2",
}
"""Folders of the public collection that are read as one volume, by its manifest."""


def volume(shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)


@settings(max_examples=30, deadline=None)
@given(affine=affines())
def test_reading_gives_back_what_was_written_in_any_orientation(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray
) -> None:
    array = volume()
    folder = tmp_path_factory.mktemp("series")
    write_mr_series(folder, array, affine, description="T1", study="s", case="c")

    scan = read_scan(folder)

    # the reader may reverse the slices; each voxel must keep its value and position
    index = np.argwhere(np.ones(array.shape))
    to_scan = np.linalg.inv(scan.affine) @ affine
    where = np.rint(index @ to_scan[:3, :3].T + to_scan[:3, 3]).astype(int)
    np.testing.assert_array_equal(scan.array[0][tuple(where.T)], array[tuple(index.T)])


@settings(max_examples=20, deadline=None)
@given(affine=affines())
def test_the_grid_of_an_axis_aligned_or_oblique_series_agrees_with_itk(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("series")
    write_mr_series(folder, volume(), affine, description="T1", study="s", case="c")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    judge = reader.Execute()

    scan = read_scan(folder)

    theirs = np.eye(4)
    theirs[:3, :3] = np.array(judge.GetDirection()).reshape(3, 3) * judge.GetSpacing()
    theirs[:3, 3] = judge.GetOrigin()
    np.testing.assert_allclose(LPS_FROM_RAS @ scan.affine, theirs, atol=1e-3)
    np.testing.assert_array_equal(scan.array[0], sitk.GetArrayFromImage(judge).transpose(2, 1, 0))


@settings(max_examples=20, deadline=None)
@given(affine=affines())
def test_the_values_of_a_series_agree_with_highdicom(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray
) -> None:
    paths = write_mr_series(tmp_path_factory.mktemp("series"), volume(), affine, description="T1", study="s", case="c")
    judge = hd.get_volume_from_series([pydicom.dcmread(p) for p in paths], dtype=np.float32)

    scan = read_scan(paths)

    index = np.argwhere(np.ones(judge.array.shape))  # slice, row, column; to LPS by highdicom's affine
    ras = (index @ judge.affine[:3, :3].T + judge.affine[:3, 3]) * (-1, -1, 1)
    to_voxel = np.linalg.inv(scan.affine)
    voxels = ras @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-3)
    np.testing.assert_array_equal(scan.array[0][tuple(np.rint(voxels).astype(int).T)], judge.array[tuple(index.T)])


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "series", volume(), AFFINE, description="T1", study="s", case="c")


def change(path: Path, edit: Callable[[pydicom.Dataset], None]) -> None:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def test_order_of_files_and_instance_numbers_do_not_matter(series: list[Path]) -> None:
    expected = read_scan(series[0].parent)
    for number, path in enumerate(series):
        change(path, lambda d, n=number: setattr(d, "InstanceNumber", 100 - 7 * n))  # type: ignore[misc]

    scan = read_scan(list(reversed(series)))

    np.testing.assert_array_equal(scan.array, expected.array)
    np.testing.assert_allclose(scan.affine, expected.affine)


def test_a_missing_slice_is_refused_with_its_position(series: list[Path]) -> None:
    series[1].unlink()

    with pytest.raises(SeriesError) as caught:
        read_scan(series[0].parent)

    assert caught.value.code in ("missing_slice", "nonuniform")


def test_a_duplicate_slice_is_refused(series: list[Path]) -> None:
    copy = series[0].with_name("again.dcm")
    copy.write_bytes(series[0].read_bytes())
    change(copy, lambda d: setattr(d, "SOPInstanceUID", pydicom.uid.generate_uid()))

    with pytest.raises(SeriesError) as caught:
        read_scan(series[0].parent)

    assert caught.value.code in ("duplicate_slice", "multi_volume")


def test_a_tilted_gantry_is_refused(series: list[Path]) -> None:
    for k, path in enumerate(series):
        position = [float(v) for v in pydicom.dcmread(path).ImagePositionPatient]
        position[1] += 0.5 * k
        change(path, lambda d, p=position: setattr(d, "ImagePositionPatient", p))  # type: ignore[misc]

    with pytest.raises(SeriesError) as caught:
        read_scan(series[0].parent)

    assert caught.value.code == "gantry_tilt"


def test_a_truncated_file_is_refused(series: list[Path]) -> None:
    series[0].write_bytes(series[0].read_bytes()[:-20])

    with pytest.raises(SeriesError):
        read_scan(series)


def test_slopes_are_applied_slice_by_slice(series: list[Path]) -> None:
    plain = read_scan(series[0].parent).array
    for k, path in enumerate(series):

        def scale(d: pydicom.Dataset, k: int = k) -> None:
            d.RescaleSlope, d.RescaleIntercept = 1 + k, -5

        change(path, scale)

    scaled = read_scan(series[0].parent).array

    ratios = np.median((scaled + 5)[0][plain[0] > 0].reshape(-1) / plain[0][plain[0] > 0].reshape(-1))
    assert ratios > 1
    assert scaled.min() == -5


def test_a_missing_frame_of_reference_is_accepted(series: list[Path]) -> None:
    expected = read_scan(series[0].parent)
    for path in series:
        change(path, lambda d: delattr(d, "FrameOfReferenceUID"))

    scan = read_scan(series[0].parent)

    np.testing.assert_array_equal(scan.array, expected.array)
    assert "FrameOfReferenceUID is absent" in scan.notes


def real_folders() -> list[str]:
    table = SHARED / "data" / "dicom" / "MANIFEST.csv"
    if not table.exists():
        return []
    with table.open() as file:
        return [row["folder"] for row in csv.DictReader(file)]


REFUSED = {
    "ct_gantry_tilt_siemens": "gantry_tilt",
    "ct_missing_slice_ge": "missing_slice",
    "ct_same_position_siemens": "multi_volume",
}
TILED = {"mr_mosaic_coronal_siemens": 2, "mr_mosaic_nine_syntaxes": 9, "mr_vframe_uih": 17}
"""Sheets of tiled slices, a volume each; `test_tiles.py` judges their places."""

WITH_SKIPPED_FILES = {
    "ct_with_rtstruct/rtstruct",
    "ct_with_seg/seg_five_overlapping",
    "ct_with_seg/seg_liver",
    "mr_localizer_3plane_philips",
    "mr_rgb_secondary_capture",
}
SPLIT = {"mr_enhanced_fieldmap_philips": 2, "mr_mixed_orientation_philips": 2, "mr_two_timepoints_ge": 2, **TILED}
"""Results for the other folders: the manifest's decision, and the implemented one."""


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("folder", real_folders() or [pytest.param("", marks=pytest.mark.skip("no public data here"))])
def test_a_real_series_is_converted_according_to_its_headers_or_refused(folder: str, tmp_path: Path) -> None:
    """Compare converted values with `dicom_truth.py`, which places each frame by its own header."""
    rows = convert(SHARED / "data" / "dicom" / folder, out=tmp_path)

    volumes = sorted(tmp_path.glob("*.nii.gz"))
    assert len(volumes) == (1 if folder in PLAIN else SPLIT.get(folder, 0))
    assert [r.code for r in rows if r.state == "refused"] == ([REFUSED[folder]] if folder in REFUSED else [])
    assert any(r.state == "skipped" for r in rows) == (folder in WITH_SKIPPED_FILES)
    if volumes and folder not in TILED:
        assert_right(SHARED / "data" / "dicom" / folder, volumes)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="no public data here")
def test_a_real_tilted_series_may_be_kept_with_its_shear(tmp_path: Path) -> None:
    folder = SHARED / "data" / "dicom" / "ct_gantry_tilt_siemens"

    convert(folder, out=tmp_path, options=ScansConfig(keep_sheared=True))

    assert_right(folder, sorted(tmp_path.glob("*.nii.gz")))


def assert_right(folder: Path, volumes: list[Path]) -> None:
    judge = [sys.executable, str(SHARED / "tools" / "dicom_truth.py"), str(folder), *map(str, volumes)]
    verdict = subprocess.run(judge, capture_output=True, text=True)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_written_test_series_are_orthogonal(series: list[Path]) -> None:
    scan = read_scan(series[0].parent)

    assert not is_sheared(scan.affine)
    same = Grid(scan.grid.shape, scan.affine)
    assert corner_distance_mm(scan.grid, same) == 0


def test_each_volume_of_a_series_has_its_own_acquisition_parameters(tmp_path: Path) -> None:
    for echo, (time, agent) in enumerate([(20, "NONE"), (90, "GADAVIST")], start=1):
        for path in write_mr_series(
            tmp_path / "in" / str(echo), volume(), AFFINE, description=f"echo {echo}", study="s", case="c"
        ):
            d = pydicom.dcmread(path)
            d.EchoTime, d.ContrastBolusAgent, d.SeriesInstanceUID = str(time), agent, "1.2.3"
            d.save_as(path)

    convert(tmp_path / "in", out=tmp_path / "out")

    made = [json.loads((tmp_path / "out" / f"series__echo_{n}.json").read_text()) for n in (1, 2)]
    assert [m["echo_time_ms"] for m in made] == [20, 90]
    assert [m["contrast_agent"] for m in made] == ["NONE", "GADAVIST"]


@pytest.mark.parametrize("is_numbered", [True, False])
@pytest.mark.parametrize(("shift_mm", "is_refused"), [(0.01, False), (0.02, False), (0.3, False), (0.9, True)])
def test_a_slightly_shifted_repeat_is_a_separate_volume(
    shift_mm: float, is_refused: bool, is_numbered: bool, tmp_path: Path
) -> None:
    for n in (1, 2):
        affine = AFFINE.copy()
        affine[:3, 3] += affine[:3, 2] / np.linalg.norm(affine[:3, 2]) * shift_mm * (n - 1)
        array = volume() + 1000 * n
        for path in write_mr_series(tmp_path / str(n), array, affine, description=str(n), study="s", case="c"):
            d = pydicom.dcmread(path)
            d.SeriesInstanceUID, d.InstanceNumber = "1.2.3", d.InstanceNumber + 100 * n
            if is_numbered:
                d.AcquisitionNumber = n
            d.save_as(path)
    options = ScansConfig(resample_irregular=True)

    entries = discover(tmp_path).entries

    if is_refused:
        assert [e.code for e in entries] == ["multi_volume"]
        return
    assert [e.part for e in entries] == [f"{'acquisition' if is_numbered else 'time'}_{n}" for n in (1, 2)]
    for n, entry in enumerate(entries, start=1):
        scan = read_entry(entry, "x", options)
        np.testing.assert_array_equal(np.sort(scan.array.ravel()), np.sort(volume().ravel() + 1000 * n))
