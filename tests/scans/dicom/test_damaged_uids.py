"""Series are found although their UIDs are placeholders, or differ between the slices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from medhybrid.errors import SeriesError
from medhybrid.scans import discover
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_entry, read_scan
from tests.scans.dicom.test_awkward import edit_all

N = 6


def values(level: int) -> np.ndarray:
    """Return a volume (X, Y, Z) whose slices differ."""
    return np.broadcast_to(level + np.arange(N), (12, 10, N)).astype(np.int16)


def write_series(folder: Path, array: np.ndarray) -> list[Path]:
    return write_mr_series(folder, array, np.diag([1, 1, 2, 1.0]), description="T1", study=str(folder), case="c")


def placeholders(clock: Callable[[int], str]) -> Callable[[Dataset, int], None]:
    """Return an edit to the UIDs of an anonymiser that gives all patients the same ones."""

    def edit(d: Dataset, k: int) -> None:
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        d.PatientID = d.PatientName = d.PatientBirthDate = ""
        d.AcquisitionTime = clock(k)

    return edit


@pytest.mark.parametrize("shift_mm", [0.0, 15.0, 100.0])
def test_patients_with_one_placeholder_are_scans_by_folder(shift_mm: float, tmp_path: Path) -> None:
    edit_all(write_series(tmp_path / "a", values(100)), placeholders(lambda k: f"10{2 * k:02d}00"))
    paths = write_series(tmp_path / "b", values(900))
    edit_all(paths, placeholders(lambda k: f"10{2 * (N - k) + 1:02d}00"))
    edit_all(
        paths,
        lambda d, _: setattr(
            d, "ImagePositionPatient", [*d.ImagePositionPatient[:2], d.ImagePositionPatient[2] + shift_mm]
        ),
    )

    found = {e.name: read_entry(e, e.name).array for e in discover(tmp_path).entries}

    assert set(found) == {"a", "b"}
    assert found["a"].max() < 200 < found["b"].min()


def test_a_series_in_two_folders_is_one_scan_if_its_numbers_go_on(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", values(0))
    edit_all(paths, placeholders(lambda k: "100000"))
    (tmp_path / "b").mkdir()
    for path in paths[N // 2 :]:
        path.rename(tmp_path / "b" / path.name)

    (entry,) = discover(tmp_path).entries

    assert entry.shape == (12, 10, N)


def test_a_copy_of_a_folder_counts_once_and_has_the_name_of_the_first(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "T1", values(0))
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    assert [e.name for e in discover(tmp_path).entries] == ["a__T1"]


@pytest.mark.parametrize("identity", ["", "ANON"])
@pytest.mark.parametrize("heights", [(0, 5, 10, 15), (3, 7.7, 1, 55), (4, 4, 4, 4)])
def test_single_slices_of_patients_with_one_placeholder_stay_apart(
    heights: tuple[float, ...], identity: str, tmp_path: Path
) -> None:
    for k, height in enumerate(heights):
        folder = tmp_path / f"p{k}"
        first, *others = write_series(folder, values(100 * k))
        for path in others:
            path.unlink()
        d = dcmread(first)
        d.SeriesInstanceUID, d.PatientID, d.PatientName, d.InstanceNumber = "1.2.3.4", identity, identity, 1
        d.ImagePositionPatient = [0, 0, height]
        d.save_as(first)

    entries = discover(tmp_path).entries

    assert [(e.name, e.shape, e.problem) for e in entries] == [(f"p{k}", (12, 10, 1), "") for k in range(4)]


@pytest.mark.parametrize("identity", ["", "ANON"])
@pytest.mark.parametrize("n_more", [0, 1])
@pytest.mark.parametrize("shift_mm", [0.0, 2.0 * N, 40.0])
def test_patients_in_folders_with_one_placeholder_are_scans(
    shift_mm: float, n_more: int, identity: str, tmp_path: Path
) -> None:
    for name, level, n, shift in (("a", 100, N, 0.0), ("b", 900, N + n_more, shift_mm)):
        array = np.broadcast_to(level + np.arange(n), (12, 10, n)).astype(np.int16)
        paths = write_series(tmp_path / name, array)
        edit_all(paths, placeholders(lambda k: "100000"))
        for path in paths:
            d = dcmread(path)
            d.PatientID = identity
            x, y, z = d.ImagePositionPatient
            d.ImagePositionPatient = [x, y, z + shift]
            d.save_as(path)

    found = {e.name: read_entry(e, e.name).array for e in discover(tmp_path).entries}

    assert found["a"].max() < 200 < found["b"].min()


def test_a_missing_slice_of_a_series_with_a_uid_for_each_is_said(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", values(50))
    edit_all(paths, lambda d, k: (setattr(d, "SeriesInstanceUID", generate_uid()), setattr(d, "SeriesNumber", 4)))
    paths[3].unlink()

    (entry,) = discover(tmp_path).entries

    assert entry.shape == (12, 10, N - 1)
    with pytest.raises(SeriesError, match=r"missing|distances"):
        read_entry(entry, "s")


@pytest.mark.parametrize("name", ["SeriesNumber", "SeriesDescription"])
def test_two_series_of_a_folder_with_a_uid_for_each_slice_are_two_scans(name: str, tmp_path: Path) -> None:
    for k in (1, 2):
        paths = write_series(tmp_path / str(k), values(100 * k))

        def change(d: Dataset, _: int, k: int = k) -> None:
            d.SeriesInstanceUID, d.StudyInstanceUID, d.SeriesNumber = generate_uid(), "1.2.3", 1
            setattr(d, name, str(k))

        edit_all(paths, change)
        (tmp_path / "s").mkdir(exist_ok=True)
        for path in paths:
            path.rename(tmp_path / "s" / f"{k}_{path.name}")
        (tmp_path / str(k)).rmdir()

    entries = discover(tmp_path).entries

    assert [(e.shape, e.problem) for e in entries] == [((12, 10, N), "")] * 2


EACH = {
    "SeriesInstanceUID": lambda d, k: setattr(d, "SeriesInstanceUID", generate_uid()),
    "FrameOfReferenceUID": lambda d, k: setattr(d, "FrameOfReferenceUID", generate_uid()),
    "one SOPInstanceUID": lambda d, k: setattr(d, "SOPInstanceUID", "1.2.3"),
    "StudyInstanceUID and SeriesInstanceUID": lambda d, k: (
        setattr(d, "SeriesInstanceUID", generate_uid()),
        setattr(d, "StudyInstanceUID", generate_uid()),
    ),
}


@pytest.mark.parametrize("edit", EACH.values(), ids=list(EACH))
def test_slices_with_another_uid_each_are_one_volume(edit: Callable[[Dataset, int], None], tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", values(50))
    plain = read_scan(tmp_path / "s")
    edit_all(paths, edit)

    (entry,) = discover(tmp_path).entries
    scan = read_scan(tmp_path / "s")

    assert entry.problem == ""
    np.testing.assert_array_equal(scan.array, plain.array)
    np.testing.assert_allclose(scan.affine, plain.affine)
    np.testing.assert_array_equal(read_entry(entry, "s").array, plain.array)


@pytest.mark.parametrize("why", ["another number of the series", "gaps", "one number", "another size"])
def test_single_slices_of_several_series_stay_apart(why: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", values(50))

    def edit(d: Dataset, k: int) -> None:
        d.SeriesInstanceUID = generate_uid()
        if why == "another number of the series":
            d.SeriesNumber = k + 1
        elif why == "gaps":
            x, y, z = d.ImagePositionPatient
            d.ImagePositionPatient, d.SliceThickness = [x, y, 10 * z], 2
        elif why == "one number":
            d.InstanceNumber = 1
        elif k % 2:
            d.Rows, d.Columns = d.Columns, d.Rows

    edit_all(paths, edit)

    assert len([e for e in discover(tmp_path).entries if e.shape[2:] == (1,)]) == N
    assert all(dcmread(p).SeriesInstanceUID for p in paths)
