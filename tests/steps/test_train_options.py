"""Trainings on every case, with class weights and with a loss of the user: what is recorded, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

import medhybrid
from medhybrid.cli import main
from medhybrid.config import load_config
from medhybrid.data.plan import Plan, PlanBudget
from medhybrid.errors import ConfigError, DataError
from medhybrid.inference.ensemble import Ensemble
from medhybrid.inference.model_record import read_record
from medhybrid.progress import Silent
from medhybrid.runs.data import read_data
from medhybrid.runs.record import make_tracker
from medhybrid.runs.remarks import report_other_budget
from medhybrid.runs.setup import resolve_setup
from medhybrid.steps.promote import promote
from medhybrid.steps.train import resume
from medhybrid.tracking.jsonl import read_log
from medhybrid.tracking.registry import Version
from tests.synthetic import StudyFolder

pytestmark = pytest.mark.usefixtures("blank_pictures")

SHORT = ("training.iterations=10", "tracking.kind=jsonl")


class Messages(Silent):
    """Reporter that keeps messages."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        """Keep a message."""
        self.told.append(text)


def config_of(study: StudyFolder, runs: Path, *changes: str) -> Any:
    return load_config(str(study.folder / "small.yaml"), [f"runs={runs}", *SHORT, *changes])


@pytest.fixture(scope="module")
def on_all(prepared: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, medhybrid.Run, list[str]]:
    """Return a config with `training.fold: all`, its run, and the messages of the training."""
    config = config_of(prepared, tmp_path_factory.mktemp("all"), "training.fold=all")
    reporter = Messages()
    return config, medhybrid.train(config, reporter=reporter), reporter.told


def test_every_case_trains_and_the_records_say_that_none_validates(
    on_all: tuple[Any, medhybrid.Run, list[str]], prepared: StudyFolder
) -> None:
    _, run, told = on_all
    names = sorted(p.name for p in (prepared.folder / "prepared" / "blobs" / "cases").iterdir())

    data, record = read_data(run.folder), read_record(run.folder)[1]
    assert data is not None
    assert (sorted(data.train), data.validation) == (names, ())
    assert run.metrics == {}
    assert record.fold == "all"
    assert record.metrics == {}
    assert len(record.training_images) == len(names)
    assert not record.calibration.is_fitted
    assert any("nothing is validated" in text for text in told)
    card = (run.folder / "model" / "card.md").read_text()
    assert "none: trained on every case" in card
    assert "**uncalibrated**" in card
    described = [e["text"] for e in read_log(run.folder / "log.jsonl") if e["event"] == "description"]
    assert "validation: none: every case trains" in described[0]
    assert not (run.folder / "validation.csv").exists()


def test_mlflow_gets_no_validation_data_and_a_tag(
    on_all: tuple[Any, medhybrid.Run, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr("medhybrid.runs.record.MlflowTracker", lambda *arguments, **_: made.append(arguments[2]))
    config = on_all[0].model_copy(update={"tracking": on_all[0].tracking.model_copy(update={"kind": "mlflow"})})
    setup = resolve_setup(config)

    make_tracker(config, setup.plan, setup.data, tmp_path)

    assert list(made[0].datasets) == ["train"]
    assert made[0].tags["medhybrid.fold"] == "all"
    assert made[0].tags["medhybrid.validation"].startswith("none: every case trains")


def test_such_a_run_is_extended_and_gets_the_new_model(on_all: tuple[Any, medhybrid.Run, list[str]]) -> None:
    run = on_all[1]

    longer = resume(run.folder, ["training.iterations=+2"])

    assert (longer.n_steps, longer.metrics) == (run.n_steps + 2, {})
    assert read_record(run.folder)[1].training.n_steps == run.n_steps + 2  # type: ignore[union-attr]


def test_its_masks_of_training_scans_are_refused_as_leakage(
    on_all: tuple[Any, medhybrid.Run, list[str]], prepared: StudyFolder, tmp_path: Path
) -> None:
    data, reporter = prepared.folder / "data", Messages()
    medhybrid.predict(data / "imagesTr" / "case_00.nii.gz", model=on_all[1].folder, out=tmp_path, reporter=reporter)

    with pytest.raises(DataError, match="data leakage: the model was trained on case_00"):
        medhybrid.evaluate(data / "labelsTr", tmp_path, labels={"left": 1, "right": 4}, cases=["case_00"])
    assert any("not calibrated" in text for text in reporter.told)
    assert json.loads((tmp_path / "run.json").read_text())["is_calibrated"] is False


def test_in_an_ensemble_every_members_training_scans_count(
    on_all: tuple[Any, medhybrid.Run, list[str]], trained: tuple[StudyFolder, Path]
) -> None:
    members = [medhybrid.load_model(folder, device="cpu") for folder in (trained[1], on_all[1].folder)]

    joined = Ensemble(members)

    assert (
        set(joined.record.training_images)
        == set(members[1].record.training_images)
        > set(members[0].record.training_images)
    )
    assert members[0].is_calibrated
    assert not joined.is_calibrated


def test_commands_that_compare_scores_refuse_it(
    on_all: tuple[Any, medhybrid.Run, list[str]], trained: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    config, run, _ = on_all

    with pytest.raises(DataError, match=r"every case trained \(training.fold=all\)"):
        medhybrid.compare(run.folder, trained[1], out=tmp_path)
    for call in (
        lambda: medhybrid.compare_settings({"a": config}, seeds=[0], name="c"),
        lambda: medhybrid.train_all({"a": config}, tmp_path / "runs"),
        lambda: medhybrid.tune(config, medhybrid.load_search("search_hybrid.yaml"), minutes=1),
    ):
        with pytest.raises(ConfigError, match=r"needs validation, which training\.fold=all"):
            call()


def test_it_becomes_the_champion_only_by_force(
    on_all: tuple[Any, medhybrid.Run, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def __init__(self, _: str) -> None: ...

        def of_run(self, name: str, run_id: str) -> Version:
            return Version(name, "2" if run_id == "ours" else "1", run_id)

        def champion(self, name: str) -> Version:
            return Version(name, "1", "theirs")

    monkeypatch.setattr("medhybrid.steps.promote.Registry", Store)
    (on_all[1].folder / "mlflow_run_id").write_text("ours")

    with pytest.raises(DataError, match="no validation to compare with the champion"):
        promote(on_all[1].folder)
    (on_all[1].folder / "mlflow_run_id").unlink()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.fold=all", "training.keep=best"], "keep: best needs validation"),
        (["training.fold=all", "training.inner_fold=0"], "inner_fold divides"),
        (["training.fold=every"], "expected the number of a fold, from 0, or all"),
        (["training.fold=-1"], "expected the number of a fold, from 0, or all"),
    ],
)
def test_settings_that_need_validation_are_refused(
    prepared: StudyFolder, tmp_path: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(prepared, tmp_path, *changes)


# --- loss -------------------------------------------------------------------------------------------------------------


def test_balanced_weights_are_recorded_with_their_reason_and_kept_on_resume(
    prepared: StudyFolder, tmp_path: Path
) -> None:
    changes = ("training.loss=dice_focal", "training.class_weights=balanced", "training.fold=all")
    run = medhybrid.train(config_of(prepared, tmp_path, *changes))
    reason = Plan.load(run.folder / "plan.json").reasons["class_weights"]
    again = resume(run.folder, ["training.iterations=+1"])

    record = read_record(again.folder)[1]
    assert reason.startswith("balanced: ")
    assert record.plan.reasons["class_weights"] == reason
    logged = [e["values"] for e in read_log(run.folder / "log.jsonl") if "train/loss" in e.get("values", {})]
    assert set(logged[0]) >= {"train/loss", "train/focal_loss", "train/dice_loss", "train/auxiliary_loss"}


def squared_error(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the mean squared error of the first foreground class."""
    return ((logits.softmax(1)[:, 1] - (target == 1).float()).square() * known).mean()


