"""Segments of 3D Slicer are converted to labels by their names, regardless of their values."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import medhybrid
from medhybrid.config import DataConfig, ScansConfig
from medhybrid.data.checks import from_error
from medhybrid.data.layouts import Case, Files
from medhybrid.data.load import load_mask
from medhybrid.data.segments import SegmentRules, label_map_of, match_names
from medhybrid.errors import DataError
from medhybrid.scans.reader import read_scan
from tests.synthetic import save_nifti

HEADER = """NRRD0004
type: uchar
dimension: 3
space: left-posterior-superior
sizes: {sizes}
space directions: (-1,0,0) (0,-1,0) (0,0,1)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
{fields}
"""


def write_segments(path: Path, array: np.ndarray, **values: int) -> Path:
    fields = "".join(
        f"Segment{i}_Name:={name}\nSegment{i}_LabelValue:={value}\nSegment{i}_Layer:=0\n"
        for i, (name, value) in enumerate(values.items())
    )
    header = HEADER.format(sizes=" ".join(map(str, array.shape)), fields=fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + array.astype(np.uint8).tobytes(order="F"))
    return path


def labels_of(path: Path, rules: SegmentRules) -> np.ndarray:
    return np.asarray(label_map_of(path, read_scan(path).array, rules, case="c")[0])


def test_different_values_of_segments_give_the_same_labels(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1], array[2] = 1, 2
    rules = SegmentRules({"l": 1, "k": 2})
    first = labels_of(write_segments(tmp_path / "a.seg.nrrd", array, l=1, k=2), rules)
    second = labels_of(write_segments(tmp_path / "b.seg.nrrd", array, k=1, l=2), rules)
    np.testing.assert_array_equal(first, array)
    np.testing.assert_array_equal(second, np.array([0, 2, 1], np.uint8)[array])


def test_segments_without_a_label_are_refused_with_their_names(tmp_path: Path) -> None:
    path = write_segments(tmp_path / "a.seg.nrrd", np.ones((4, 5, 6)), other=1)
    with pytest.raises(DataError, match="found other"):
        labels_of(path, SegmentRules({"l": 1}))


def test_a_value_without_a_segment_is_an_unknown_label(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1], array[2] = 1, 2
    path = write_segments(tmp_path / "a.seg.nrrd", array, l=1)

    with pytest.raises(DataError, match=r"Expected 1 \(l\), found 2") as caught:
        labels_of(path, SegmentRules({"l": 1}))

    assert from_error("c", caught.value).code == "unknown_label"
    assert labels_of(path, SegmentRules({"l": 1}, other_values="ignore")).sum() == 30


def test_segments_with_the_same_name_are_merged(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1], array[2] = 1, 2
    path = write_segments(tmp_path / "a.seg.nrrd", array, l=1, k=2)
    path.write_bytes(path.read_bytes().replace(b"_Name:=k", b"_Name:=l"))

    np.testing.assert_array_equal(labels_of(path, SegmentRules({"l": 7})), np.where(array > 0, 7, 0))


def test_a_segmentation_cropped_to_its_extent_is_placed_in_its_image(tmp_path: Path) -> None:
    array = np.zeros((8, 9, 10), np.uint8)
    array[2:5, 3:6, 4:8] = 1
    affine = np.diag([1.0, 1.0, 1.0, 1.0])  # of the header above, in RAS
    save_nifti(tmp_path / "image.nii.gz", np.arange(720, dtype=np.int16).reshape(8, 9, 10), affine)
    path = write_segments(tmp_path / "m.seg.nrrd", array[2:5, 3:6, 4:8], l=1)
    cut = path.read_bytes().replace(b"origin: (0,0,0)", b"origin: (-2,-3,4)")
    path.write_bytes(cut)
    case = Case("c", "c", (Files((tmp_path / "image.nii.gz",)),), Files((path,)))
    data = DataConfig(channels=[{"name": "MR", "modality": "MR"}], labels={"l": 1})
    image = read_scan(tmp_path / "image.nii.gz")

    mask = load_mask(case, image, data, ScansConfig())

    np.testing.assert_array_equal(mask.array[0], array)
    np.testing.assert_allclose(mask.affine, image.affine)
    path.write_bytes(cut.replace(b"origin: (-2,-3,4)", b"origin: (-2.4,-3,4)"))
    assert load_mask(case, image, data, ScansConfig()).array.shape == (1, 3, 3, 4)


def test_evaluate_reads_references_by_the_names_of_their_segments(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1], array[2] = 1, 2
    write_segments(tmp_path / "references" / "c.seg.nrrd", array, k=1, l=2)
    save_nifti(tmp_path / "predictions" / "c.nii.gz", np.array([0, 2, 1], np.uint8)[array], np.eye(4))

    result = medhybrid.evaluate(tmp_path / "references", tmp_path / "predictions", labels={"l": 1, "k": 2})

    assert result.problems == {}
    assert result.summary["dice"] == 1.0


@pytest.mark.parametrize("name", ["tumor", "Tumour", "TUMOR ", "tumour\u00a0"])
def test_a_segment_with_the_words_of_a_label_is_this_label(name: str) -> None:
    rules = SegmentRules({"GTV": 1, "tumour": 2}, other_segments="ignore")

    assert match_names(["GTV", name, "edge"], rules, case="c") == {"GTV": ("GTV",), "tumour": (name,)}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_of_segments_are_compared_in_one_unicode_form(forms: tuple[Literal["NFC", "NFD"], ...]) -> None:
    label, segment = (unicodedata.normalize(form, "Ödem") for form in forms)
    by_pattern = SegmentRules({"x": 1}, {"x": f"{label}*"})

    assert match_names([segment], SegmentRules({label: 1}), case="c") == {label: (segment,)}
    assert match_names([f"{segment} 1"], by_pattern, case="c") == {"x": (f"{segment} 1",)}


def test_two_segments_with_the_words_of_a_label_are_refused() -> None:
    with pytest.raises(DataError, match="several segments may be tumour"):
        match_names(["GTV", "tumor", "Tumor_"], SegmentRules({"GTV": 1, "tumour": 2}), case="c")
