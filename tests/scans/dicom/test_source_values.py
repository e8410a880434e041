"""Tests of invalid patient and study values: segmentation and report are written and valid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from medhybrid.inference import outputs
from medhybrid.inference.outputs import write_outputs
from medhybrid.scans import Scan
from medhybrid.scans.dicom.references import read_masks
from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, find_invalid_values, write_seg
from medhybrid.scans.dicom.source_values import valid_uid
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

LONG = "X" * 70
TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")

EMPTIED = [
    ("PatientSex", "U"),
    ("PatientSex", "ANON"),
    ("PatientBirthDate", "1970-01-01"),
    ("PatientBirthDate", "00000000"),
    ("StudyDate", "20240230"),
    ("StudyTime", "256000"),
    ("PatientName", LONG),
    ("PatientName", "A\x01B"),
    ("PatientName", "A\\B"),
    ("PatientID", LONG),
    ("AccessionNumber", "A" * 17),
    ("StudyID", "S" * 17),
    ("PatientAge", "45 years"),
    ("PatientWeight", "70 kg"),
    ("ReferringPhysicianName", LONG),
    ("OtherPatientIDs", LONG),
    ("StudyDescription", LONG),
    ("SmokingStatus", "maybe"),
    ("LossyImageCompressionRatio", "10:1"),
    ("LossyImageCompressionRatio", "ten"),
    ("ContainerIdentifier", LONG),
]
REPLACED = [
    ("StudyInstanceUID", "1.2.03.4"),
    ("StudyInstanceUID", "1.2." + "3" * 70),
    ("StudyInstanceUID", "study.one"),
    ("StudyInstanceUID", None),
    ("SeriesInstanceUID", "1.2.03"),
    ("FrameOfReferenceUID", "frame"),
    ("SOPInstanceUID", "1.02.{k}"),
    ("SOPInstanceUID", "instance{k}"),
]
KEPT = [
    ("PatientName", "Müller^Жук"),
    ("PatientID", "A-1/b"),
    ("SpecificCharacterSet", "ISO_IR 999"),
    ("SliceThickness", "thick"),
    ("SeriesNumber", "one"),
]


def write_source(folder: Path, keyword: str = "", value: str | None = "") -> list[Path]:
    """Write a series with a raw value of an attribute, or without this attribute."""
    paths = write_mr_series(folder, np.arange(168).reshape(8, 7, 3), np.eye(4), description="T1", study="s", case="c")
    for k, path in enumerate(paths if keyword else []):
        d = pydicom.dcmread(path)
        if value is None:
            delattr(d, keyword)
        elif not value.isascii():
            d.SpecificCharacterSet = "ISO_IR 192"
            setattr(d, keyword, value)
        else:
            tag, content = Tag(tag_for_keyword(keyword) or 0), value.replace("{k}", str(k)).encode()
            content += b" " * (len(content) % 2)
            d._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(content), content, 0, False, True)
        if keyword == "LossyImageCompressionRatio":
            d.LossyImageCompression = "01"
        d.save_as(path)
    return paths


def elements(dataset: Dataset) -> Iterator[Any]:
    for element in dataset:
        yield element
        for item in element.value if element.VR == "SQ" else []:
            yield from elements(item)


def assert_valid(path: Path) -> Dataset:
    d = pydicom.dcmread(path)
    for e in elements(d):
        if e.VR in TEXT_VRS and not e.is_empty:
            for value in [e.value] if e.VM <= 1 else e.value:
                validate_value(e.VR, str(value), config.RAISE)
    return d


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("keyword", "value"), EMPTIED + REPLACED + KEPT)
def test_segmentation_and_report_are_valid_for_invalid_source_values(
    keyword: str, value: str | None, tmp_path: Path
) -> None:
    scan = read_scan(write_source(tmp_path / "in", keyword, value))
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[2:4, 2:4] = 1

    sources = write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"a": 1}, "1"))
    write_report(tmp_path / "sr.dcm", tmp_path / "seg.dcm", sources, [RegionMeasure("a", 0, 1.0, 2.0)], {})

    seg, report = assert_valid(tmp_path / "seg.dcm"), assert_valid(tmp_path / "sr.dcm")
    np.testing.assert_array_equal(read_masks(tmp_path / "seg.dcm", scan, ["a"])["a"], mask > 0)
    assert seg.StudyInstanceUID == report.StudyInstanceUID
    if (keyword, value) in EMPTIED:
        assert not seg.get(keyword)
        assert not report.get(keyword)
    if (keyword, value) in EMPTIED + REPLACED:
        assert find_invalid_values(scan) == [keyword]
    if keyword == "PatientName" and (keyword, value) in KEPT:
        assert seg.PatientName == value


@pytest.mark.filterwarnings("ignore")
def test_words_for_a_sex_become_its_letter(tmp_path: Path) -> None:
    scan = read_scan(write_source(tmp_path / "in", "PatientSex", "Male"))

    write_seg(tmp_path / "seg.dcm", np.ones(scan.grid.shape, np.uint8), scan, SegInfo({"a": 1}, "1"))

    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientSex == "M"


def test_an_invalid_uid_always_gets_the_same_valid_one() -> None:
    assert valid_uid("study.one") == valid_uid("study.one") != valid_uid("study.two")
    assert valid_uid("1.2.840.1") == "1.2.840.1"


# --- outputs that cannot be written ---------------------------------------------------------------------------------


def write_all(scan: Scan, out: Path) -> outputs.WrittenOutputs:
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[2:4, 2:4] = 1
    (out / "masks").mkdir(parents=True)
    made: Any = SimpleNamespace(mask=mask, probabilities=None)
    plan = SimpleNamespace(labels={"a": 1}, regions={}, measured={"a": (1,)})
    record: Any = SimpleNamespace(plan=plan, medhybrid_version="1", weights_sha256="", label_codes={})
    return write_outputs(out, "case", scan, made, record, None)


@pytest.mark.filterwarnings("ignore")
def test_omitted_values_are_named_without_their_content(tmp_path: Path) -> None:
    scan = read_scan(write_source(tmp_path / "in", "PatientID", LONG))

    written = write_all(scan, tmp_path / "out")

    (note,) = written.notes
    assert "PatientID" in note
    assert LONG not in note
    assert (tmp_path / "out" / "sr" / "case.dcm").exists()


@pytest.mark.parametrize("name", ["write_seg", "write_report"])
def test_an_output_that_cannot_be_written_leaves_the_mask_and_a_note(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_scan(write_source(tmp_path / "in"))
    out = tmp_path / "out"

    def fail(*_: object, **__: object) -> None:
        raise ValueError("Instead received b'DOE^JOHN'")

    monkeypatch.setattr(outputs, name, fail)

    written = write_all(scan, out)

    what = {"write_seg": "the DICOM SEG and its report", "write_report": "the DICOM report"}[name]
    assert written.notes == (f"{what} could not be written; the mask is complete. Found ValueError",)
    assert written.measures["a"].n_components == 1
    assert (out / "masks" / "case.nii.gz").exists()
    assert (out / "seg" / "case.dcm").exists() == (name == "write_report")


def test_a_full_disk_is_raised_while_outputs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = read_scan(write_source(tmp_path / "in"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_seg", fail)

    with pytest.raises(OSError, match="No space left"):
        write_all(scan, tmp_path / "out")
