"""Tests of writing label maps as DICOM SEG and reading them back, also with headers of real scanners."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import read_masks
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.conftest import SHARED
from tests.scans.dicom.test_series import PLAIN
from tests.synthetic import AFFINE, blob_case

LABELS = {"left": 1, "right": 4}


def read_back(path: Path, scan: Scan, labels: Mapping[str, int]) -> np.ndarray:
    """Return the label map of a SEG without overlapping segments, on the scan's grid."""
    masks = read_masks(path, scan, list(labels))
    return sum(mask * np.uint8(labels[name]) for name, mask in masks.items()) + np.zeros(scan.grid.shape, np.uint8)


def test_writing_and_reading_is_identity(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    write_mr_series(tmp_path / "series", image, AFFINE, description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "series")
    mask = mask.reshape(scan.array.shape[1:])

    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo(LABELS, "0"))

    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", scan, LABELS), mask)


def test_labels_that_are_invalid_in_dicom_get_valid_names_and_are_read_back(tmp_path: Path) -> None:
    labels = {"GTV\\CTV": 1, "x" * 65: 2, "x" * 64: 3, "a\nb": 4, " c ": 5, "Ödem": 6}
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1, 1, 1:6], mask[3, 3, 3] = (1, 2, 3, 4, 6), 5
    write_mr_series(tmp_path / "s", np.ones((4, 5, 6), np.uint16), AFFINE, description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "s")

    sources = write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo(labels, "0"))
    write_report(tmp_path / "sr.dcm", tmp_path / "seg.dcm", sources, [RegionMeasure(n, 0, 1, 2) for n in labels], {})

    segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    names = [s.SegmentLabel for s in segments]
    assert names == ["GTV/CTV", "x" * 64, "x" * 62 + "~2", "a b", "c", "Ödem"]
    found = read_masks(tmp_path / "seg.dcm", scan, ["GTV\\CTV", "x" * 65, "a\nb", "c", "Ödem"])
    for name, value in zip(["GTV\\CTV", "x" * 65, "a\nb", "c", "Ödem"], (1, 2, 4, 5, 6), strict=True):
        np.testing.assert_array_equal(found[name], mask == value)


def test_uids_are_derived_from_the_content_of_a_segmentation(tmp_path: Path) -> None:
    image, mask = blob_case(0)
    write_mr_series(tmp_path / "series", image, AFFINE, description="T1", study="s", case="c")
    scan = read_scan(tmp_path / "series")
    mask = mask.reshape(scan.array.shape[1:])
    other = np.where(np.arange(mask.size).reshape(mask.shape) == 5, 1, mask).astype(mask.dtype)

    def uids(name: str, values: np.ndarray, model: str = "a") -> list[str]:
        sources = write_seg(tmp_path / f"{name}.dcm", values, scan, SegInfo(LABELS, "0", model))
        rows = [RegionMeasure("left", 0, 1.0, 2.0)]
        write_report(tmp_path / f"{name}_sr.dcm", tmp_path / f"{name}.dcm", sources, rows, {})
        files = [pydicom.dcmread(tmp_path / f"{name}{end}.dcm") for end in ("", "_sr")]
        return [str(u) for d in files for u in (d.SOPInstanceUID, d.SeriesInstanceUID)]

    assert uids("first", mask) == uids("again", mask)
    for different in (uids("mask", other), uids("model", mask, "b")):
        assert not set(different) & set(uids("first", mask))
    assert len(set(uids("first", mask))) == 4


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("folder", sorted(PLAIN))
def test_every_plain_real_series_gets_a_segmentation_on_its_voxels(shared: Path, folder: str, tmp_path: Path) -> None:
    scan = read_scan(SHARED / "data" / "dicom" / folder)
    mask = np.zeros(scan.array.shape[1:], np.uint8)
    mask[3:9, 4:9, : max(1, mask.shape[2] // 2)] = 1

    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"lesion": 1}, "0"))

    np.testing.assert_array_equal(read_back(tmp_path / "seg.dcm", scan, {"lesion": 1}), mask)
