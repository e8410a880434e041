"""Texts in UTF-8 that lack `SpecificCharacterSet` are right in segmentation and report; those in Latin-1 stay as they are.

The standard takes such texts for ASCII. pydicom, the independent library, reads the outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medhybrid.scans.dicom.report import RegionMeasure, write_report
from medhybrid.scans.dicom.seg import SegInfo, write_seg
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.scans.reader import read_scan

pytestmark = pytest.mark.filterwarnings("ignore")

TAGS = {
    "PatientName": (Tag(0x00100010), "PN"),
    "StudyDescription": (Tag(0x00081030), "LO"),
    "OtherPatientNames": (Tag(0x00101001), "PN"),
}


def write_source(folder: Path, values: dict[str, bytes], character_set: str = "") -> None:
    """Write a series with raw bytes as values."""
    array = np.arange(168).reshape(8, 7, 3)
    for path in write_mr_series(folder, array, np.eye(4), description="T1", study="s", case="c"):
        d = pydicom.dcmread(path)
        d.pop("SpecificCharacterSet", None)
        if character_set:
            d.SpecificCharacterSet = character_set
        d.save_as(path)
        d = pydicom.dcmread(path)  # with this character set, so that raw values are not encoded again
        for keyword, value in values.items():
            tag, vr = TAGS[keyword]
            padded = value + b" " * (len(value) % 2)
            d._dict[tag] = RawDataElement(tag, vr, len(padded), padded, 0, False, True)
        d.save_as(path)


def outputs(tmp_path: Path) -> tuple[Dataset, Dataset]:
    """Write and read the segmentation and the report of a scan."""
    scan = read_scan(tmp_path / "in")
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[2:4, 2:4] = 1
    sources = write_seg(tmp_path / "seg.dcm", mask, scan, SegInfo({"a": 1}, "1"))
    write_report(tmp_path / "sr.dcm", tmp_path / "seg.dcm", sources, [RegionMeasure("a", 0, 1.0, 2.0)], {})
    return pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "sr.dcm")


@pytest.mark.parametrize("name", ["Müller^Zoë", "Жук^Анна", "山田^太郎", "Nguyễn^Thị", "Meier^Anna"])
def test_a_name_in_undeclared_utf8_is_read_as_utf8(tmp_path: Path, name: str) -> None:
    write_source(tmp_path / "in", {"PatientName": name.encode(), "StudyDescription": "Schädel".encode()})

    seg, report = outputs(tmp_path)

    for d in (seg, report):
        assert str(d.PatientName) == name
        assert d.SpecificCharacterSet == "ISO_IR 192"
        assert d.get("StudyDescription") in (None, "Schädel")


@pytest.mark.parametrize(
    ("content", "character_set", "expected"),
    [
        ("Müller^Zoë".encode("latin-1"), "", "Müller^Zoë"),
        ("Müller^Zoë".encode("latin-1"), "ISO_IR 100", "Müller^Zoë"),
        ("Жук^Анна".encode("iso8859_5"), "ISO_IR 144", "Жук^Анна"),
        ("Müller^Zoë".encode(), "ISO_IR 192", "Müller^Zoë"),
        ("MÃ¼ller^Zoe".encode("latin-1"), "ISO_IR 100", "MÃ¼ller^Zoe"),  # declared, so not UTF-8
    ],
)
def test_other_names_stay_as_they_are(tmp_path: Path, content: bytes, character_set: str, expected: str) -> None:
    write_source(tmp_path / "in", {"PatientName": content}, character_set)

    for d in outputs(tmp_path):
        assert str(d.PatientName) == expected


def test_a_name_in_utf8_beside_a_text_in_latin_1_is_right(tmp_path: Path) -> None:
    write_source(
        tmp_path / "in", {"StudyDescription": "Sch\xe4del".encode("latin-1"), "PatientName": "Жук^Анна".encode()}
    )

    for d in outputs(tmp_path):
        assert str(d.PatientName) == "Жук^Анна"
        assert d.get("StudyDescription") in (None, "Schädel")


def test_several_names_in_undeclared_utf8_stay_several(tmp_path: Path) -> None:
    names = ["Müller^A", "Möller^B"]
    write_source(tmp_path / "in", {"OtherPatientNames": "\\".join(names).encode()})

    for d in outputs(tmp_path):
        assert [str(v) for v in d.OtherPatientNames] == names
