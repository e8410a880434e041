"""Records arrive for any case and label names and after a project was moved, and none is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import medhybrid
from medhybrid.errors import ModelError, TrackingError
from medhybrid.runs.record import check_tracking, experiment_of
from medhybrid.tracking.mlflow import RUN_ID_FILE, MlflowTracker, RunInfo
from medhybrid.tracking.mlflow_store import default_uri, pointed_at, store_uri
from medhybrid.tracking.registry import Registry
from tests.synthetic import StudyFolder
from tests.tracking.records import execute

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings inside MLflow and SQLAlchemy

NAMES = (
    "a+b",
    "a(b",
    "a#1",
    "a&b",
    "a,b",
    "it's",
    "Schädel",
    "scha\u0308del",
    "a b",
    "a_b",
    "NA",
    "x" * 300,
    "50%",
    "a~b",
)


@pytest.fixture(autouse=True)
def no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlflowTracker, "_start_monitor", lambda _: None)


def tracker_of(folder: Path, uri: str | None = None) -> MlflowTracker:
    info = RunInfo("t", folder.name, "text", {"a": "1"}, {"tag": "b"}, {})
    return MlflowTracker(uri, folder.parents[1], info, folder=folder)


def client_of(runs: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=default_uri(runs))


@pytest.fixture
def run(store: Path) -> Path:
    folder = store.parent / "t" / "run-1"
    folder.mkdir(parents=True)
    return folder


def small_image(folder: Path, name: str) -> Path:
    path = folder / f"{name}.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    return path


def test_images_and_metrics_of_cases_with_any_name_arrive_under_different_names(run: Path) -> None:
    tracker, path = tracker_of(run), small_image(run, "x")
    for name in NAMES:
        tracker.log_image(path, f"validation/{name}", 0)
    tracker.log_metrics({f"val_label/{name}/dice": 0.5 for name in (*NAMES, "a/b", "..", "a//b", "T1/")}, 1)
    (run / "cases.csv").write_text("case,dice,picture\nNA,0.5,x.png\nnull,0.6,\n")
    tracker.log_table(run / "cases.csv", "cases")
    tracker.finish("FINISHED")

    assert not (run / "unsent.jsonl").exists()
    client = client_of(run.parents[1])
    images = {a.path.split("+step+")[0] for a in client.list_artifacts(tracker.run_id, "images")}
    metrics = client.get_run(tracker.run_id).data.metrics
    assert len(images) == len(NAMES)
    assert len(metrics) == len(NAMES) + 4
    table = json.loads(Path(client.download_artifacts(tracker.run_id, "cases.json", str(run))).read_text())
    assert [row[0] for row in table["data"]] == ["NA", "null"]


def test_records_of_a_deleted_experiment_are_kept_with_the_reason_and_sent_after_its_restoration(
    run: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tracker_of(run)
    first.finish("FINISHED")
    execute(store, "UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 't'")
    second = run.with_name("run-2")
    second.mkdir()
    tracker = tracker_of(second)
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.log_image(small_image(second, "x"), "x", 0)
    tracker.finish("FINISHED")

    kept = [json.loads(line)["call"] for line in (second / "unsent.jsonl").read_text().splitlines()]
    assert kept == ["open", "metrics", "image", "finish"]
    assert "deleted" in caplog.text
    assert "mlflow experiments restore" in caplog.text

    execute(store, "UPDATE experiments SET lifecycle_stage = 'active' WHERE name = 't'")
    later = tracker_of(second)
    later.finish("FINISHED")

    found = client_of(run.parents[1]).get_run(later.run_id)
    assert found.data.metrics == {"a": 1.0}
    assert found.info.status == "FINISHED"
    assert not (second / "unsent.jsonl").exists()


def test_records_of_a_run_that_is_deleted_while_it_runs_are_kept(run: Path, store: Path) -> None:
    tracker = tracker_of(run)
    while tracker.run_id is None:
        pass
    execute(store, "UPDATE runs SET lifecycle_stage = 'deleted'")
    for step in range(4):
        tracker.log_metrics({"a": 1.0}, step)
    tracker.finish("FINISHED")

    kept = [json.loads(line) for line in (run / "unsent.jsonl").read_text().splitlines()]
    assert [e.get("step") for e in kept if e["call"] == "metrics"] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_resumed_run_of_a_moved_or_copied_project_writes_to_its_current_folder(
    run: Path, tmp_path: Path, is_copied: bool
) -> None:
    tracker = tracker_of(run)
    (run / "first.txt").write_text("1")
    tracker.log_file(run / "first.txt", "")
    tracker.finish("FINISHED")
    (shutil.copytree if is_copied else shutil.move)(tmp_path / "project", tmp_path / "new")
    new = tmp_path / "new" / "runs" / "t" / "run-1"
    (new / "second.txt").write_text("2")

    resumed = tracker_of(new)
    resumed.log_file(new / "second.txt", "")
    resumed.finish("FINISHED")

    assert resumed.run_id == tracker.run_id
    here = tmp_path / "new" / "runs" / "mlartifacts" / str(tracker.run_id) / "artifacts"
    assert {p.name for p in here.iterdir()} == {"first.txt", "second.txt"}
    assert (tmp_path / "project").exists() == is_copied
    assert not list((tmp_path / "project").rglob("mlartifacts/**/second.txt"))


@pytest.fixture(scope="module")
def copied(trained: tuple[StudyFolder, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the runs of the trained study to another place; the original still exists."""
    return Path(shutil.copytree(trained[0].config.runs, tmp_path_factory.mktemp("copy") / "runs"))


