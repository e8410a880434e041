"""A distributed training saves its state and ends in all processes after a kill, a signal or the loss of its launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from medhybrid.cli.launch import launch
from medhybrid.steps.train import resume
from tests.patience import patience_s, wait_until
from tests.servers import listens_beyond_this_machine
from tests.synthetic import StudyFolder
from tests.training.trainers import train_command


def has_losses(runs: Path) -> bool:
    """Return whether a training has logged a loss."""
    return any("train/loss" in path.read_text() for path in runs.glob("blobs/*/log.jsonl"))


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_after_the_kill_of_one_process_all_end_and_the_run_can_be_resumed(
    prepared: StudyFolder, tmp_path: Path
) -> None:
    changes = ["tracking.kind=jsonl", "training.iterations=100000", "training.checkpoint_minutes=0.001"]
    command = train_command(prepared, tmp_path, *changes, "--processes", "2")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: any(tmp_path.glob("blobs/*/checkpoint/last.pt")), "a checkpoint", process=process)
    members = psutil.Process(process.pid).children()
    assert len(members) == 2
    assert listens_beyond_this_machine(process.pid) == []

    members[1].kill()
    _, problems = process.communicate(timeout=patience_s())

    assert process.returncode == 2
    assert b"process 2 of 2 was killed. Found signal SIGKILL" in problems
    assert not any(m.is_running() and m.status() != psutil.STATUS_ZOMBIE for m in members)
    (run,) = (tmp_path / "blobs").iterdir()
    assert not (run / "model").exists()
    step = torch.load(run / "checkpoint" / "last.pt", weights_only=True)["step"]
    assert resume(run, [f"training.iterations={step + 2}"]).n_steps == step + 2


NOTES_SIGNALS = """#!/bin/sh
trap 'echo SIGTERM >> {notes}; exit 130' TERM
trap 'echo SIGINT >> {notes}; exit 130' INT
echo ready >> {notes}
while :; do sleep 0.02; done
"""


def handler_of_launcher(number: signal.Signals) -> Any:
    """Return the launcher's handler of a signal; None before it is installed."""
    handler = signal.getsignal(number)
    return handler if getattr(handler, "__module__", "") == launch.__module__ else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_launcher_forwards_signals_to_every_process(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, program = tmp_path / "notes", tmp_path / "program"
    program.write_text(NOTES_SIGNALS.format(notes=notes))
    program.chmod(0o755)
    notes.touch()
    monkeypatch.setattr("medhybrid.cli.launch.sys.executable", str(program))
    # a shell cannot trap a signal that is ignored where it starts, as SIGINT is in the background of a script
    before = signal.signal(number, signal.default_int_handler)

    def send_when_ready() -> None:
        wait_until(lambda: notes.read_text().count("ready") == 3, "three processes")
        handler = wait_until(lambda: handler_of_launcher(number), "the launcher's handler")
        handler(number, None)  # a real signal would end the tests if the handler were not installed

    sender = threading.Thread(target=send_when_ready, daemon=True)
    sender.start()
    try:
        code = launch(["train"], 3)
    finally:
        signal.signal(number, before)
    sender.join()

    assert code == 130
    assert notes.read_text().split() == ["ready"] * 3 + [number.name] * 3


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_processes_after_their_step(prepared: StudyFolder, tmp_path: Path) -> None:
    changes = ["tracking.kind=jsonl", "training.iterations=100000"]
    command = train_command(prepared, tmp_path, *changes, "--processes", "2")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: has_losses(tmp_path), "a first loss", process=process)

    process.send_signal(signal.SIGINT)
    shown, problems = process.communicate(timeout=patience_s())

    assert process.returncode == 130, problems
    assert b"continue with: medhybrid train --resume" in shown
    (run,) = (tmp_path / "blobs").iterdir()
    assert (run / "checkpoint" / "last.pt").exists()
    assert os.listdir(run / "model")


@pytest.mark.slow
def test_after_the_kill_of_the_launcher_all_processes_save_and_end(prepared: StudyFolder, tmp_path: Path) -> None:
    changes = ["tracking.kind=jsonl", "training.iterations=100000"]
    process = subprocess.Popen(
        train_command(prepared, tmp_path, *changes, "--processes", "2"), stdout=subprocess.DEVNULL
    )
    wait_until(lambda: has_losses(tmp_path), "a first loss", process=process)
    members = psutil.Process(process.pid).children()

    process.kill()
    process.wait()
    _, left = psutil.wait_procs(members, timeout=patience_s())

    assert not left
    (run,) = (tmp_path / "blobs").iterdir()
    assert (run / "checkpoint" / "last.pt").exists()
