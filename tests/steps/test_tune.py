"""Hyperparameter search: trials on inner splits, budget, resumption after a killed process, and the best config."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import medhybrid
from medhybrid.config import RangeConfig, SearchConfig, StudyConfig, load_config, load_search, with_values
from medhybrid.data.splits import Fold
from medhybrid.errors import ConfigError, DataError
from medhybrid.files import held
from medhybrid.runs.resume import PART_OF
from medhybrid.runs.run import Run
from medhybrid.steps import tune as module
from tests.synthetic import StudyFolder, small_config

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

SEARCH = SearchConfig(
    name="small",
    trial={"training.iterations": 8, "training.n_validations": 3},
    space={
        "training.peak_rate": RangeConfig(low=1e-3, high=1e-2, log=True),
        "network.depth": RangeConfig(low=1, high=2),
        "network.kind": RangeConfig(choices=("hybrid", "resnet")),
    },
)


@pytest.fixture
def config(prepared: StudyFolder, tmp_path: Path) -> StudyConfig:
    return small_config(prepared.folder, f"runs={tmp_path / 'runs'}", "tracking.kind=none")


class Trainings:
    """Replacement of `train`, whose score is a function of the config."""

    def __init__(self, tmp_path: Path) -> None:
        self.configs: list[StudyConfig] = []
        self.folder = tmp_path / "run"
        self.folder.mkdir()

    def __call__(self, config: StudyConfig, *, on_start: Any, watch: Any, **_: Any) -> Run:
        self.configs.append(config)
        on_start(self.folder)
        score = 1 - abs(np.log10(config.training.peak_rate) + 2.5) - 0.1 * config.network.depth
        for number in (1, 2):
            if watch(number, score):
                return Run(self.folder, None, {}, 8, is_interrupted=True)
        return Run(self.folder, None, {"val/dice": score}, 8, is_interrupted=False)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainings:
    made = Trainings(tmp_path)
    monkeypatch.setattr(module, "train", made)
    clock = iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic", lambda: 20.0 * next(clock))  # each call is 20 seconds later
    return made


# --- inner splits -----------------------------------------------------------------------------------------------------


@given(st.integers(2, 6), st.integers(6, 40), st.integers(0, 3))
def test_inner_splits_divide_the_training_cases_by_subject(n_parts: int, n_subjects: int, seed: int) -> None:
    subjects = {f"case{i}{side}": f"s{i}" for i in range(n_subjects) for side in "LR"}
    fold = Fold(train=tuple(subjects), validation=("other",))

    parts = [fold.inner(k, subjects, n_parts, seed) for k in range(n_parts)]

    assert sorted(name for p in parts for name in p.validation) == sorted(subjects)
    for p in parts:
        assert sorted(p.train + p.validation) == sorted(subjects)
        assert not {subjects[n] for n in p.train} & {subjects[n] for n in p.validation}
        assert "other" not in p.train + p.validation


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_smaller_share_of_cases_is_a_subset_of_a_larger_one(few: int, many: int) -> None:
    fold = Fold(train=tuple(f"c{i}" for i in range(20)), validation=("v",))

    small, large = (fold.limited(n, 0) for n in sorted((few, many)))

    assert len(small.train) == min(few, many, 20)
    assert set(small.train) <= set(large.train)


def test_inner_splits_divide_labelled_cases_and_unlabelled_ones_always_train() -> None:
    labelled, others = ({f"{k}{i}": f"{k}{i}" for i in range(n)} for k, n in (("a", 10), ("b", 5)))
    fold = Fold(train=(*labelled, *others, "a0_again"), validation=("z",))
    others["a0_again"] = "a0"

    for part in range(5):
        alone, with_others = fold.inner(part, labelled, 5, seed=3), fold.inner(part, labelled, 5, 3, others)
        assert alone.validation == with_others.validation
        assert set(with_others.train) - set(alone.train) == {
            n for n, subject in others.items() if subject not in alone.validation
        }


def test_an_unknown_inner_split_is_refused() -> None:
    with pytest.raises(DataError, match="training\\.inner_fold 5 does not exist"):
        Fold(train=("a", "b"), validation=("c",)).inner(5, {"a": "a", "b": "b"}, 5, 0)


# --- configs ----------------------------------------------------------------------------------------------------------


def test_the_keys_of_the_packaged_search_exist() -> None:
    search = load_search("search_hybrid.yaml")

    for key, values in search.space.items():
        with_values(
            load_config("brain.yaml"), {key: values.choices[0] if values.choices else values.high}, source="test"
        )
    with_values(load_config("brain.yaml"), search.trial, source="test")


@pytest.mark.parametrize(
    "space",
    [{}, {"a": {}}, {"a": {"low": 1}}, {"a": {"low": 2, "high": 1}}, {"a": {"low": 0, "high": 1, "log": True}}],
)
def test_a_search_without_ranges_is_refused(tmp_path: Path, space: dict[str, Any]) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "x", "space": space}))

    with pytest.raises(ConfigError, match=r"space"):
        load_search(tmp_path / "s.yaml")


def test_an_unknown_key_is_refused_before_the_first_trial(config: StudyConfig, trainings: Trainings) -> None:
    search = SEARCH.model_copy(update={"space": {"training.peak_rat": RangeConfig(low=0.1, high=1.0)}})

    with pytest.raises(ConfigError, match=r"training\.peak_rat: unknown key; did you mean peak_rate"):
        medhybrid.tune(config, search, minutes=1)
    assert not trainings.configs


# --- searches ---------------------------------------------------------------------------------------------------------


def test_the_best_values_are_saved_as_a_config_and_the_budget_ends_the_search(
    config: StudyConfig, trainings: Trainings
) -> None:
    found = medhybrid.tune(config, SEARCH, minutes=12)

    assert found is not None
    with (found.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    complete = [r for r in rows if r["state"] == "complete"]
    assert found.dice == pytest.approx(max(float(r["dice"]) for r in complete), abs=1e-3)
    assert any(r["state"] == "pruned" for r in rows)
    assert 12 <= sum(float(r["minutes"]) for r in rows) < 14
    best = load_config(found.folder / "best.yaml")
    assert best.training.peak_rate == found.values["training.peak_rate"]
    assert best.training.inner_fold is None
    assert best.training.iterations == config.training.iterations
    assert {c.training.inner_fold for c in trainings.configs} == {0}
    assert {c.tracking.register_model for c in trainings.configs} == {False}
    assert (found.folder / "importance.png").stat().st_size > 5_000
    assert (found.folder / "slice.png").stat().st_size > 5_000


def test_the_first_trial_has_the_values_of_the_config_that_lie_in_the_space(
    config: StudyConfig, trainings: Trainings
) -> None:
    config = with_values(config, {"training.peak_rate": 2e-3, "network.kind": "resnet", "network.depth": 5}, source="t")

    assert medhybrid.tune(config, SEARCH, minutes=3) is not None

    first, second = trainings.configs[:2]
    assert (first.training.peak_rate, first.network.kind) == (2e-3, "resnet")
    assert first.network.depth in (1, 2), "5 is not in the search space"
    assert second.training.peak_rate != 2e-3


def test_lists_of_the_config_are_matched_to_choices(config: StudyConfig, trainings: Trainings) -> None:
    choices = ([8, 16], list(config.network.widths), [16, 32])
    search = SearchConfig(name="widths", space={"network.widths": RangeConfig(choices=choices)})

    medhybrid.tune(config, search, minutes=0.1)

    assert trainings.configs[0].network.widths == config.network.widths


def test_a_second_call_continues_with_new_values(config: StudyConfig, trainings: Trainings) -> None:
    medhybrid.tune(config, SEARCH, minutes=3)
    first = len(trainings.configs)
    found = medhybrid.tune(config, SEARCH, minutes=8)

    assert found is not None
    assert found.n_trials == len(trainings.configs) > first
    rates = [c.training.peak_rate for c in trainings.configs]
    assert len(set(rates)) == len(rates)
    assert medhybrid.tune(config, SEARCH, minutes=8) == found


def test_a_killed_trial_is_finished_first(
    config: StudyConfig, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(config: StudyConfig, *, on_start: Any, **_: Any) -> Run:
        trainings.configs.append(config)
        (trainings.folder / "checkpoint").mkdir(parents=True)
        (trainings.folder / "checkpoint" / "last.pt").touch()
        on_start(trainings.folder)
        raise SystemExit(9)

    monkeypatch.setattr(module, "train", killed)
    with pytest.raises(SystemExit):
        medhybrid.tune(config, SEARCH, minutes=1)
    resumed: list[Path] = []

    def go_on(folder: Path, *, watch: Any, **_: Any) -> Run:
        resumed.append(folder)
        assert not watch(2, 0.5)
        return Run(folder, None, {"val/dice": 0.625}, 8, is_interrupted=False)

    monkeypatch.setattr(module, "resume", go_on)
    found = medhybrid.tune(config, SEARCH, minutes=0.5)

    assert found is not None
    assert resumed == [trainings.folder]
    assert (found.dice, found.n_trials) == (0.625, 1)
    assert found.values["training.peak_rate"] == trainings.configs[0].training.peak_rate


def test_a_trial_of_another_living_process_is_left_alone(
    config: StudyConfig, trainings: Trainings, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    medhybrid.tune(config, SEARCH, minutes=1, storage=storage)
    study = optuna.load_study(study_name=f"{config.name}-small", storage=storage)
    theirs = study.ask()
    theirs.set_user_attr("host", module.socket.gethostname())
    theirs.set_user_attr("process", os.getppid())

    medhybrid.tune(config, SEARCH, minutes=4, storage=storage)

    assert study.trials[theirs.number].state.name == "RUNNING"
    assert len(study.trials) > theirs.number + 1


def test_an_interrupted_search_returns_none(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "train", lambda *_, **__: Run(tmp_path, None, {}, 3, is_interrupted=True))

    assert medhybrid.tune(config, SEARCH, minutes=1) is None


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures", "small_program")
@pytest.mark.filterwarnings("ignore")
def test_trials_use_inner_splits_and_are_nested_in_mlflow(prepared: StudyFolder, tmp_path: Path) -> None:
    config = small_config(prepared.folder, f"runs={tmp_path}", "data.n_folds=2")

    found = medhybrid.tune(config, SEARCH, minutes=0.01)

    assert found is not None
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(config.name)
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("tune-small")
    assert parent.data.metrics["dice"] == pytest.approx(found.dice)
    (trial,) = runs.values()
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    outer = medhybrid.load_config(found.folder / "best.yaml").training.fold
    with (next(tmp_path.glob(f"{config.name}/2*/validation.csv"))).open() as file:
        scored = {row["case"] for row in csv.DictReader(file)}
    folds = json.loads((Path(config.prepare.folder) / config.name / "folds.json").read_text())
    assert scored
    assert scored <= set(folds[outer]["train"])


def test_a_search_cannot_continue_with_another_fold_or_space(config: StudyConfig, trainings: Trainings) -> None:
    medhybrid.tune(config, SEARCH, minutes=2)
    tried = len(trainings.configs)
    other_rate = config.model_copy(update={"training": config.training.model_copy(update={"peak_rate": 1e-4})})
    other_space = SEARCH.model_copy(update={"space": {"training.peak_rate": RangeConfig(low=1e-3, high=1.0)}})

    for study, search in ((other_rate, SEARCH), (config, other_space)):
        with pytest.raises(ConfigError, match="started with another config"):
            medhybrid.tune(study, search, minutes=9)
    assert len(trainings.configs) == tried


@pytest.mark.parametrize("key", ["training.fold", "prepare.batch_size", "data.n_folds", "training.inner_fold"])
def test_keys_that_would_change_cases_or_folds_cannot_be_searched(
    config: StudyConfig, trainings: Trainings, key: str
) -> None:
    search = SEARCH.model_copy(update={"space": {key: RangeConfig(choices=(1, 2))}})

    with pytest.raises(ConfigError, match=f"cannot change {key}"):
        medhybrid.tune(config, search, minutes=1)


def test_failing_trials_end_the_search_with_their_reason(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Run:
        raise MemoryError

    monkeypatch.setattr(module, "train", fails)

    with pytest.raises(ConfigError, match=r"last 3 trials failed.*MemoryError"):
        medhybrid.tune(config, SEARCH, minutes=60)


@pytest.mark.slow
def test_pretrained_weights_with_data_leakage_are_refused_before_the_first_trial(
    config: StudyConfig, trainings: Trainings, trained: tuple[StudyFolder, Path]
) -> None:
    """A model of the same fold was trained on the inner validation cases."""
    pretrained = with_values(config, {"training.pretrained": str(trained[1])}, source="test")

    with pytest.raises(DataError, match="data leakage"):
        medhybrid.tune(pretrained, SEARCH, minutes=1)

    assert not trainings.configs


def test_a_trial_is_marked_as_part_of_its_search(config: StudyConfig, trainings: Trainings) -> None:
    medhybrid.tune(config, SEARCH, minutes=0.5)

    assert (trainings.folder / PART_OF).read_text().endswith("tune-small")


def test_without_prepared_cases_no_trial_starts(config: StudyConfig, trainings: Trainings, tmp_path: Path) -> None:
    away = config.model_copy(update={"prepare": config.prepare.model_copy(update={"folder": str(tmp_path / "none")})})

    with pytest.raises(DataError, match="is not a prepared dataset"):
        medhybrid.tune(away, SEARCH, minutes=60)
    assert not trainings.configs


def test_a_trial_whose_process_died_three_times_is_given_up(config: StudyConfig, trainings: Trainings) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def die(*_: Any, **__: Any) -> Run:
            raise KeyboardInterrupt

        patch.setattr(module, "train", die)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                medhybrid.tune(config, SEARCH, minutes=3)

    assert medhybrid.tune(config, SEARCH, minutes=3) is not None
    rows = list(csv.DictReader((Path(config.runs) / "blobs" / "tune-small" / "trials.csv").read_text().splitlines()))
    assert rows[0]["state"] == "fail"
    assert rows[0]["problem"] == "its process died 3 times"


def test_a_trial_whose_run_is_locked_is_not_resumed(config: StudyConfig, tmp_path: Path) -> None:
    """Process ids are not unique across containers."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    study = optuna.create_study()
    trial = study.ask()
    for key, value in {"host": socket.gethostname(), "process": os.getpid(), "run": str(run)}.items():
        trial.set_user_attr(key, value)
    assert module._is_orphan(study.trials[0], tmp_path / "tune")

    with held(run / ".lock"):
        assert not module._is_orphan(study.trials[0], tmp_path / "tune")


