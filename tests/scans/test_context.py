"""Tests of metadata fields: only allowed fields, absent without a value, and precedence of tables over headers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medhybrid.config.data import ContextField
from medhybrid.errors import ConfigError, ScanError
from medhybrid.networks.study_tokens import TYPICAL
from medhybrid.scans import Scan
from medhybrid.scans.context import PATIENT_TAGS, context_files, read_context, unread_context
from medhybrid.scans.context_values import READERS
from medhybrid.scans.reader import read_scan
from tests.synthetic import save_nifti, small_config

FIELDS = tuple(READERS)


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    path = tmp_path / "set" / "imagesTr" / "case_1.nii.gz"
    path.parent.mkdir(parents=True)
    save_nifti(path, np.zeros((4, 5, 6), np.int16), np.diag([0.9, 0.9, 5.0, 1.0]))
    return path


def context(path: Path, fields: tuple[str, ...] = FIELDS) -> dict[str, float]:
    return read_context(read_scan(path, case=path.name.removesuffix(".nii.gz")), fields)


def test_config_reader_and_network_have_the_same_fields() -> None:
    assert set(get_args(ContextField)) == set(READERS) == set(TYPICAL)


def test_fields_that_would_identify_a_patient_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.context"):
        small_config(tmp_path, "data.context=[patient_name]")
    assert set(PATIENT_TAGS.values()) == {"PatientAge", "PatientSex"}


def test_pixel_and_slice_spacing_come_from_the_grid(nifti: Path) -> None:
    known = context(nifti)

    assert known == {"pixel_mm": pytest.approx(0.9), "slice_mm": pytest.approx(5.0)}
    assert context(nifti, ("slice_mm",)) == {"slice_mm": pytest.approx(5.0)}
    assert context(nifti, ()) == {}


def test_a_side_file_gives_acquisition_parameters_only(nifti: Path) -> None:
    made = {"echo_time_ms": 90.0, "field_strength_t": 1.5, "series": "secret", "slice_mm": None}
    (nifti.parent / "case_1.json").write_text(json.dumps(made))

    known = context(nifti)

    assert known.keys() == {"pixel_mm", "echo_time_ms", "field_strength_t"}
    assert known["echo_time_ms"] == 90


@pytest.mark.parametrize("where", ["imagesTr", "."])
def test_a_table_takes_precedence_and_may_have_empty_cells(nifti: Path, where: str) -> None:
    (nifti.parent / "case_1.json").write_text(json.dumps({"echo_time_ms": 90.0}))
    table = "case,age_years,sex,echo_time_ms,contrast_agent\ncase_1,034Y,F,,Gadovist\nother,9,M,1,0\n"
    (nifti.parents[1] / where / "context.csv").write_text(table)

    known = context(nifti)

    assert known["age_years"] == 34
    assert known["sex"] == 0
    assert known["echo_time_ms"] == 90
    assert known["contrast_agent"] == 1


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("case,patient_name", "unknown columns patient_name"),
        ("name,sex", "unknown columns name"),
        ("sex", "column case is missing"),
    ],
)
def test_a_table_with_other_columns_is_refused(nifti: Path, head: str, message: str) -> None:
    (nifti.parent / "context.csv").write_text(f"{head}\n")

    with pytest.raises(ScanError, match=message):
        context(nifti)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("age_years", "018M", 1.5),
        ("age_years", "61", 61.0),
        ("age_years", "45 y", 45.0),
        ("age_years", "6 months", 0.5),
        ("age_years", "60+", None),
        ("age_years", "old", None),
        ("sex", "weiblich", 0.0),
        ("sex", "1", None),
        ("field_strength_t", "1.5 T", 1.5),
        ("field_strength_t", "3T", 3.0),
        ("field_strength_t", "1,5", None),
        ("slice_mm", "0.5 cm", 5.0),
        ("echo_time_ms", "0.09 s", 90.0),
        ("sex", "M", 1.0),
        ("sex", "O", None),
        ("contrast_agent", "none", 0.0),
        ("contrast_agent", "0", 0.0),
        ("contrast_agent", "n/a", None),
        ("contrast_agent", "Dotarem", 1.0),
        ("contrast_agent", "0.5 ml", 1.0),
        ("contrast_agent", "NON IONIC IODINE", 1.0),
        ("contrast_agent", "0 ml", 0.0),
        ("contrast_agent", "N", 0.0),
        ("contrast_agent", "No IV contrast", 0.0),
        ("contrast_agent", "non-contrast", 0.0),
        ("contrast_agent", "keine", 0.0),
        ("contrast_agent", "w/o", 0.0),
        ("contrast_agent", "pre", 0.0),
        ("contrast_agent", "UNKNOWN", None),
        ("field_strength_t", "3.0", 3.0),
        ("field_strength_t", "nan", None),
    ],
)
def test_texts_are_converted_to_numbers_or_absent(field: str, text: str, value: float | None) -> None:
    assert READERS[field](text) == value


def test_age_and_sex_are_read_from_a_dicom_header_only_if_requested(
    nifti: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_scan(nifti)
    as_dicom = Scan(
        scan.array, scan.affine, type(scan.source)("dicom", (nifti.parent / "x.dcm",)), scan.case, scan.channels
    )
    asked: list[list[str]] = []

    def header(path: Path, tags: list[str]) -> Dataset:
        asked.append(tags)
        made = Dataset()
        made.PatientAge, made.PatientSex, made.PatientName = "052Y", "M", "Doe^J"
        return made

    monkeypatch.setattr("medhybrid.scans.context.load_dataset", header)
    monkeypatch.setattr("medhybrid.scans.context.read_acquisition", lambda _: {"echo_time_ms": 12.0})

    assert read_context(as_dicom, ("echo_time_ms",)) == {"echo_time_ms": 12.0}
    assert asked == []
    assert read_context(as_dicom, FIELDS) | {} == {
        "pixel_mm": pytest.approx(0.9),
        "slice_mm": pytest.approx(5.0),
        "echo_time_ms": 12.0,
        "age_years": 52.0,
        "sex": 1.0,
    }
    assert asked == [["PatientAge", "PatientSex"]]


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("case;repetition_time_ms\ncase_1;1,5\n", 1.5),
        ("case;repetition_time_ms\ncase_1;1,500\n", 1.5),
        ("case;repetition_time_ms\ncase_1;1,5 s\n", 1500.0),
        ("case\trepetition_time_ms\ncase_1\t1,5\n", 1.5),
        ("case\trepetition_time_ms\ncase_1\t1,500\n", None),
        ('case,repetition_time_ms\ncase_1,"1,5"\n', None),
    ],
)
def test_an_unambiguous_decimal_comma_is_read(nifti: Path, table: str, value: float | None) -> None:
    """Report a value with a comma and three digits in a table with tabs or quotation marks: it may be thousands."""
    (nifti.parent / "context.csv").write_text(table)
    scan = read_scan(nifti, case="case_1")

    assert read_context(scan, ("repetition_time_ms",)).get("repetition_time_ms") == value
    assert bool(unread_context(scan, ("repetition_time_ms",))) is (value is None)


@pytest.mark.parametrize(("sex", "is_named"), [("O", False), ("", False), ("unknown", False), ("1", True)])
def test_a_value_marked_as_unknown_is_not_reported_as_unreadable(nifti: Path, sex: str, is_named: bool) -> None:
    (nifti.parent / "context.csv").write_text(f"case,sex\ncase_1,{sex}\n")
    assert bool(unread_context(read_scan(nifti, case="case_1"), ("sex",))) is is_named


def test_the_name_of_the_case_takes_precedence_over_the_file_name(nifti: Path) -> None:
    (nifti.parent / "context.csv").write_text("case,age_years\ncase_1,40\npatient,50\n")
    assert read_context(read_scan(nifti, case="patient"), ("age_years",)) == {"age_years": 50.0}
    assert read_context(read_scan(nifti, case="a keyed hash"), ("age_years",)) == {"age_years": 40.0}


def test_a_table_is_found_up_to_the_searched_folder(tmp_path: Path) -> None:
    path = tmp_path / "set" / "patient" / "visit" / "T1" / "image.nii.gz"
    path.parent.mkdir(parents=True)
    save_nifti(path, np.zeros((4, 5, 6), np.int16))
    (tmp_path / "context.csv").write_text("case,age_years\npatient,9\n")
    (tmp_path / "set" / "context.csv").write_text("case,age_years\npatient,50\n")
    scan = replace(read_scan(path, case="another name"), searched=tmp_path / "set")

    assert read_context(scan, ("age_years",)) == {"age_years": 50.0}
    assert tmp_path / "set" / "context.csv" in context_files([path], tmp_path / "set")
    assert context_files([path]) == ()
    assert read_context(replace(scan, searched=None), ("age_years",)) == {}
