"""Command line: arguments, exit codes and error messages without tracebacks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import medhybrid
from medhybrid.cli import main
from tests.patience import patience_s, wait_until
from tests.synthetic import StudyFolder, save_nifti, small_values, write_study


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_study(tmp_path / "data", n_cases=6)
    values = small_values(tmp_path)
    values["training"] |= {"iterations": 10, "n_validations": 1}
    values["tracking"] = {"kind": "jsonl"}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "preprocess" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medhybrid {medhybrid.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "nothing.yaml"], "config nothing.yaml not found"),
        (["train"], "--config"),
        (["preprocess", "--config", "brain.yaml"], "data.root is not set"),
        (["preprocess", "--config", "brain.yaml", "data.rot=x"], "did you mean root"),
        (["predict", "nowhere", "--model", "m", "--out", "o"], "nowhere does not exist"),
        (["inspect", "nowhere"], "nowhere does not exist"),
        (["train", "--resume"], "--resume needs --run FOLDER, or --config"),
        (["brew"], "No such command"),
        (["predict", "x"], "Missing option"),
        (["review", "--runs", "nowhere"], "nowhere"),
    ],
)
def test_an_error_gives_exit_code_2_and_one_clear_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_config_prints_every_value_with_its_origin_and_can_be_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from medhybrid.config import load_config

    assert main(["config", "brain.yaml", "training.seed=9"]) == 0

    printed = capsys.readouterr().out
    seed = next(line for line in printed.splitlines() if "seed: 9" in line)
    assert seed.endswith("# command line")
    assert any(line.endswith("# default") for line in printed.splitlines())
    (tmp_path / "mine.yaml").write_text(printed)
    assert load_config(tmp_path / "mine.yaml") == load_config("brain.yaml", ["training.seed=9"])


def test_the_whole_workflow_in_five_commands(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs" / "blobs"
    c = ["--config", str(config)]

    assert main(["inspect", str(tmp_path / "data" / "imagesTr")]) == 0
    assert "6 scans, 0 refused" in capsys.readouterr().out

    assert main(["preprocess", *c]) == 0
    assert "6 cases prepared" in capsys.readouterr().out
    assert main(["train", *c, "training.seed=1"]) == 0
    (run,) = runs.iterdir()
    assert str(run) in capsys.readouterr().out

    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "data" / "imagesTr"), "-m", str(run), "-o", str(out)]) == 0
    assert main(["evaluate", str(tmp_path / "data" / "labelsTr"), str(out), *c, "--run", str(run)]) == 1
    shown = capsys.readouterr().out
    assert "surface_dice" in shown
    assert "data leakage" in shown, "the training cases are not scored"
    assert (out / "evaluation" / "scores.csv").exists()


def test_excluded_cases_and_failed_scans_give_exit_code_1(config: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "data" / "imagesTr" / "case_00.nii.gz").write_bytes(b"x")

    assert main(["preprocess", "--config", str(config)]) == 1
    assert "case_00" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "data" / "imagesTr")]) == 1


@pytest.mark.usefixtures("blank_pictures", "in_this_process")
def test_resume_may_change_only_the_length(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    c = ["--config", str(config)]
    main(["preprocess", *c])
    assert main(["train", *c]) == 0

    assert main(["train", *c, "--resume", "training.peak_rate=1"]) == 2
    assert "cannot change on --resume" in capsys.readouterr().err
    assert main(["train", *c, "--resume", "training.iterations=+5"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_the_state_and_the_run_can_be_resumed(
    prepared: StudyFolder, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "medhybrid", "train", "--config", str(prepared.folder / "small.yaml")]
    changes = [f"runs={tmp_path / 'runs'}", "training.iterations=100000", "tracking.kind=jsonl"]
    process = subprocess.Popen([*command, *changes], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "runs" / "blobs"
    wait_until(
        lambda: any("train/loss" in p.read_text() for p in log.glob("*/log.jsonl")), "a first loss", process=process
    )

    os.kill(process.pid, number)
    shown, _ = process.communicate(timeout=patience_s())

    assert process.returncode == 130, shown
    (run,) = log.iterdir()
    assert "continue with: medhybrid train --resume" in shown
    assert (run / "checkpoint" / "last.pt").exists()
    assert (run / "model" / "model.safetensors").exists()
    step = int(shown.split("interrupted after step ")[1].split(";")[0])
    assert main(["train", "--resume", "--run", str(run), f"training.iterations={step + 3}", "--quiet"]) == 0


def test_predict_on_a_folder_without_scans_gives_exit_code_2(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert main(["predict", str(tmp_path / "empty"), "-m", str(trained[1]), "-o", str(tmp_path / "out")]) == 2


def test_a_single_scan_can_be_predicted(trained: tuple[StudyFolder, Path], tmp_path: Path) -> None:
    from tests.synthetic import blob_case

    path = save_nifti(tmp_path / "one.nii.gz", blob_case(5)[0])

    assert main(["predict", str(path), "-m", str(trained[1]), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "masks" / "one.nii.gz").exists()


def test_the_options_before_a_command_apply_to_one_call_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--debug", "inspect", "nowhere"]) == 2
    first = capsys.readouterr()
    assert main(["inspect", "nowhere"]) == 2

    second = capsys.readouterr()
    assert json.loads(first.out)["event"] == "error"
    assert "Traceback" in first.err
    assert second.out == ""
    assert "Traceback" not in second.err


def test_the_entry_points_run_the_same_command_line() -> None:
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["medhybrid"].partition(":")

    run = getattr(import_module(module), name)

    assert run.__module__ == "medhybrid.__main__"
    assert import_module("medhybrid.__main__").main is main


@pytest.mark.parametrize(
    ("given", "found"), [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_do_not_wait_actively_for_long_unless_the_user_asks_for_it(
    given: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = import_module("medhybrid.__main__")
    monkeypatch.setattr(entry, "main", lambda: 0)
    monkeypatch.setattr(entry.gc, "set_threshold", lambda *_: None)
    monkeypatch.setattr(entry.atexit, "register", lambda _: None)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert entry.run() == 0

    assert os.environ.get("GOMP_SPINCOUNT") == found
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # removed with the changes of this test
