"""Tests of patient checks: slices and channels of two patients are refused, without identifiers in messages."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.errors import MedHybridError
from medhybrid.inference.worklist import make_worklist
from medhybrid.scans import discover
from medhybrid.scans.dicom.patient import differing_identifiers, one_for_each_patient
from medhybrid.scans.dicom.write import write_mr_series
from tests.synthetic import AFFINE

VALUES = np.arange(6 * 5 * 4).reshape(6, 5, 4)
KNOWN = {"PatientBirthDate": "19450508", "IssuerOfPatientID": "SECRET-CENTRE"}
CHANGES = [
    {"PatientID": "SECRET-2"},
    {"PatientID": ""},
    {"PatientID": None},
    {"PatientBirthDate": "19700101"},
    {"IssuerOfPatientID": "SECRET-CLINIC"},
]
ALIKE = [
    {"PatientBirthDate": ""},
    {"PatientBirthDate": None, "IssuerOfPatientID": None},
    {"PatientBirthDate": "1945.05.08"},
    {"PatientBirthDate": "00000000"},
]


def change(paths: list[Path], values: dict[str, str | None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that the standard does not allow
        for path in paths:
            d = pydicom.dcmread(path)
            for name, value in values.items():
                if value is None:
                    delattr(d, name)
                else:
                    setattr(d, name, value)
            d.save_as(path)


@pytest.mark.parametrize("values", CHANGES)
@pytest.mark.parametrize("which", [slice(2, None), slice(1, 2)])
def test_a_series_of_two_patients_is_refused_with_the_differing_attribute(
    tmp_path: Path, values: dict[str, str | None], which: slice
) -> None:
    paths = write_mr_series(tmp_path / "s", VALUES, AFFINE, description="T1", study="s", case="SECRET-1")
    change(paths, KNOWN)
    change(paths[which], values)

    (entry,) = discover(tmp_path).entries

    assert entry.code == "other_patient"
    assert f"different {next(iter(values))}" in entry.problem
    assert "SECRET" not in entry.problem


def test_a_series_of_one_patient_is_accepted(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "s", VALUES, AFFINE, description="T1", study="s", case="c")
    change(paths, {"PatientBirthDate": "19700101", "IssuerOfPatientID": "X"})
    change(paths[1:2], {"PatientName": "Another^Spelling"})

    (entry,) = discover(tmp_path).entries
    assert entry.problem == ""


@pytest.mark.parametrize("values", CHANGES)
def test_channels_of_two_patients_under_one_study_are_refused(tmp_path: Path, values: dict[str, str | None]) -> None:
    for name in ("T1", "FLAIR"):
        paths = write_mr_series(tmp_path / "x" / name, VALUES, AFFINE, description=name, study="s", case="SECRET-1")
        change(paths, KNOWN)
    change(paths, values)
    (item,) = make_worklist(discover(tmp_path), [("T1", False), ("FLAIR", False)], {}).items

    with pytest.raises(MedHybridError, match=f"to different patients.*{next(iter(values))}") as caught:
        item.read(["T1", "FLAIR"])
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("values", ALIKE)
def test_a_missing_birth_date_or_issuer_is_no_other_patient(tmp_path: Path, values: dict[str, str | None]) -> None:
    for name in ("T1", "FLAIR"):
        paths = write_mr_series(tmp_path / "x" / name, VALUES, AFFINE, description=name, study="s", case="c")
        change(paths, KNOWN)
    change(paths[1:], values)
    (item,) = make_worklist(discover(tmp_path), [("T1", False), ("FLAIR", False)], {}).items

    assert item.read(["T1", "FLAIR"]).array.shape[0] == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", ""]), st.sampled_from(["", "x"]), st.sampled_from(["", "1", "2"]), st.just("n")
        ),
        min_size=1,
    )
)
def test_studies_of_one_patient_have_one_identity(identities: list[tuple[str, ...]]) -> None:
    found = one_for_each_patient(identities)

    for identity in identities:
        assert found[found[identity]] == found[identity]
        assert not differing_identifiers([identity, found[identity]])
        full = [i for i in identities if i[0] == identity[0] and i.count("") == 0]
        if identity[0] and len(set(full)) == 1:
            assert found[identity] == full[0] or differing_identifiers([identity, full[0]])


def test_without_an_id_patients_are_compared_by_name(tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "s", VALUES, AFFINE, description="T1", study="s", case="c")
    change(paths, {"PatientID": "", "PatientName": "Meier^Anna"})
    change(paths[2:3], {"PatientName": "meier^anna^^"})
    assert discover(tmp_path).entries[0].problem == ""

    change(paths[2:], {"PatientName": "SECRET^Otto"})
    (entry,) = discover(tmp_path).entries
    assert "different PatientName" in entry.problem
    assert "SECRET" not in entry.problem
