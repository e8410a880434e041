"""Full disks, files that vanish or change, killed and doubled processes: told, nothing lost, no half file has a name."""

from __future__ import annotations

import errno
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import medhybrid
from medhybrid.config import StudyConfig, load_config
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import ConfigError, OutputError
from medhybrid.files import held
from medhybrid.inference import folder as folder_job
from medhybrid.inference import program
from medhybrid.inference.folder import FolderJob
from medhybrid.inference.records import Records
from medhybrid.inference.worklist import WorkItem
from medhybrid.steps.predict import predict
from medhybrid.steps.prepared import prepared_folder
from medhybrid.steps.progress import Silent
from medhybrid.steps.train import _report_absent_labels, resume
from medhybrid.training.checkpoint import load_checkpoint, save_checkpoint
from medhybrid.training.team import Team
from tests.inference.test_engines import SHAPE, load, rows_of, write_scans
from tests.patience import patience_s, wait_until
from tests.synthetic import StudyFolder, save_nifti
from tests.training.trainers import every_loss, trainer

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True)
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_ends_the_folder_with_the_reason_and_the_next_run_goes_on(small_disk: Path, tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "scans", 30)
    with pytest.raises(
        OutputError, match=r"cannot be written to\. Found No space left on device.*what is done is kept"
    ):
        predict(scans, model=load(), out=small_disk / "out")

    masks = sorted((small_disk / "out" / "masks").iterdir())
    assert 0 < len(masks) < 30
    for path in masks:
        assert not path.name.startswith("."), "no half file is left"
        assert nib.load(path).get_fdata().shape == SHAPE
    assert not list((small_disk / "out" / "begun").iterdir()), "a full disk is no death"

    n_recorded = len(list((small_disk / "out" / "done").iterdir()))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)

    again = predict(scans, model=load(), out=small_disk / "out")

    assert (again.n_done, again.n_skipped) == (30, n_recorded)
    assert n_recorded > 0


