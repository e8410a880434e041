"""Reproduction: a training repeated on the same host gives the same bits; differences of the host are listed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import medhybrid
from medhybrid.cli import main
from medhybrid.config import load_config
from medhybrid.errors import ConfigError, ModelError
from medhybrid.inference.model_record import read_record
from medhybrid.steps.reproduce import recipe_of
from medhybrid.steps.train import resume
from medhybrid.training.determinism import deterministic
from tests.brief import blank_pictures
from tests.synthetic import StudyFolder, make_test_plan, make_test_record

pytestmark = pytest.mark.usefixtures("blank_pictures", "in_this_process")


@pytest.fixture(scope="module")
def run(prepared: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of six steps. Do not write into it."""
    changes = [f"runs={tmp_path_factory.mktemp('made') / 'first'}", "tracking.kind=jsonl", "training.iterations=6"]
    changes += ["training.deterministic=true"]
    with blank_pictures():
        return medhybrid.train(load_config(prepared.folder / "small.yaml", changes)).folder


@pytest.mark.slow
def test_a_deterministic_training_is_reproduced_bit_for_bit(
    run: Path, prepared: StudyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my recipes" / "again.yaml"
    places = [f"data.root={prepared.folder / 'data'}", f"runs={tmp_path / 'second'}"]
    assert (
        main(["preprocess", "--config", str(prepared.folder / "small.yaml"), f"prepare.folder={tmp_path / 'p'}"]) == 0
    )
    places.append(f"prepare.folder={tmp_path / 'p'}")
    assert main(["reproduce", str(run), *places, "--out", str(out), "--run"]) == 0

    shown = capsys.readouterr().out
    assert "bit-identical" in shown
    assert f"medhybrid train --config '{out}' --deterministic" in shown
    told = recipe_of(read_record(run)[1], places).differences
    assert not [row for row in told if row[0] != "code"], "the code may have uncommitted changes"
    assert len(list((tmp_path / "second" / "blobs").iterdir())) == 1


def test_differences_of_this_host_are_listed(run: Path, tmp_path: Path) -> None:
    record = read_record(run)[1]
    assert record.training is not None
    software = record.training.software | {"torch": "1.0"}
    changed = record.model_copy(update={"training": record.training.model_copy(update={"software": software})})

    recipe = recipe_of(changed, ["data.root=/data", f"prepare.folder={tmp_path / 'elsewhere'}"])

    assert [row[0] for row in recipe.differences] == ["data", "torch"]
    assert recipe.differences[0][2] == "not prepared here"
    assert recipe.differences[1] == ("torch", "1.0", torch.__version__)


def test_a_training_of_minutes_is_reproduced_with_its_steps(run: Path) -> None:
    record = read_record(run)[1]
    assert record.training is not None
    training = record.training.config["training"] | {"iterations": None, "max_minutes": 3.0, "deterministic": False}
    made = record.training.model_copy(update={"config": record.training.config | {"training": training}})

    recipe = recipe_of(record.model_copy(update={"training": made}))

    assert (recipe.config.training.iterations, recipe.config.training.max_minutes) == (6, None)
    (length,) = [row for row in recipe.differences if row[0] == "length"]
    assert length[1] == "6 steps on the schedule of 3 minutes"


def test_the_values_of_the_plan_are_set_in_the_config(run: Path) -> None:
    record = read_record(run)[1]
    plan = record.plan.model_copy(update={"batch_size": 7})

    prepare = recipe_of(record.model_copy(update={"plan": plan})).config.prepare

    chosen = (prepare.spacing_mm, prepare.patch_size, prepare.batch_size)
    assert chosen == (plan.spacing_mm, plan.patch_size, 7)


def test_the_changed_length_of_an_extended_training_is_listed(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run.parents[1], tmp_path / "runs"), run.parent.name, run.name)
    resume(run, ["training.iterations=6"])
    assert not [row for row in recipe_of(read_record(run)[1]).differences if row[0] == "length"], (
        "the length is the same"
    )
    extended = resume(run, ["training.iterations=+2"])

    recipe = recipe_of(read_record(extended.folder)[1])

    (length,) = [row for row in recipe.differences if row[0] == "length"]
    assert length[1:] == ("8 steps, length changed during training", "8 steps")


def test_only_paths_can_be_overridden_and_a_model_without_record_is_refused(run: Path) -> None:
    with pytest.raises(ModelError, match=r"training\.seed cannot be overridden"):
        recipe_of(read_record(run)[1], ["training.seed=3"])
    with pytest.raises(ModelError, match="has no record of its training"):
        recipe_of(make_test_record(make_test_plan()))


def test_a_model_has_no_path_and_no_password(prepared: StudyFolder, tmp_path: Path) -> None:
    changes = [f"runs={tmp_path / 'Smith'}", "training.iterations=2", "tracking.kind=jsonl"]
    changes += ["tracking.uri=postgresql://u:PASSWORD@db"]
    run = medhybrid.train(load_config(prepared.folder / "small.yaml", changes)).folder

    text = (run / "model" / "model.json").read_text()

    assert not [s for s in ("PASSWORD", "Smith", str(prepared.folder)) if s in text]


def test_an_interrupted_training_is_listed_and_a_damaged_record_is_refused(run: Path) -> None:
    record = read_record(run)[1]
    assert record.training is not None
    interrupted = record.model_copy(update={"training": record.training.model_copy(update={"is_interrupted": True})})
    assert ("length", "6 steps, interrupted", "6 steps") in recipe_of(interrupted, ["data.root=/data"]).differences

    damaged = record.model_copy(update={"training": record.training.model_copy(update={"config": {"training": 3}})})
    with pytest.raises(ModelError, match="record of its training is damaged"):
        recipe_of(damaged)


def test_deterministic_needs_a_length_in_steps(prepared: StudyFolder) -> None:
    changes = ["training.iterations=null", "training.max_minutes=1", "training.deterministic=true"]
    with pytest.raises(ConfigError, match="needs iterations"):
        load_config(prepared.folder / "small.yaml", changes)


def test_the_determinism_setting_of_torch_is_restored() -> None:
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
