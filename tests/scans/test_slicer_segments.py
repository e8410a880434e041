"""Tests of 3D Slicer segmentations: names, layers and values of segments."""

from pathlib import Path

import numpy as np
import pytest

from medhybrid.errors import ScanError
from medhybrid.scans.reader import read_scan
from medhybrid.scans.slicer_segments import segments_of_nrrd

LAYERS = np.arange(2 * 4 * 3 * 2, dtype=np.uint8).reshape(2, 4, 3, 2) % 3


def write_segmentation(folder: Path, pairs: str, layers: np.ndarray = LAYERS) -> Path:
    header = (
        "NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, layers.shape))}\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,2)\nkinds: list domain domain domain\nencoding: raw\n"
        "space origin: (0,0,0)\n"
    )
    path = folder / "x.seg.nrrd"
    path.write_bytes((header + pairs + "\n").encode() + layers.tobytes(order="F"))
    return path


def test_segments_are_named_with_layer_and_value(tmp_path: Path) -> None:
    path = write_segmentation(
        tmp_path,
        "Segment0_ID:=s_1\nSegment0_Name:=Tumeur é\nSegment0_LabelValue:=2\nSegment0_Layer:=0\n"
        "Segment1_Name:=edema: left\nSegment1_LabelValue:=1\nSegment1_Layer:=1\nSegment1_Color:=x\n"
        "Segment10_ID:=only an ID\nSegment10_LabelValue:=1\nSegment10_Layer:=0\n",
    )

    assert segments_of_nrrd(path) == {"Tumeur é": ((0, 2),), "edema: left": ((1, 1),), "only an ID": ((0, 1),)}
    np.testing.assert_array_equal(read_scan(path).array, LAYERS)


def test_segments_of_older_versions_have_a_layer_each(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path, "Segment0_Name:=a\nSegment1_Name:=b\n")

    assert segments_of_nrrd(path) == {"a": ((0, 1),), "b": ((1, 1),)}


def test_a_file_without_segments_has_none(tmp_path: Path) -> None:
    assert segments_of_nrrd(write_segmentation(tmp_path, "SegmentX_Name:=a\nother:=b\n")) == {}
    assert segments_of_nrrd(tmp_path / "absent.mha") == {}


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ("Segment0_Name:=a\nSegment0_Layer:=2\n", "layer 2"),
        ("Segment0_Name:=a\nSegment0_Layer:=-1\n", "layer -1"),
        ("Segment0_Name:=a\nSegment0_LabelValue:=0\n", "found 0"),
        ("Segment0_Name:=a\nSegment0_LabelValue:=1.5\n", "1.5"),
        ("Segment0_Name:=a\nSegment0_LabelValue:=²\n", "²"),
        ("Segment0_Name:=a\nSegment0_Layer:=0\nSegment1_Name:=b\nSegment1_Layer:=0\n", "value 1 twice in layer 0"),
    ],
)
def test_reject_segments_that_cannot_be_used(tmp_path: Path, pairs: str, found: str) -> None:
    with pytest.raises(ScanError, match=found):
        segments_of_nrrd(write_segmentation(tmp_path, pairs))
