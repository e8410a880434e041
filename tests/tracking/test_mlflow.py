"""An MLflow run has all records for its review, and a training continues without its store."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.config import load_config
from medhybrid.inference.precision import Precision
from medhybrid.steps.train import resume
from medhybrid.tracking.mlflow import MlflowTracker
from medhybrid.tracking.mlflow_store import default_uri, pointed_at
from tests.synthetic import StudyFolder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings inside MLflow and SQLAlchemy


@pytest.fixture(scope="module")
def client(trained: tuple[StudyFolder, Path]) -> Any:
    import mlflow

    study, _ = trained
    return mlflow.MlflowClient(tracking_uri=default_uri(Path(study.config.runs)))


@pytest.fixture(scope="module")
def run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("blobs")
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def artifacts(client: Any, run_id: str, path: str = "") -> list[str]:
    out = []
    for item in client.list_artifacts(run_id, path):
        out += artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return out


def test_config_and_origin_are_recorded(run: Any, trained: tuple[StudyFolder, Path]) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.params["training.iterations"] == "120"
    assert run.data.params["network.kind"] == "hybrid"
    assert run.data.tags["medhybrid.code"]
    assert len(run.data.tags["medhybrid.data_hash"]) == 64


def test_data_and_split_are_recorded_as_datasets(run: Any) -> None:
    by_context = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}

    assert json.loads(by_context["validation"].profile) == {"n_cases": 3}
    assert json.loads(by_context["train"].schema)["cases"][0] == "case_00"


def test_metrics_are_recorded_by_step_and_label_and_none_is_a_chart_of_one_case(client: Any, run: Any) -> None:
    names = set(run.data.metrics)

    assert {"train/loss", "train/cross_entropy", "train/dice_loss", "train/auxiliary_loss"} <= names
    assert {"train/learning_rate", "train/samples_per_second", "val/dice", "val_label/left/dice"} <= names
    assert not [name for name in names if "case_07" in name]
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 12
    assert len(client.get_metric_history(run.info.run_id, "val/dice")) == 2


def test_figures_with_steps_config_plan_and_model_are_stored(client: Any, run: Any) -> None:
    files = artifacts(client, run.info.run_id)

    pictures = [f for f in files if f.startswith("images/validation") and "case_07" in f]
    assert len([f for f in pictures if f.endswith(".png")]) == 3, (
        "the reference at step 0, then one figure per validation"
    )
    assert {"config.yaml", "plan.json", "validation.json", "validation.csv", "model/model.safetensors"} <= set(files)
    assert {f"plots/{p}.png" for p in ("dice_by_case", "volumes", "dice_over_size", "reliability")} <= set(files)
    assert "report.html" in files


def test_the_table_of_cases_shows_a_figure_of_each_case(client: Any, run: Any, tmp_path: Path) -> None:
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "validation.json", str(tmp_path))).read_text())

    rows = [dict(zip(table["columns"], r, strict=True)) for r in table["data"]]
    assert sorted(r["case"] for r in rows) == ["case_07", "case_08", "case_09"]
    assert [r["dice"] for r in rows] == sorted(r["dice"] for r in rows), "the worst case comes first"
    files = set(artifacts(client, run.info.run_id))
    assert all(r["picture"]["filepath"] in files for r in rows)


def test_the_description_has_task_network_and_result(run: Any) -> None:
    text = run.data.tags["mlflow.note.content"]

    assert "left, right from T1" in text
    assert "network: hybrid" in text
    dice = run.data.metrics["final/val/dice"]
    assert f"| mean over labels | {dice:.4f} ({run.data.metrics['final/val/dice_low']:.4f} to" in text


def test_the_registered_version_has_the_model_card(client: Any) -> None:
    card = client.get_model_version_by_alias("blobs", "newest").description

    assert "not for clinical decisions" in card
    assert "## Limits" in card


def test_the_registered_model_equals_the_model_of_the_run(
    client: Any, run: Any, trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    study, folder = trained
    version = client.get_model_version_by_alias("blobs", "newest")
    scan = medhybrid.read_scan(study.folder / "data" / "imagesTr" / "case_08.nii.gz")

    fetched = medhybrid.load_model("models:/blobs@newest", tracking_uri=default_uri(Path(study.config.runs)))

    assert version.run_id == run.info.run_id
    np.testing.assert_array_equal(fetched.predict(scan), medhybrid.load_model(folder).predict(scan))


def test_the_exported_program_loads_without_pickle_and_gives_the_same_logits(
    client: Any, trained: tuple[StudyFolder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    study, folder = trained
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    version = client.get_model_version_by_alias("blobs", "newest")

    with pointed_at(default_uri(Path(study.config.runs))):
        program = mlflow.pytorch.load_model(f"models:/blobs/{version.version}")
        info = mlflow.models.get_model_info(f"models:/blobs/{version.version}")

    window = torch.randn(2, 1, 24, 24, 16)
    expected = medhybrid.load_model(folder).network(window).full
    torch.testing.assert_close(program(window), expected, atol=1e-4, rtol=1e-3)
    assert info.signature is not None


@pytest.mark.usefixtures("blank_pictures", "small_program")
def test_a_resumed_run_continues_the_same_mlflow_run(prepared: StudyFolder, tmp_path: Path) -> None:
    import mlflow

    config = load_config(
        prepared.folder / "small.yaml",
        [f"runs={tmp_path / 'runs'}", "training.iterations=20", "tracking.register_model=false"],
    )
    first = medhybrid.train(config)

    second = resume(first.folder, ["training.iterations=+20"])

    client = mlflow.MlflowClient(tracking_uri=default_uri(tmp_path / "runs"))
    assert second.run_id == first.run_id
    assert second.n_steps == 40
    steps = [m.step for m in client.get_metric_history(first.run_id, "train/loss")]
    assert steps == [10, 20, 30, 40]
    assert client.get_run(first.run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("blank_pictures", "small_program")
def test_a_run_whose_store_answers_after_the_last_checkpoint_continues_the_same_mlflow_run(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run = MlflowTracker._open_run

    def open_late(tracker: MlflowTracker) -> None:
        while tracker.run_id is None and not list(tmp_path.glob("runs/*/*/model/card.md")):
            time.sleep(0.02)
        open_run(tracker)

    monkeypatch.setattr(MlflowTracker, "_open_run", open_late)
    config = load_config(
        prepared.folder / "small.yaml",
        [f"runs={tmp_path / 'runs'}", "training.iterations=10", "tracking.register_model=false"],
    )
    first = medhybrid.train(config)

    second = resume(first.folder, ["training.iterations=+10"])

    assert second.run_id == first.run_id is not None


@pytest.mark.usefixtures("blank_pictures", "small_program")
def test_an_unreachable_store_does_not_stop_the_training(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medhybrid.tracking.mlflow.CLOSE_TIMEOUT_S", 1.0)
    config = load_config(
        prepared.folder / "small.yaml",
        [f"runs={tmp_path / 'runs'}", "training.iterations=20", "tracking.uri=http://127.0.0.1:9"],
    )

    run = medhybrid.train(config)

    assert run.n_steps == 20
    assert (run.folder / "model" / "model.safetensors").exists()
    kept = [json.loads(line)["call"] for line in (run.folder / "unsent.jsonl").read_text().splitlines()]
    assert kept[0] == "open"
    assert {"metrics", "image", "model", "finish"} <= set(kept)


def test_the_recorded_validation_equals_the_scores_of_predict(
    trained: tuple[StudyFolder, Path], run: Any, tmp_path: Path
) -> None:
    """Predicted from the scans, the model reaches the recorded Dice of each case."""
    study, folder = trained
    assert run.info.status == "FINISHED"
    with (folder / "validation.csv").open(newline="") as table:
        recorded = {row["case"]: float(row["dice"]) for row in csv.DictReader(table)}
    model = medhybrid.load_model(folder)
    model.precision = Precision.FLOAT32  # the precision of the run; bf16 changes single voxels
    for case in ("case_07", "case_08", "case_09"):
        scan = medhybrid.read_scan(study.folder / "data" / "imagesTr" / f"{case}.nii.gz")
        reference = np.asarray(nib.load(study.folder / "data" / "labelsTr" / f"{case}.nii.gz").dataobj)

        mask = model.predict(scan)

        per_label = [
            2 * ((mask == v) & (reference == v)).sum() / ((mask == v).sum() + (reference == v).sum()) for v in (1, 4)
        ]
        assert recorded[case] == pytest.approx(np.mean(per_label), abs=2e-3)
