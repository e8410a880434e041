"""Folders of earlier versions load, resume and predict with the same results."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import medhybrid
from medhybrid.config import load_config
from medhybrid.steps import listen as listen_module
from medhybrid.steps.listen import Listener
from medhybrid.steps.train import resume
from tests.earlier.make_earlier import listen_config, losses_of, mask_hash

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.xz"))
FINISHED, STOPPED = Path("runs/blobs/finished"), Path("runs/blobs/stopped")


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack a project folder and change into it."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def expected(project: Path) -> dict[str, Any]:
    """Return the values that the earlier version computed."""
    values: dict[str, Any] = json.loads((project / "expected.json").read_text())
    return values


@pytest.mark.usefixtures("in_this_process")
def test_prepared_cases_stay_valid(project: Path) -> None:
    result = medhybrid.preprocess(load_config("study.yaml"))

    assert (result.n_prepared, result.n_unchanged, result.left_out) == (0, 5, ())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of MLflow and its store
def test_an_interrupted_run_resumes_with_the_same_losses_in_its_mlflow_run(
    project: Path, expected: dict[str, Any]
) -> None:
    run = resume(STOPPED)

    assert losses_of(run.folder) == pytest.approx(expected["losses"], rel=0.02)  # processors differ slightly
    assert run.run_id == (STOPPED / "mlflow_run_id").read_text().strip()
    assert not list(Path("runs").rglob("unsent.jsonl"))
    assert run.metrics["val/dice"] == pytest.approx(expected["dice"], abs=0.02)


def test_a_model_makes_the_same_masks(project: Path, expected: dict[str, Any]) -> None:
    for scans, name, mask in (("scans", "new", "out/masks"), ("series", "patient", "out_dicom/masks")):
        result = medhybrid.predict(scans, model=FINISHED, out=f"again_{scans}")

        assert result.n_done == 1
        assert mask_hash(Path(f"again_{scans}/masks/{name}.nii.gz")) == expected["masks"][f"{mask}/{name}.nii.gz"]


def test_masks_of_unchanged_scans_are_kept(project: Path) -> None:
    for scans, out in (("scans", "out"), ("series", "out_dicom")):
        before = {p: p.read_bytes() for p in Path(out).rglob("*.nii.gz")}
        result = medhybrid.predict(scans, model=FINISHED, out=out)

        assert (result.n_done, result.n_skipped, result.n_failed) == (1, 1, 0)
        assert {p: p.read_bytes() for p in Path(out).rglob("*.nii.gz")} == before


def test_a_study_in_the_queue_of_a_listener_is_predicted_and_sent(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(listen_module, "send_files", lambda _target, paths: sent.extend(p.parent.name for p in paths))
    listener = Listener(listen_config(Path()), medhybrid.load_model(FINISHED))

    listener.work()

    assert sent == ["seg", "sr"]
    assert [p.name for p in Path("spool/done").iterdir()] == ["0" * 32]


def test_masks_are_scored_and_reported(project: Path) -> None:
    shutil.copytree("out/masks", "references")
    assert medhybrid.evaluate("references", "out", labels={"left": 1, "right": 4}).summary["dice"] == 1.0
    assert medhybrid.report("out").is_file()


def test_a_registered_model_is_found_where_the_project_is_now(project: Path, expected: dict[str, Any]) -> None:
    medhybrid.predict("scans", model="models:/blobs@newest", out="again")

    assert mask_hash(Path("again/masks/new.nii.gz")) == expected["masks"]["out/masks/new.nii.gz"]