def test_a_loss_of_the_user_trains_and_is_needed_to_continue(prepared: StudyFolder, tmp_path: Path) -> None:
    config = config_of(prepared, tmp_path, "training.fold=all")
    run = medhybrid.train(config, loss=squared_error)

    record = read_record(run.folder)[1]
    assert record.training is not None
    assert record.training.config["training"]["loss"] == "own"
    assert record.training.software["loss"].startswith("test_train_options.py:squared_error, SHA-256 ")
    with pytest.raises(ConfigError, match="no record can name"):
        resume(run.folder, ["training.iterations=+1"])
    with pytest.raises(ConfigError, match="trained with another loss"):
        resume(run.folder, ["training.iterations=+1"], loss=lambda logits, *_: logits.mean())
    assert resume(run.folder, ["training.iterations=+1"], loss=squared_error).n_steps == 11


def test_the_command_line_takes_a_file_and_a_record_cannot_name_one(
    prepared: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hostile run folder names a file in its config and in the record of its loss; neither is imported."""
    losses, mark = tmp_path / "losses.py", tmp_path / "was_run"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef mine(logits, *_):\n    return logits.square().mean()\n"
    losses.write_text(code)
    call = ["train", "--quiet", "-c", str(prepared.folder / "small.yaml"), f"runs={tmp_path / 'runs'}", *SHORT]

    assert main([*call, "training.fold=all", "training.iterations=2", "--own-loss", f"{losses}:mine"]) == 0
    (run,) = (tmp_path / "runs" / "blobs").iterdir()
    assert mark.exists()
    mark.unlink()
    (run / "own_loss.json").write_text(json.dumps({"name": f"{losses}:mine", "sha256": ""}))
    assert main(["train", "--quiet", "--resume", "--run", str(run), "training.iterations=+1"]) == 2
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["training"]["loss"] = f"{losses}:mine"
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--quiet", "--resume", "--run", str(run), "training.iterations=+1"]) == 2

    assert not mark.exists()
    assert "no record can name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.loss=own"], "no record can name"),
        (["training.loss=tversky"], "training.loss=tversky and a loss of the user"),
        (["training.class_weights=balanced"], "no effect with loss: own"),
    ],
)
def test_two_losses_or_none_are_refused(
    prepared: StudyFolder, tmp_path: Path, changes: list[str], message: str
) -> None:
    loss = None if changes == ["training.loss=own"] else squared_error

    with pytest.raises(ConfigError, match=message):
        medhybrid.train(config_of(prepared, tmp_path, *changes), loss=loss)
    assert not tmp_path.joinpath("blobs").exists()


# --- length -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "steps", "reasons", "told"),
    [
        (None, 10, {}, False),
        (30.0, None, {}, True),
        (None, 500, {}, True),
        (30.0, None, dict.fromkeys(("spacing_mm", "patch_size", "batch_size"), "config: prepare"), False),
    ],
)
def test_a_length_other_than_that_of_the_plan_is_told(
    prepared: StudyFolder, tmp_path: Path, minutes: float | None, steps: int | None, reasons: dict[str, str], told: bool
) -> None:
    setup = resolve_setup(config_of(prepared, tmp_path))
    budget = PlanBudget(minutes=minutes, steps=steps, memory_bytes=1, rates={})
    plan = setup.plan.model_copy(update={"budget": budget, "reasons": reasons})
    reporter = Messages()

    report_other_budget(replace(setup, plan=plan), reporter)

    planned = "30 minutes" if minutes else f"{steps} steps"
    expected = f"the plan was made for {planned} and this training has 10 steps"
    assert [text.startswith(expected) for text in reporter.told] == [True] * told
