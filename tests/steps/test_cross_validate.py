"""Cross-validation and comparison: several trainings, nested in MLflow, resumed, and used as an ensemble."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest

import medhybrid
from medhybrid.config import StudyConfig
from medhybrid.data.workers import Processes
from medhybrid.errors import ConfigError, DataError, ModelError
from medhybrid.inference.ensemble import Ensemble
from medhybrid.inference.rule_search import ComponentRules
from medhybrid.review.comparison import Setting, comparison_table
from medhybrid.runs.resume import latest_run, run_config
from medhybrid.runs.run import Run
from medhybrid.steps.cross_validate import CrossValidation
from tests.brief import blank_pictures, in_this_process, small_program
from tests.patience import wait_until
from tests.synthetic import blob_case, save_nifti, small_config, write_study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_pictures", "small_program", "in_this_process")]


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, CrossValidation]:
    """Return a cross-validation of two folds with six cases, one seed and ten steps."""
    folder = tmp_path_factory.mktemp("crossed")
    write_study(folder / "data", n_cases=6)
    config = small_config(folder, "training.iterations=10", "data.splits=null", "data.n_folds=2")
    with blank_pictures(), small_program(), in_this_process():
        medhybrid.preprocess(config)
        result = medhybrid.cross_validate(config)
    assert result is not None
    return config, result


def test_every_case_of_the_folds_is_scored_once(crossed: tuple[StudyConfig, CrossValidation]) -> None:
    _, result = crossed

    with (result.folder / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((result.folder / "summary.json").read_text())
    assert {(r["training"], r["fold"]) for r in rows} == {("fold0-seed0", "0"), ("fold1-seed0", "1")}
    assert len({r["case"] for r in rows}) == len(rows) == summary["n_cases"] == 6
    assert summary["dice"]["mean"] == pytest.approx(np.mean([float(r["dice"]) for r in rows]), abs=1e-3)
    assert result.dice.low <= result.dice.mean <= result.dice.high
    assert summary["component_rules"]["min_component_ml"] == result.rules.min_component_ml
    for t in result.trainings:
        plan = medhybrid.load_model(t.run.folder).plan
        assert (plan.keep_largest, plan.min_component_ml) == (result.rules.keep_largest, result.rules.min_component_ml)
        masks = {p.name.removesuffix(".nii.gz") for p in (t.run.folder / "validation").iterdir()}
        assert masks == set(t.cases)


def test_the_trainings_are_nested_under_one_run(crossed: tuple[StudyConfig, CrossValidation]) -> None:
    config, result = crossed
    client = mlflow.MlflowClient(f"sqlite:///{Path(config.runs).resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(config.name)
    assert experiment is not None

    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}

    parent = runs.pop("cross-validation")
    assert parent.data.metrics["dice"] == pytest.approx(result.dice.mean)
    assert {r.data.tags["mlflow.parentRunId"] for r in runs.values()} == {parent.info.run_id}
    assert len(runs) == 2


def test_a_second_call_trains_only_what_is_missing(
    crossed: tuple[StudyConfig, CrossValidation], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, first = crossed

    def refuse(*_: object, **__: object) -> Run:
        raise AssertionError("trained again")

    monkeypatch.setattr("medhybrid.steps.train_all.train", refuse)
    again = medhybrid.cross_validate(config)

    assert again is not None
    assert again.dice == first.dice


def test_component_rules_are_registered_with_the_models_once(
    crossed: tuple[StudyConfig, CrossValidation], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, first = crossed
    client = mlflow.MlflowClient(f"sqlite:///{Path(config.runs).resolve() / 'mlflow.db'}")

    def newest() -> tuple[int, float]:
        version = client.get_model_version_by_alias(config.name, config.tracking.alias)
        uri = f"models:/{config.name}/{version.version}"
        model = medhybrid.load_model(uri, tracking_uri=f"sqlite:///{Path(config.runs).resolve() / 'mlflow.db'}")
        return int(version.version), model.plan.min_component_ml

    before, _ = newest()
    with monkeypatch.context() as patch:
        patch.setattr("medhybrid.steps.cross_validate.choose_rules", lambda *_: ComponentRules(min_component_ml=0.125))
        medhybrid.cross_validate(config)
        changed = newest()
        medhybrid.cross_validate(config)

    assert changed == (before + len(first.trainings), 0.125)
    assert newest() == changed
    again = medhybrid.cross_validate(config)
    assert again is not None
    assert newest() == (changed[0] + len(first.trainings), first.rules.min_component_ml)


def test_pretrained_weights_with_data_leakage_are_refused_before_the_first_training(
    crossed: tuple[StudyConfig, CrossValidation],
) -> None:
    config, result = crossed
    start = str(result.trainings[0].run.folder)  # may initialise fold 0, but was trained on validation cases of fold 1
    pretrained = config.model_copy(update={"training": config.training.model_copy(update={"pretrained": start})})
    before = set(Path(config.runs, config.name).iterdir())

    with pytest.raises(DataError, match="data leakage: 3 of the 3 validation cases were used to train the weights"):
        medhybrid.cross_validate(pretrained, name="with-start")

    assert {p.name for p in set(Path(config.runs, config.name).iterdir()) - before} <= {"with-start"}


def test_resume_by_config_skips_runs_of_a_cross_validation(crossed: tuple[StudyConfig, CrossValidation]) -> None:
    config, _ = crossed

    with pytest.raises(ConfigError, match=r"no single run.*is part of cross-validation.*Repeat the command"):
        latest_run(config)


def test_the_same_command_continues_with_a_network_that_the_plan_chose(tmp_path: Path) -> None:
    write_study(tmp_path / "data", n_cases=4)
    by_plan = [f"network.{key}=null" for key in ("widths", "blocks", "token_width", "depth", "heads", "head_width")]
    config = small_config(tmp_path, *by_plan, "training.iterations=2", "data.splits=null", "data.n_folds=2")
    medhybrid.preprocess(config)
    first = medhybrid.cross_validate(config, folds=[0])
    assert first is not None
    (run,) = (t.run for t in first.trainings)
    assert run_config(run.folder).network.widths is not None
    before = (run.folder / "log.jsonl").read_bytes()

    again = medhybrid.cross_validate(config)

    assert again is not None
    assert [t.name for t in again.trainings] == ["fold0-seed0", "fold1-seed0"]
    assert (run.folder / "log.jsonl").read_bytes() == before
    other = config.model_copy(update={"network": config.network.model_copy(update={"depth": 1})})
    with pytest.raises(DataError, match="had another config in an earlier call"):
        medhybrid.cross_validate(other)


def test_a_name_used_for_another_config_is_refused(crossed: tuple[StudyConfig, CrossValidation]) -> None:
    config, _ = crossed
    other = config.model_copy(update={"training": config.training.model_copy(update={"peak_rate": 1e-3})})

    with pytest.raises(DataError, match="had another config in an earlier call"):
        medhybrid.cross_validate(other, folds=[0])


def test_results_of_another_dataset_are_not_reused(
    crossed: tuple[StudyConfig, CrossValidation], tmp_path: Path
) -> None:
    config, _ = crossed
    write_study(tmp_path / "data", n_cases=7)
    other = config.model_copy(update={"data": config.data.model_copy(update={"root": str(tmp_path / "data")})})

    with pytest.raises(DataError, match=r"another dataset|lists of cases have changed"):
        medhybrid.cross_validate(other)


def test_several_models_predict_by_their_mean_probability(
    crossed: tuple[StudyConfig, CrossValidation], tmp_path: Path
) -> None:
    folders = [t.run.folder for t in crossed[1].trainings]
    scan = medhybrid.read_scan(save_nifti(tmp_path / "in" / "a.nii.gz", blob_case(20)[0]))
    members = [medhybrid.load_model(f) for f in folders]

    joined = Ensemble(members).segment(scan, with_probabilities=True)
    alone = [m.segment(scan, with_probabilities=True) for m in members]

    assert joined.probabilities is not None
    mean = np.mean([a.probabilities for a in alone if a.probabilities is not None], axis=0)
    # averaged on the grid of the network, then resampled to the grid of the scan
    np.testing.assert_allclose(joined.probabilities, mean, atol=0.05)
    result = medhybrid.predict(tmp_path / "in", model=folders, out=tmp_path / "out")
    assert result.n_done == 1
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["model_weights_sha256"] == Ensemble(members).record.weights_sha256
    assert record["model_weights_sha256"] not in [m.record.weights_sha256 for m in members]


def test_models_with_other_channels_cannot_form_an_ensemble(crossed: tuple[StudyConfig, CrossValidation]) -> None:
    a, b = (medhybrid.load_model(t.run.folder) for t in crossed[1].trainings)
    b.record = b.record.model_copy(update={"plan": b.plan.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)})})

    with pytest.raises(ModelError, match=r"their inputs differ.*spacing_mm"):
        Ensemble([a, b])


def test_settings_are_compared_on_the_same_cases(crossed: tuple[StudyConfig, CrossValidation]) -> None:
    config, _ = crossed
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"kind": "jsonl"})})
    other = config.model_copy(update={"network": config.network.model_copy(update={"kind": "resnet"})})

    result = medhybrid.compare_settings({"hybrid": config, "resnet": other}, seeds=[0, 1], name="kinds")

    assert result is not None
    hybrid, resnet = result.settings
    assert hybrid.cases.keys() == resnet.cases.keys()
    assert hybrid.n_parameters > resnet.n_parameters
    assert hybrid.n_steps == (10, 10)
    assert [[step for step, _ in curve] for curve in hybrid.curves] == [[step for step, _ in hybrid.curves[0]]] * 2
    assert [curve[-1] for curve in hybrid.curves] == [(10, pytest.approx(dice, abs=1e-3)) for dice in hybrid.by_seed]
    assert hybrid.cases == {c: pytest.approx(np.mean(v)) for c, v in _by_case(result.folder, "hybrid").items()}
    row = next(line for line in result.table.splitlines() if line.startswith("| resnet"))
    gap = np.mean([hybrid.cases[c] - resnet.cases[c] for c in hybrid.cases])
    assert f"{gap:.4f} (" in row
    assert (result.folder / "comparison.png").stat().st_size > 5000


def _by_case(folder: Path, setting: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    with (folder / "cases.csv").open() as file:
        for row in csv.DictReader(file):
            if row["training"].startswith(setting):
                values.setdefault(row["case"], []).append(float(row["dice"]))
    return values


def test_two_workers_give_the_weights_of_one_process_although_one_is_killed(
    crossed: tuple[StudyConfig, CrossValidation], tmp_path: Path
) -> None:
    changes = {"runs": str(tmp_path), "tracking": crossed[0].tracking.model_copy(update={"kind": "jsonl"})}
    training = crossed[0].training.model_copy(update={"checkpoint_minutes": 0.0005})
    config = crossed[0].model_copy(update={**changes, "training": training})
    killed: list[int] = []

    def kill_first() -> None:
        wait_until(lambda: any(tmp_path.glob("*/*/checkpoint/last.pt")), "a first checkpoint", every_s=0.02)
        living = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
        worker = next(c for c in living if "medhybrid.data.workers" in " ".join(c.cmdline()))
        worker.kill()
        killed.append(worker.pid)

    killer = threading.Thread(target=kill_first)
    killer.start()
    with Processes(2) as pool:
        result = medhybrid.cross_validate(config, pool=pool)
    killer.join()

    assert result is not None
    assert len(killed) == 1
    assert {t.name: t.cases for t in result.trainings} == {t.name: t.cases for t in crossed[1].trainings}
    assert set(json.loads((result.folder / "runs.json").read_text())) == {"fold0-seed0", "fold1-seed0"}
    assert len(list((tmp_path / config.name).glob("2*"))) == 2, "the killed training was resumed"
    assert [t.name for t in result.trainings] == ["fold0-seed0", "fold1-seed0"]


def test_trainings_on_other_data_are_not_combined(tmp_path: Path) -> None:
    write_study(tmp_path / "data", n_cases=6)
    config = small_config(tmp_path, "training.iterations=4", "data.splits=null", "data.n_folds=2", "tracking.kind=none")
    medhybrid.preprocess(config)
    assert medhybrid.cross_validate(config, folds=[0]) is not None
    write_study(tmp_path / "data", n_cases=8)
    medhybrid.preprocess(config)

    with pytest.raises(DataError, match=r"the data have changed since the run .* started"):
        medhybrid.cross_validate(config)


def test_settings_with_other_validation_cases_are_refused(
    crossed: tuple[StudyConfig, CrossValidation],
) -> None:
    config, _ = crossed
    other = config.model_copy(update={"training": config.training.model_copy(update={"fold": 1})})

    with pytest.raises(ConfigError, match=r"b has other validation cases than a"):
        medhybrid.compare_settings({"a": config, "b": other}, seeds=[0], name="unlike")
    with pytest.raises(DataError, match="b cannot be compared with a: their cases differ"):
        comparison_table([Setting("a", 1, (1,), (0.5,), {"x": 0.5}), Setting("b", 1, (1,), (0.5,), {"y": 0.5})])