def test_few_subjects_give_fewer_inner_splits() -> None:
    fold = Fold(train=("a", "b", "c"), validation=("d",))
    inner = fold.inner(2, {n: n for n in "abc"}, 5, 0)
    assert len(inner.validation) == 1
    with pytest.raises(DataError, match=r"Expected 0 to 2"):
        fold.inner(3, {n: n for n in "abc"}, 5, 0)


def test_hosts_with_other_paths_and_cores_share_a_search(
    config: StudyConfig, trainings: Trainings, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    medhybrid.tune(config, SEARCH, minutes=2, storage=database)
    tried = len(trainings.configs)
    moved = Path(shutil.copytree(config.prepare.folder, tmp_path / "moved"))
    changes = {
        "prepare.folder": str(moved),
        "runs": str(tmp_path / "there"),
        "training.workers": 3,
        "data.root": "/there",
    }
    there = with_values(config, changes, source="test")

    found = medhybrid.tune(there, SEARCH, minutes=6, storage=database)

    assert found is not None
    assert found.n_trials == len(trainings.configs) > tried


def test_the_best_config_is_kept_after_failures_and_incompatible_values_do_not_count(
    config: StudyConfig, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_only(asked: StudyConfig, **more: Any) -> Run:
        if len(trainings.configs) == 1:
            raise problem
        return trainings(asked, **more)

    monkeypatch.setattr(module, "train", first_only)
    monkeypatch.setattr(module, "MAX_MISFITS", 7)
    problem: Exception = ConfigError("heads do not share out 24")

    with pytest.raises(
        ConfigError, match=r"last 7 trials failed.*heads do not share.*best trial so far is in best\.yaml"
    ):
        medhybrid.tune(config, SEARCH, minutes=600)

    best = medhybrid.load_config(Path(config.runs) / config.name / "tune-small" / "best.yaml")
    assert best.training.peak_rate == config.training.peak_rate
    problem = MemoryError()
    monkeypatch.setattr(module, "MAX_MISFITS", 99)
    with pytest.raises(ConfigError, match=r"last 10 trials failed.*MemoryError"):
        medhybrid.tune(config, SEARCH, minutes=600)


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_a_budget_without_minutes_is_refused(config: StudyConfig, minutes: float) -> None:
    with pytest.raises(ConfigError, match="invalid budget"):
        medhybrid.tune(config, SEARCH, minutes=minutes)


def test_other_pretrained_weights_with_the_same_name_are_another_search(
    config: StudyConfig, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "check_leakage", lambda _: None)
    for name in ("a", "b", "copy"):
        (tmp_path / name).mkdir()
        save_file({"x": torch.full((2,), float(name == "b"))}, tmp_path / name / "start.safetensors")
    a, b, copy = (
        with_values(config, {"training.pretrained": str(tmp_path / n / "start.safetensors")}, source="test")
        for n in ("a", "b", "copy")
    )
    medhybrid.tune(a, SEARCH, minutes=2)

    with pytest.raises(ConfigError, match="started with another config"):
        medhybrid.tune(b, SEARCH, minutes=9)
    assert medhybrid.tune(copy, SEARCH, minutes=3) is not None