@pytest.mark.slow
def test_a_registered_model_of_a_copied_project_is_read_from_the_copy(copied: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(copied, tmp_path / "runs"))
    assert medhybrid.load_model("models:/blobs@newest", tracking_uri=default_uri(runs)).record.plan.study == "blobs"
    (runs / "mlartifacts").rename(runs / "elsewhere")

    with pytest.raises(ModelError, match=rf"artifacts of models:/blobs@newest are missing.*{runs}/mlartifacts"):
        medhybrid.load_model("models:/blobs@newest", tracking_uri=default_uri(runs))


@pytest.mark.slow
def test_a_registered_model_is_read_from_a_read_only_copied_store(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    connect, before = sqlite3.connect, (copied / "mlflow.db").read_bytes()

    def read_only(path: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        if Path(str(path)) == copied / "mlflow.db":
            return connect(f"file:{path}?mode=ro", *arguments, uri=True, **options)
        return connect(path, *arguments, **options)

    monkeypatch.setattr("medhybrid.tracking.artifact_places.sqlite3.connect", read_only)

    assert medhybrid.load_model("models:/blobs@newest", tracking_uri=default_uri(copied)).record.plan.study == "blobs"
    assert (copied / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_a_model_that_was_renamed_in_the_store_is_reported(copied: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(copied, tmp_path / "runs"))
    run_id = next(runs.glob(f"*/*/{RUN_ID_FILE}")).read_text().strip()
    client_of(runs).rename_registered_model("blobs", "tumours")

    with pytest.raises(ModelError, match=r"no registered version of the model blobs.*tumours.*Rename it to blobs"):
        Registry(default_uri(runs)).of_run("blobs", run_id)


def test_a_study_with_a_deleted_experiment_is_refused_before_any_file_is_written(
    prepared: StudyFolder, run: Path, store: Path
) -> None:
    tracker_of(run).finish("FINISHED")
    execute(store, "UPDATE experiments SET lifecycle_stage = 'deleted', name = 'blobs' WHERE name = 't'")
    config = prepared.config.model_copy(update={"runs": str(store.parent)})
    before = sorted(store.parent.rglob("*"))

    with pytest.raises(TrackingError, match="experiment blobs is deleted"):
        medhybrid.train(config)
    with pytest.raises(TrackingError, match="experiment blobs is deleted"):
        medhybrid.cross_validate(config)
    assert [p for p in sorted(store.parent.rglob("*")) if p not in before] == [store.parent / "blobs"]


def test_names_from_the_environment_are_used_if_the_config_has_none(
    prepared: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepared.config
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "group")
    assert experiment_of(config) == "group"
    own = config.model_copy(update={"tracking": config.tracking.model_copy(update={"experiment": "mine"})})
    assert experiment_of(own) == "mine"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://nowhere")
    with pytest.raises(TrackingError, match="htp://nowhere is not the address"):
        check_tracking(config)


def test_a_temporary_tracking_uri_is_not_taken_for_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pointed_at("sqlite:////one.db"), pointed_at("sqlite:////other.db"):
        assert store_uri(None, tmp_path) == default_uri(tmp_path)
    assert "MLFLOW_TRACKING_URI" not in os.environ

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://group:5000")
    with pointed_at("sqlite:////one.db"):
        assert store_uri(None, tmp_path) == "http://group:5000"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://group:5000"
