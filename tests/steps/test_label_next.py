"""`report --unlabelled` ranks scans without a reference by what a reference mask would teach."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import medhybrid
from medhybrid.cli import main
from medhybrid.errors import DataError
from medhybrid.inference.features import scan_features
from medhybrid.inference.records import Records
from medhybrid.steps.label_next import label_next
from tests.synthetic import StudyFolder, blob_case, save_nifti

pytestmark = pytest.mark.usefixtures("in_this_process")

NEW = ("new_20", "new_21", "new_22", "noise")


@pytest.fixture(scope="module")
def predicted(trained: tuple[StudyFolder, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `predict` for three new scans, one of noise, and some that trained the model."""
    folder = tmp_path_factory.mktemp("masks")
    for n, name in ((20, "new_20"), (21, "new_21"), (22, "new_22")):
        save_nifti(folder / "scans" / f"{name}.nii.gz", blob_case(n)[0])
    noise = np.random.default_rng(0).normal(100, 40, blob_case(0)[0].shape)
    save_nifti(folder / "scans" / "noise.nii.gz", noise.astype(np.float32))
    for n in range(4):
        save_nifti(folder / "scans" / f"case_{n:02d}.nii.gz", blob_case(n)[0])
    run = trained[1]
    medhybrid.predict(folder / "scans", model=run, out=folder / "out")
    return folder


@pytest.fixture
def output(predicted: Path, tmp_path: Path) -> Path:
    """Return a copy of this output, whose scans stay where they are."""
    return Path(shutil.copytree(predicted / "out", tmp_path / "out"))


def test_new_scans_are_ranked_and_listed(output: Path, trained: tuple[StudyFolder, Path]) -> None:
    rows = label_next(output, trained[1])

    assert {r.case for r in rows} >= set(NEW)
    trained_on = {p.case for p in Records(output).all([f"case_{n:02d}" for n in range(4)]) if p.is_training_scan}
    assert trained_on
    assert trained_on.isdisjoint(r.case for r in rows)
    with (output / "label_next.csv").open(newline="") as table:
        listed = list(csv.DictReader(table))
    assert [r["case"] for r in listed] == [r.case for r in rows]
    assert [r["rank"] for r in listed] == [str(n) for n in range(1, len(rows) + 1)]
    assert rows[0].score == min(r.score for r in rows), "the most uncertain scan is first"


def test_scans_with_a_reference_or_a_correction_are_left_out(
    output: Path, trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    (tmp_path / "references").mkdir()
    shutil.copy(output / "masks" / "new_20.nii.gz", tmp_path / "references" / "new_20.nii.gz")
    (output / "corrected").mkdir(exist_ok=True)
    shutil.copy(output / "masks" / "new_21.nii.gz", output / "corrected" / "new_21.nii.gz")

    rows = label_next(output, trained[1], references=tmp_path / "references")

    assert {r.case for r in rows}.isdisjoint({"new_20", "new_21"})
    assert {"new_22", "noise"} <= {r.case for r in rows}


def test_a_scan_of_another_kind_has_other_features(predicted: Path, trained: tuple[StudyFolder, Path]) -> None:
    model = medhybrid.load_model(trained[1])
    found = {}
    for name in NEW:
        features = scan_features(model, medhybrid.read_scan(predicted / "scans" / f"{name}.nii.gz"))
        assert features is not None
        found[name] = features

    far = np.linalg.norm(found["noise"] - found["new_20"])
    assert far > 2 * np.linalg.norm(found["new_21"] - found["new_20"])


def test_the_output_of_another_model_is_refused(
    output: Path, trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    text = (output / "run.json").read_text()
    weights = medhybrid.load_model(trained[1]).record.weights_sha256
    (output / "run.json").write_text(text.replace(weights, "0" * 64))

    with pytest.raises(DataError, match="not predicted by this model"):
        label_next(output, trained[1])


def test_the_command_prints_the_order(
    output: Path, trained: tuple[StudyFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(output), "--unlabelled", "--model", str(trained[1])]) == 0
    assert "label_next.csv" in capsys.readouterr().out
    assert main(["report", str(output), "--unlabelled"]) == 2
    assert "--model" in capsys.readouterr().err
