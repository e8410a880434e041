"""A run with stages is one MLflow run with a nested run for each stage, which has the metrics of its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest

import medhybrid
from medhybrid.runs.record import run_name
from tests.synthetic import StudyFolder, small_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("blank_pictures", "small_program"),
    pytest.mark.filterwarnings("ignore"),  # warnings of MLflow and its store
]

STAGES = "training.stages=[{train: [encoder, decoder], share: 2, name: convolutions}, {train: [all], share: 1}]"


def runs_of(uri: str, experiment: str) -> dict[str, Any]:
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {r.info.run_name: r for r in client.search_runs([found.experiment_id])}


def steps_of(uri: str, run: Any) -> list[int]:
    return [m.step for m in mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, "train/loss")]


def test_each_stage_is_a_nested_run_with_its_own_steps(prepared: StudyFolder, tmp_path: Path) -> None:
    config = small_config(prepared.folder, STAGES, "training.iterations=60", f"runs={tmp_path}")

    done = medhybrid.train(config)

    uri = f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"
    runs = runs_of(uri, config.name)
    name = run_name(config, done.folder)
    whole = runs.pop(name)
    first, second = (runs[f"stage{n}-{name}"] for n in ("1-convolutions", "2-all"))
    assert {r.data.tags["mlflow.parentRunId"] for r in (first, second)} == {whole.info.run_id}
    assert {r.info.status for r in (whole, first, second)} == {"FINISHED"}
    assert first.data.params["stage.train"] == "('encoder', 'decoder')"
    assert steps_of(uri, first) == [10, 20, 30, 40]
    assert steps_of(uri, second) == [50, 60]
    assert steps_of(uri, whole) == [10, 20, 30, 40, 50, 60]
