"""A label map becomes a DICOM SEG and comes back as it was, also with the headers of real scanners."""

from pathlib import Path

import numpy as np
import pytest

from medhybrid.errors import ScanError
from medhybrid.geometry import place_on_grid
from medhybrid.scans.dicom.seg import SegInfo, read_seg, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.conftest import SHARED
from tests.scans.dicom.test_series import PLAIN
from tests.synthetic import AFFINE, blob_case

LABELS = {"left": 1, "right": 4}


def test_writing_and_reading_is_identity(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    write_mr_series(tmp_path / "series", image, AFFINE, description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "series")
    mask = mask.reshape(scan.array.shape[1:])

    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo(LABELS, "0"))

    seg = read_seg(tmp_path / "seg.dcm", LABELS, case="c")
    np.testing.assert_array_equal(place_on_grid(seg.array[0], seg.grid, scan.grid), mask)


def test_a_segment_that_is_no_label_is_refused(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    write_mr_series(tmp_path / "series", image, AFFINE, description="T1", study="s", case="c")
    write_seg(tmp_path / "seg.dcm", mask, read_scan(tmp_path / "series"), SegInfo(LABELS, "0"))

    with pytest.raises(ScanError, match="'right' is not among the labels"):
        read_seg(tmp_path / "seg.dcm", {"left": 1}, case="c")


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("folder", sorted(PLAIN))
def test_every_plain_real_series_gets_a_segmentation_on_its_voxels(shared: Path, folder: str, tmp_path: Path) -> None:
    scan = read_scan(SHARED / "data" / "dicom" / folder)
    mask = np.zeros(scan.array.shape[1:], np.uint8)
    mask[3:9, 4:9, : max(1, mask.shape[2] // 2)] = 1

    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"lesion": 1}, "0"))

    seg = read_seg(tmp_path / "seg.dcm", {"lesion": 1}, case="c")
    np.testing.assert_array_equal(place_on_grid(seg.array[0], seg.grid, scan.grid), mask)
