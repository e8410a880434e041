"""Deidentification: a marker in every identifying DICOM field must not appear in any output except DICOM."""

from __future__ import annotations

import gzip
import logging
import shutil
from pathlib import Path

import pydicom
import pytest
import yaml

from medhybrid.cli import main
from medhybrid.scans.dicom.write import write_mr_series
from tests.synthetic import AFFINE, blob_case, save_nifti, small_values, write_csv

NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "RequestingPhysician",
    "PhysiciansOfRecord",
    "ResponsiblePerson",
)
TEXTS = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "PatientReligiousPreference",
    "MilitaryRank",
    "Occupation",
    "AdditionalPatientHistory",
    "MedicalAlerts",
    "Allergies",
    "RegionOfResidence",
    "CountryOfResidence",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "DeviceSerialNumber",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "AdmittingDiagnosesDescription",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription",
    "PerformedProcedureStepID",
    "ImageComments",
    "FrameComments",
    "RequestAttributesSequence",
    "CurrentPatientLocation",
)
DATES = {"PatientBirthDate": "19370419", "PatientBirthTime": "043217"}


def word_of(keyword: str) -> str:
    """Return a word that does not occur by chance."""
    return f"zq{(*NAMES, *TEXTS).index(keyword):02d}wxv"


def plant(path: Path) -> None:
    d = pydicom.dcmread(path)
    for keyword in NAMES:
        setattr(d, keyword, f"{word_of(keyword)}^Given")
    for keyword in TEXTS:
        if keyword == "RequestAttributesSequence":
            item = pydicom.Dataset()
            item.ScheduledProcedureStepDescription = word_of(keyword)
            d.RequestAttributesSequence = [item]
        else:
            setattr(d, keyword, word_of(keyword))
    for keyword, date in DATES.items():
        setattr(d, keyword, date)
    d.BurnedInAnnotation = "YES"  # adds a message about this scan
    d.private_block(0x0019, "ZQ99WXV", create=True).add_new(0x01, "LO", "zq98wxv")
    d.save_as(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write four series, three with masks and one damaged, and a table."""
    root, rows = tmp_path / "data", []
    for n in range(4):
        image, labels = blob_case(n)
        for path in write_mr_series(root / f"scan{n}", image, AFFINE, description="T1", study=f"s{n}", case="-"):
            plant(path)
        save_nifti(root / "masks" / f"scan{n}.nii.gz", labels)
        rows.append({"case": f"scan{n}", "T1": f"scan{n}", "mask": f"masks/scan{n}.nii.gz"})
    next((root / "scan3").glob("*3.dcm")).unlink()  # refused, since a slice is missing
    write_csv(root, rows)
    return root


@pytest.mark.slow
def test_no_command_writes_identifying_values(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="medhybrid")
    out = tmp_path / "out"
    out.mkdir()
    values = small_values(out)
    values["data"] |= {"root": str(data), "n_folds": 3}
    values["training"]["iterations"] = 2
    config = out / "study.yaml"
    config.write_text(yaml.safe_dump(values))
    scans = tmp_path / "scans"
    for n in range(4):
        shutil.copytree(data / f"scan{n}", scans / f"x{n}")

    assert main(["--debug", "inspect", str(scans)]) == 1
    assert main(["convert", str(scans), "--out", str(out / "converted")]) == 1
    assert main(["preprocess", "--config", str(config)]) == 1
    assert main(["train", "--config", str(config)]) == 0
    (run,) = (out / "runs" / "blobs").glob("*/model")
    assert main(["predict", str(scans), "-m", str(run.parent), "-o", str(out / "predicted")]) == 1
    masks, predicted = data / "masks", out / "predicted"
    for mask in (predicted / "masks").iterdir():
        mask.rename(mask.with_name(mask.name.replace("x", "scan")))
    scoring = ["evaluate", str(masks), str(predicted), "--config", str(config), "--predicted-only"]
    assert main([*scoring, "--run", str(run.parent)]) == 0

    told = capsys.readouterr()
    spoken = {"stdout": told.out, "stderr": told.err, "log": caplog.text}
    written = {str(p.relative_to(out)): content_of(p) for p in out.rglob("*") if p.is_file()}
    assert sum(name.startswith("predicted/seg/") for name in written) == 3, "DICOM output has the patient's attributes"
    assert all(word_of("PatientID") in c for n, c in written.items() if n.startswith("predicted/seg/")), (
        "the marker was written"
    )
    assert any(name.endswith("mlflow.db") for name in written)
    secrets = [*map(word_of, (*NAMES, *TEXTS)), "zq98wxv", "zq99wxv", "19370419", "^given"]
    for where, content in (spoken | written).items():
        heard = where if where.endswith(".dcm") else where + content
        assert not [s for s in secrets if s in heard.lower()], where


def content_of(path: Path) -> str:
    raw = path.read_bytes()
    return (raw + (gzip.decompress(raw) if path.suffix == ".gz" else b"")).decode("latin-1")


def test_warnings_of_pydicom_which_quote_values_are_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "scans").mkdir()

    main(["inspect", str(tmp_path / "scans")])
    logging.getLogger("pydicom").warning("Invalid value for VR UI: 'DOE^JOHN'")

    assert "DOE^JOHN" not in capsys.readouterr().err + caplog.text
