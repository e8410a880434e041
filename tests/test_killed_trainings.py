"""Killed and interrupted trainings can be resumed; two processes cannot train one run."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medhybrid
from medhybrid.config import StudyConfig, load_config
from medhybrid.errors import ConfigError, OutputError
from medhybrid.files import held
from medhybrid.steps.train import resume
from medhybrid.training.checkpoint import load_checkpoint
from medhybrid.training.team import Team
from tests.patience import patience_s, wait_until
from tests.synthetic import StudyFolder
from tests.training.trainers import losses_of

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.mark.slow
def test_a_training_killed_twice_ends_with_the_weights_of_an_uninterrupted_one(
    prepared: StudyFolder, tmp_path: Path
) -> None:
    changes = ["training.iterations=40", "training.checkpoint_minutes=0.0005", "tracking.kind=jsonl"]
    whole = medhybrid.train(changed(prepared, f"runs={tmp_path / 'whole'}", *changes))
    command = [sys.executable, "-m", "medhybrid", "train", "--config", str(prepared.folder / "small.yaml")]
    runs = tmp_path / "killed"
    rng = random.Random(0)
    for n in range(2):
        added = ["--resume"] if n else changes
        process = subprocess.Popen(
            [*command, f"runs={runs}", *added], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        before = mark(runs)
        wait_until(lambda before=before: mark(runs) > before, "a newer checkpoint", process=process, every_s=0.01)  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
    (run,) = (runs / "blobs").iterdir()
    assert not (run / "model").exists(), "the process was killed before the end of the training"

    resume(run)

    assert losses_of(run) == losses_of(whole.folder)
    ours, theirs = (load_file(f / "model" / "model.safetensors") for f in (run, whole.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def changed(study: StudyFolder, *overrides: str) -> StudyConfig:
    return load_config(study.folder / "small.yaml", overrides)


def mark(runs: Path) -> int:
    """Return the time of the newest checkpoint."""
    return max((p.stat().st_mtime_ns for p in runs.glob("*/*/checkpoint/last.pt")), default=0)


def test_a_run_without_checkpoint_restarts_from_the_first_step(prepared: StudyFolder, tmp_path: Path) -> None:
    run = medhybrid.train(changed(prepared, f"runs={tmp_path}", "training.iterations=4", "tracking.kind=jsonl"))
    shutil.rmtree(run.folder / "checkpoint")

    again = resume(run.folder)

    assert again.n_steps == 4
    assert again.folder == run.folder


def test_two_processes_do_not_train_one_run(prepared: StudyFolder, tmp_path: Path) -> None:
    run = medhybrid.train(changed(prepared, f"runs={tmp_path}", "training.iterations=4", "tracking.kind=jsonl"))

    with held(run.folder / ".lock"), pytest.raises(OutputError, match="another process trains the run"):
        resume(run.folder, ["training.iterations=+2"])
    assert resume(run.folder, ["training.iterations=+2"]).n_steps == 6


@pytest.mark.slow
def test_an_interrupted_extension_keeps_the_validated_model(prepared: StudyFolder, tmp_path: Path) -> None:
    run = medhybrid.train(changed(prepared, f"runs={tmp_path}", "training.iterations=6", "tracking.kind=jsonl")).folder
    before = {p: (run / p).read_bytes() for p in ("model/model.json", "model/model.safetensors", "validation.csv")}
    process = subprocess.Popen(
        [sys.executable, "-m", "medhybrid", "train", "--resume", "--run", run, "training.iterations=+100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: max(losses_of(run), default=0) > 20, "a loss after step 20", process=process)
    process.terminate()
    shown, _ = process.communicate(timeout=patience_s())

    assert process.returncode == 130
    assert b"stays that of the finished training" in shown
    assert {p: (run / p).read_bytes() for p in before} == before

    longer = resume(run, [f"training.iterations={load_checkpoint(run / 'checkpoint')['step'] + 2}"])
    assert medhybrid.load_model(run).record.training.n_steps == longer.n_steps  # type: ignore[union-attr]


def test_a_refused_resume_does_not_change_the_length(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = medhybrid.train(changed(prepared, f"runs={tmp_path}", "training.iterations=4", "tracking.kind=jsonl")).folder
    before = (run / "config.yaml").read_text()
    monkeypatch.setattr("medhybrid.steps.train.join_team", lambda _: nullcontext(Alone(0, 1)))

    with pytest.raises(ConfigError, match="cannot be divided among"):
        resume(run, ["training.iterations=+10"])

    assert (run / "config.yaml").read_text() == before


class Alone(Team):
    """Run one process as one of five."""

    def part(self, batch_size: int) -> range:
        return Team(0, 5).part(batch_size)


@pytest.mark.slow
def test_sigterm_during_a_validation_starts_no_further_training(prepared: StudyFolder, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED_LATE, prepared.folder / "small.yaml", f"runs={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shown, problems = process.communicate(timeout=patience_s())

    assert shown.splitlines()[-1:] == ["None"], problems
    trained = [p.parent.name for p in tmp_path.glob("blobs/*/validation.csv")]
    assert len(trained) == 1, "the current one was finished"


STOPPED_LATE = """
import os, signal, sys
import medhybrid
from medhybrid.training import loop

whole = loop.Trainer._final_outcome

def validate(self):
    os.kill(os.getpid(), signal.SIGTERM)
    return whole(self)

loop.Trainer._final_outcome = validate
config = medhybrid.load_config(sys.argv[1], [sys.argv[2], "training.iterations=4", "tracking.kind=none"])
print(medhybrid.cross_validate(config, seeds=(0, 1, 2), folds=[0]))
"""
