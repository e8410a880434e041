"""Tests of reference masks in unusual encodings: masks of single bits in any byte order, and numbers with other notation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from medhybrid.errors import ScanError
from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import read_masks, reference_names
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan
from tests.scans.dicom.test_awkward import edit_all
from tests.scans.dicom.test_references import CENTRE, OUTER, ellipse, inside_ellipse, write_rtstruct, write_series

LABELS = {"a": 1, "b": 2}


def scan_of(folder: Path, shape: tuple[int, int, int]) -> Scan:
    array = np.random.default_rng(0).integers(0, 4000, shape)
    write_mr_series(folder, array, np.diag([1, 1, 2, 1.0]), description="T1", study="s", case="c")
    return read_scan(folder)


def deflate(d: Dataset, path: Path) -> None:
    d.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(path, d, implicit_vr=False, little_endian=True, force_encoding=True)


def store_big_endian(vr: str) -> Callable[[Dataset, Path], None]:
    """Return a writer of big-endian files; its words (OW) have their bytes exchanged, its bytes (OB) have not."""

    def write(d: Dataset, path: Path) -> None:
        content = d.PixelData + bytes(len(d.PixelData) % 2)
        d.PixelData = np.frombuffer(content, "<u2").astype(">u2").tobytes() if vr == "OW" else content
        d["PixelData"].VR = vr
        d.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(path, d, implicit_vr=False, little_endian=False, force_encoding=True)

    return write


STORED = {
    "deflated": deflate,
    "big_endian_bytes": store_big_endian("OB"),
    "big_endian_words": store_big_endian("OW"),
}


@pytest.mark.parametrize("shape", [(7, 9, 5), (5, 3, 3), (8, 6, 4)], ids=str)
@pytest.mark.parametrize("encoding", STORED)
def test_masks_of_single_bits_are_equal_in_every_encoding(
    encoding: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    scan = scan_of(tmp_path / "in", shape)
    mask = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    write_seg(tmp_path / "plain.dcm", mask, scan, SegInfo(LABELS, "0"))
    d = pydicom.dcmread(tmp_path / "plain.dcm")
    assert (d.file_meta.TransferSyntaxUID, d.BitsAllocated) == (ExplicitVRLittleEndian, 1)

    STORED[encoding](d, tmp_path / "other.dcm")

    plain, other = (read_masks(tmp_path / f"{n}.dcm", scan, list(LABELS)) for n in ("plain", "other"))
    for name, value in LABELS.items():
        np.testing.assert_array_equal(plain[name], mask == value)
        np.testing.assert_array_equal(other[name], plain[name])


@pytest.mark.parametrize("encoding", STORED)
def test_a_segmentation_of_surplus_frames_is_refused_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "in", (24, 17, 7))
    mask = np.ones(scan.array.shape[1:], np.uint8)
    write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"a": 1}, "0"))
    d = pydicom.dcmread(tmp_path / "seg.dcm")
    del d.PerFrameFunctionalGroupsSequence[-1]
    d.NumberOfFrames = len(d.PerFrameFunctionalGroupsSequence)

    STORED[encoding](d, tmp_path / "seg.dcm")

    with pytest.raises(ScanError, match="more frames than NumberOfFrames"):
        read_masks(tmp_path / "seg.dcm", scan, ["a"])


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    write_series(tmp_path / "in")
    return read_scan(tmp_path / "in")


def structure(scan: Scan, path: Path) -> Path:
    return write_rtstruct(path, {"a": [ellipse(scan.source.header[k], CENTRE, OUTER) for k in (2, 3)]})


def drawn(scan: Scan) -> np.ndarray:
    mask = np.zeros(scan.array.shape[1:], bool)
    mask[:, :, 2:4] = inside_ellipse(CENTRE, OUTER)[:, :, None]
    return mask


@pytest.mark.parametrize(("number", "referenced"), [("01", "1"), ("1", "01"), ("+1", "1"), ("01", "001")])
def test_the_number_of_a_structure_counts_regardless_of_its_notation(
    number: str, referenced: str, scan: Scan, tmp_path: Path
) -> None:
    path = structure(scan, tmp_path / "rt.dcm")

    def rewrite(d: Dataset, _: int) -> None:
        d.StructureSetROISequence[0].ROINumber = number
        d.ROIContourSequence[0].ReferencedROINumber = referenced

    edit_all([path], rewrite)

    assert reference_names(path) == ["a"]
    np.testing.assert_array_equal(read_masks(path, scan, ["a"])["a"], drawn(scan))


def with_data(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of the numbers of each contour."""
    d = pydicom.dcmread(path)
    for contour in d.ROIContourSequence[0].ContourSequence:
        contour.ContourData = change("\\".join(map(str, contour.ContourData))).split("\\")
    d.save_as(path)


@pytest.mark.parametrize("end", ["\\", "\\ ", "\\\\", " \\"])
def test_a_backslash_after_the_last_number_of_a_contour_is_ignored(end: str, scan: Scan, tmp_path: Path) -> None:
    path = structure(scan, tmp_path / "rt.dcm")

    with_data(path, lambda text: text + end)

    np.testing.assert_array_equal(read_masks(path, scan, ["a"])["a"], drawn(scan))


@pytest.mark.parametrize("gap", ["", "\\"])
def test_a_missing_number_within_a_contour_is_refused(gap: str, scan: Scan, tmp_path: Path) -> None:
    path = structure(scan, tmp_path / "rt.dcm")

    def remove_one(text: str) -> str:
        first, _, rest = text.split("\\", 2)
        return f"{first}\\{gap}\\{rest}"

    with_data(path, remove_one)

    with pytest.raises(ScanError):
        read_masks(path, scan, ["a"])
