"""The files of a series with many volumes are read once for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from medhybrid.scans import discover
from medhybrid.scans.dicom import read
from medhybrid.scans.reader import read_entry
from tests.scans.dicom.enhanced import write_enhanced

ARRAYS = [np.random.default_rng(n).integers(1, 4000, (6, 5, 4)).astype(np.uint16) for n in range(2)]
N_FILES = 5


def write_phases(folder: Path) -> None:
    """Write a series of files with two volumes each."""
    series, study, frame = (generate_uid() for _ in range(3))
    for n in range(N_FILES):
        path = write_enhanced(folder / f"{n}.dcm", ARRAYS, np.diag([-1.0, -1.0, 2.0, 1.0]))
        d = pydicom.dcmread(path)
        d.SeriesInstanceUID, d.StudyInstanceUID, d.FrameOfReferenceUID = series, study, frame
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        d.InstanceNumber = n + 1
        for frame_groups in d.PerFrameFunctionalGroupsSequence:
            content = Dataset()
            content.FrameAcquisitionNumber = n + 1
            frame_groups.FrameContentSequence = Items([content])
        d.save_as(path)


def test_headers_are_read_once_for_all_volumes_of_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phases(tmp_path)
    entries = discover(tmp_path).entries
    opened: list[Path] = []
    read_header = read.read_header

    def counted(path: Path, **options: object) -> object:
        opened.append(path)
        return read_header(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(read, "read_header", counted)

    scans = [read_entry(e, e.name) for e in entries]

    assert len(scans) == 2 * N_FILES
    assert len(opened) == N_FILES
    found = [s.array[0] for s in scans]
    for n, array in enumerate(ARRAYS):
        expected = (1 + n) * array.astype(float) - 10 * n
        assert sum(np.array_equal(f, expected) for f in found) == N_FILES


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_phases(tmp_path)
    entries = discover(tmp_path).entries
    before = read_entry(entries[0], "x").array
    for path in tmp_path.iterdir():
        d = pydicom.dcmread(path)
        d.PixelData = (np.frombuffer(d.PixelData, np.uint16) + 1).tobytes()
        for item in d.PerFrameFunctionalGroupsSequence:
            item.PixelValueTransformationSequence[0].RescaleIntercept = 500
        d.save_as(path)
        path.touch()

    after = read_entry(entries[0], "x").array

    assert not np.array_equal(before, after)
    assert after.min() > 500
