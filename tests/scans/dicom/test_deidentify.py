"""Tests of de-identification: names, tables, messages and headers contain no identifiers, and one key gives equal names."""

from __future__ import annotations

import gzip
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_VR

from medhybrid.errors import ConfigError
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.model import Model
from medhybrid.scans.dicom.deidentify import Deidentifier
from medhybrid.scans.dicom.write import write_mr_series
from medhybrid.steps.predict import predict
from tests.synthetic import AFFINE, make_test_plan
from tests.test_masks_on_grid import level_of, thresholding_model, with_box

SECRETS = ("WUXLEY", "QUENBYTH", "19610203", "Saint Elsewhere", "PX90417ZK")
"""Words that no replacement contains by chance: dicognito draws names and places from lists ("RIO DE JANEIRO")."""

SHAPE = (18, 16, 8)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    array, _ = with_box(SHAPE)
    for name in ("WUXLEY_QUENBYTH_PX90417ZK", "broken_WUXLEY"):
        folder = tmp_path / "in" / name
        for path in write_mr_series(folder, array, AFFINE, description="T1", study=name, case="PX90417ZK"):
            d = pydicom.dcmread(path)
            d.PatientName, d.PatientBirthDate, d.InstitutionName = "WUXLEY^QUENBYTH", "19610203", "Saint Elsewhere"
            d.BurnedInAnnotation = "YES"
            d.save_as(path)
    (tmp_path / "in" / "broken_WUXLEY" / "0003.dcm").rename(tmp_path / "in" / "broken_WUXLEY" / "QUENBYTH.dcm")
    (tmp_path / "in" / "broken_WUXLEY" / "0002.dcm").unlink()
    return tmp_path / "in"


@pytest.fixture
def model() -> Model:
    array, _ = with_box(SHAPE)
    x, y, z = turn_to_ras(AFFINE).grid(Grid(SHAPE, AFFINE)).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))
    return thresholding_model(plan, level_of(array, Grid(SHAPE, AFFINE), plan))


def test_no_output_identifies_the_patient(scans: Path, model: Model, tmp_path: Path) -> None:
    result = predict(scans, model=model, out=tmp_path / "out", deidentify=tmp_path / "key")

    assert (result.n_done, result.n_failed) == (1, 1)
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {p.suffix for p in written} >= {".dcm", ".gz", ".json", ".csv"}
    for path in written:
        raw = path.read_bytes()
        inside = gzip.decompress(raw) if path.suffix == ".gz" else b""
        content = (raw + inside).decode("latin-1") + path.name
        assert not [s for s in SECRETS if s.lower() in content.lower()], path
    (done,) = [p for p in result.predictions if p.status == "done"]
    assert "BurnedInAnnotation" in done.message


def test_the_same_key_gives_the_same_names_and_identifiers_and_another_key_others(
    scans: Path, model: Model, tmp_path: Path
) -> None:
    found = []
    for out, key in (("a", "key1"), ("b", "key1"), ("c", "key2")):
        predict(scans, model=model, out=tmp_path / out, deidentify=tmp_path / key)
        (seg,) = (tmp_path / out / "seg").glob("*.dcm")
        found.append((seg.name, str(pydicom.dcmread(seg).StudyInstanceUID)))

    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] != found[2][1]


def test_a_second_run_skips_finished_scans(scans: Path, model: Model, tmp_path: Path) -> None:
    predict(scans, model=model, out=tmp_path / "out", deidentify=tmp_path / "key")

    assert predict(scans, model=model, out=tmp_path / "out", deidentify=tmp_path / "key").n_skipped == 1


def test_a_created_key_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    Deidentifier.from_file(tmp_path / "key")

    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")

    with pytest.raises(ConfigError, match="too short"):
        Deidentifier.from_file(tmp_path / "key")


def test_no_text_of_patient_study_or_trial_remains(tmp_path: Path) -> None:
    """Every attribute that highdicom would copy is removed, unless it is replaced: the list comes from its module tables."""
    from highdicom._standard_utils import get_module_attribute_map

    names = ("patient", "general-study", "patient-study", "clinical-trial-subject", "clinical-trial-study", "specimen")
    listed = {a["keyword"] for n in names for a in get_module_attribute_map()[n] if not a["path"]}
    array, _ = with_box(SHAPE)
    write_mr_series(tmp_path, array, AFFINE, description="T1", study="s", case="PX90417ZK")
    source = pydicom.dcmread(tmp_path / "0001.dcm")
    for keyword in sorted(listed - set(source.dir())):
        if dictionary_VR(keyword) in ("LO", "LT", "SH", "ST", "UT", "PN", "UC"):
            setattr(source, keyword, "WUXLEY")
    source.PatientAge, source.PatientWeight, source.PatientSex = "077Y", "77.7", "F"

    (cleaned,) = Deidentifier(b"0" * 32).clean([source])

    assert "WUXLEY" in str(source)
    assert not [s for s in ("WUXLEY", "077Y", "77.7", "PX90417ZK") if s in str(cleaned)]
    assert (cleaned.PatientIdentityRemoved, cleaned.PatientSex) == ("YES", "")
    assert cleaned.DeidentificationMethod