def test_a_shared_memory_of_64_kib_is_enough(study: StudyFolder, tmp_path: Path) -> None:
    """Containers often have little; loaders of other programs die of it."""
    own_mount = ["unshare", "-m", "sh", "-ec"]
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*own_mount, small], capture_output=True).returncode:
        pytest.skip("a small /dev/shm cannot be mounted here")
    medhybrid = f"{sys.executable} -m medhybrid"
    config = f"--config {study.folder}/small.yaml prepare.folder={tmp_path}/prepared runs={tmp_path}/runs"
    write_scans(tmp_path / "scans", 4)
    lines = [
        small,
        f"{medhybrid} preprocess {config} prepare.workers=2",
        f"{medhybrid} train {config} training.iterations=4 training.workers=2 tracking.kind=none",
        f"{medhybrid} predict {tmp_path}/scans --model {tmp_path}/runs/*/* --out {tmp_path}/out --workers 2",
    ]

    done = subprocess.run([*own_mount, "\n".join(lines)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(rows_of(tmp_path / "out" / "results.csv")) == 4


def test_a_disk_that_is_full_before_a_scan_is_read_is_no_fault_of_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Records, "begin", full)
    with pytest.raises(OutputError, match="No space left on device"):
        predict(write_scans(tmp_path / "scans", 2), model=load(), out=tmp_path / "out")

    assert not list((tmp_path / "out" / "failed").iterdir())


def test_an_output_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(OutputError, match="cannot be made"):
        predict(write_scans(tmp_path / "scans", 1), model=load(), out=tmp_path / "out")
    with pytest.raises(OutputError, match="cannot be written to"):
        FolderJob(load(), tmp_path / "out")


def test_a_scan_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, plain = write_scans(tmp_path / "scans", 2), WorkItem.read
    monkeypatch.setattr(folder_job, "RETRY_AFTER_S", (0.01, 0.01))
    changes = iter([True])

    def read(item: WorkItem, *arguments: Any) -> Any:
        scan = plain(item, *arguments)
        if item.case == "s1" and next(changes, False):
            save_nifti(item.files[0], np.zeros(SHAPE, np.int16))  # the writer was not ready
        return scan

    monkeypatch.setattr(WorkItem, "read", read)
    predict(scans, model=load(), out=tmp_path / "out")

    assert np.asarray(nib.load(tmp_path / "out" / "masks" / "s0.nii.gz").dataobj).any()
    assert not np.asarray(nib.load(tmp_path / "out" / "masks" / "s1.nii.gz").dataobj).any(), (
        "the mask is of the last state"
    )


def test_a_scan_that_never_stops_changing_and_one_that_vanished_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, plain = write_scans(tmp_path / "scans", 3), WorkItem.read
    monkeypatch.setattr(folder_job, "RETRY_AFTER_S", (0.01, 0.01))

    def read(item: WorkItem, *arguments: Any) -> Any:
        scan = plain(item, *arguments)
        if item.case == "s0":
            (scans / "s2.nii.gz").unlink()
        if item.case == "s1":
            item.files[0].touch()
        return scan

    monkeypatch.setattr(WorkItem, "read", read)
    predict(scans, model=load(), out=tmp_path / "out")

    rows = rows_of(tmp_path / "out" / "results.csv")
    assert [r["status"] for r in rows.values()] == ["done", "failed", "failed"]
    assert "changed while it was read" in rows["s1"]["message"]
    assert "No such file" in rows["s2"]["message"]


def test_a_disk_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, plain = write_scans(tmp_path / "scans", 1), WorkItem.read
    monkeypatch.setattr(folder_job, "RETRY_AFTER_S", (0.01, 0.01))
    failures = iter([True, True])

    def read(item: WorkItem, *arguments: Any) -> Any:
        if next(failures, False):
            raise OSError(errno.ESTALE, "Stale file handle")
        return plain(item, *arguments)

    monkeypatch.setattr(WorkItem, "read", read)

    assert predict(scans, model=load(), out=tmp_path / "out").n_done == 1


@pytest.mark.slow
def test_a_training_that_is_killed_twice_ends_with_the_weights_of_one_that_was_not(
    prepared: StudyFolder, tmp_path: Path
) -> None:
    changes = ["training.iterations=60", "training.checkpoint_minutes=0.0005", "tracking.kind=jsonl"]
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
    assert not (run / "model").exists(), "it was killed before its end"

    resume(run)

    assert losses_of(run) == losses_of(whole.folder)
    ours, theirs = (load_file(f / "model" / "model.safetensors") for f in (run, whole.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def changed(study: StudyFolder, *overrides: str) -> StudyConfig:
    return load_config(study.folder / "small.yaml", overrides)


def mark(runs: Path) -> int:
    """When the newest checkpoint was written."""
    return max((p.stat().st_mtime_ns for p in runs.glob("*/*/checkpoint/last.pt")), default=0)


def losses_of(run: Path) -> dict[int, float]:
    """The last word on the loss of each step on record."""
    events = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if line.startswith("{"))
    return {e["step"]: e["values"]["train/loss"] for e in events if "train/loss" in e.get("values", {})}


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(prepared: StudyFolder, tmp_path: Path) -> None:
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


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(small_disk: Path) -> None:
    save_checkpoint(small_disk / "checkpoint", {"step": 1})

    with pytest.raises(OutputError, match=r"no checkpoint can be written.*No space left on device.*Make room"):
        save_checkpoint(small_disk / "checkpoint", {"step": 2, "weights": torch.zeros(100_000)})

    assert load_checkpoint(small_disk / "checkpoint")["step"] == 1
    assert [p.name for p in (small_disk / "checkpoint").iterdir()] == ["last.pt"]


def test_a_training_goes_on_while_the_disk_is_full(
    prepared: StudyFolder, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(prepared, small_disk / "run", checkpoint_minutes=0.00001)

    with pytest.raises(OutputError, match="No space left on device"):  # at its end, where it must
        made.fit()

    assert made.step == 12
    assert "no checkpoint can be written" in caplog.text


def test_a_clock_that_jumps_changes_nothing(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trainer(prepared, tmp_path / "plain", iterations=4)
    expected = every_loss(plain)
    plain.fit()
    jumps = itertools.cycle([0.0, 4e9, 1e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    jumping = trainer(prepared, tmp_path / "jumping", iterations=4)
    losses = every_loss(jumping)
    outcome = jumping.fit()

    assert losses == expected
    assert 0 < outcome.elapsed_s < 600


@pytest.mark.slow
def test_an_extension_that_is_stopped_leaves_the_model_that_was_validated(
    prepared: StudyFolder, tmp_path: Path
) -> None:
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
    assert medhybrid.load_model(run).record.made.n_steps == longer.n_steps  # type: ignore[union-attr]


def test_a_resume_that_is_refused_changes_no_length(
    prepared: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = medhybrid.train(changed(prepared, f"runs={tmp_path}", "training.iterations=4", "tracking.kind=jsonl")).folder
    before = (run / "config.yaml").read_text()
    monkeypatch.setattr("medhybrid.steps.train.join_team", lambda _: nullcontext(Alone(0, 1)))

    with pytest.raises(ConfigError, match="cannot be shared out"):
        resume(run, ["training.iterations=+10"])

    assert (run / "config.yaml").read_text() == before


class Alone(Team):
    """One process that believes to be one of five."""

    def part(self, batch_size: int) -> range:
        return Team(0, 5).part(batch_size)


@pytest.mark.slow
def test_sigterm_while_a_training_is_validated_begins_no_other(prepared: StudyFolder, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED_LATE, prepared.folder / "small.yaml", f"runs={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shown, problems = process.communicate(timeout=patience_s())

    assert shown.splitlines()[-1:] == ["None"], problems
    trained = [p.parent.name for p in tmp_path.glob("blobs/*/validation.csv")]
    assert len(trained) == 1, "the one under way was finished"


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


def test_a_full_disk_is_no_fault_of_the_network_that_is_exported(
    small_disk: Path, trained: tuple[StudyFolder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = torch.export.export(torch.nn.Linear(200, 200), (torch.zeros(2, 200),))  # 160 kB, and exported at once
    monkeypatch.setattr(program, "export_program", lambda *_: large)
    with pytest.raises(OutputError, match=r"cannot be written\. Found No space left on device"):
        medhybrid.export(trained[1], out=small_disk / "program", format_="pt2")

    assert not list(small_disk.iterdir())


def test_a_label_that_no_case_of_the_training_has_is_told(prepared: StudyFolder) -> None:
    class Case:
        foreground = np.array([[0, 0, 0, 1], [1, 1, 1, 1]], np.int32)
        record = SimpleNamespace(reference_ml={"left": 1.0, "right": 0.0})

    told: list[str] = []
    reporter = Silent()
    reporter.message = told.append  # type: ignore[method-assign]

    _report_absent_labels(PreparedDataset(prepared_folder(prepared.config)).plan, [Case()], 0, reporter)  # type: ignore[list-item]

    assert told == ["no case that trains in fold 0 has right: it cannot be learnt"]
