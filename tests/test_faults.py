"""Fault tolerance: full disks, clock changes, and files that vanish or change."""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medhybrid
from medhybrid.data.dataset import PreparedDataset
from medhybrid.errors import OutputError
from medhybrid.inference import folder as folder_job
from medhybrid.inference import program
from medhybrid.inference.folder_job import FolderJob
from medhybrid.inference.records import Records
from medhybrid.inference.worklist import WorkItem
from medhybrid.progress import Silent
from medhybrid.runs.prepared import prepared_folder
from medhybrid.runs.remarks import report_absent_labels
from medhybrid.steps.predict import predict
from medhybrid.training.checkpoint import load_checkpoint, save_checkpoint
from tests.inference.test_engines import SHAPE, load, rows_of, write_scans
from tests.synthetic import StudyFolder, save_nifti
from tests.training.trainers import every_loss, trainer

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True)
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_stops_predict_with_the_reason_and_the_next_call_continues(
    small_disk: Path, tmp_path: Path
) -> None:
    scans = write_scans(tmp_path / "scans", 30)
    with pytest.raises(
        OutputError, match=r"cannot be written to\. Found No space left on device.*finished scans are kept"
    ):
        predict(scans, model=load(), out=small_disk / "out")

    masks = sorted((small_disk / "out" / "masks").iterdir())
    assert 0 < len(masks) < 30
    for path in masks:
        assert not path.name.startswith("."), "no incomplete file is left"
        assert nib.load(path).get_fdata().shape == SHAPE
    assert not list((small_disk / "out" / "started").iterdir()), "a full disk is not a dead worker"

    n_recorded = len(list((small_disk / "out" / "done").iterdir()))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)

    again = predict(scans, model=load(), out=small_disk / "out")

    assert (again.n_done, again.n_skipped) == (30, n_recorded)
    assert n_recorded > 0


def test_a_shared_memory_of_64_kib_is_enough(study: StudyFolder, tmp_path: Path) -> None:
    """Containers often have little shared memory, which kills data loaders with worker processes."""
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


def test_a_full_disk_does_not_mark_a_scan_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Records, "begin", full)
    with pytest.raises(OutputError, match="No space left on device"):
        predict(write_scans(tmp_path / "scans", 2), model=load(), out=tmp_path / "out")

    assert not list((tmp_path / "out" / "failed").iterdir())


def test_an_output_folder_that_cannot_be_created_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(OutputError, match="cannot be created"):
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
        "the mask is of the last content"
    )


def test_scans_that_keep_changing_or_vanish_fail_with_the_reason(
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


def test_reading_is_retried_after_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans, plain = write_scans(tmp_path / "scans", 1), WorkItem.read
    monkeypatch.setattr(folder_job, "RETRY_AFTER_S", (0.01, 0.01))
    failures = iter([True, True])

    def read(item: WorkItem, *arguments: Any) -> Any:
        if next(failures, False):
            raise OSError(errno.ESTALE, "Stale file handle")
        return plain(item, *arguments)

    monkeypatch.setattr(WorkItem, "read", read)

    assert predict(scans, model=load(), out=tmp_path / "out").n_done == 1


def test_a_full_disk_keeps_the_previous_checkpoint_and_is_logged(small_disk: Path) -> None:
    save_checkpoint(small_disk / "checkpoint", {"step": 1})

    with pytest.raises(OutputError, match=r"no checkpoint can be written.*No space left on device.*Free disk space"):
        save_checkpoint(small_disk / "checkpoint", {"step": 2, "weights": torch.zeros(100_000)})

    assert load_checkpoint(small_disk / "checkpoint")["step"] == 1
    assert [p.name for p in (small_disk / "checkpoint").iterdir()] == ["last.pt"]


def test_training_continues_while_the_disk_is_full(
    prepared: StudyFolder, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(prepared, small_disk / "run", checkpoint_minutes=0.00001)

    with pytest.raises(OutputError, match="No space left on device"):  # the last checkpoint, which is required
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


def test_a_full_disk_is_not_reported_as_an_export_error(
    small_disk: Path, trained: tuple[StudyFolder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = torch.export.export(torch.nn.Linear(200, 200), (torch.zeros(2, 200),))  # 160 kB, exported fast
    monkeypatch.setattr(program, "export_program", lambda *_: large)
    with pytest.raises(OutputError, match=r"cannot be written\. Found No space left on device"):
        medhybrid.export(trained[1], out=small_disk / "program", format_="pt2")

    assert not list(small_disk.iterdir())


def test_a_label_absent_from_all_training_cases_is_reported(prepared: StudyFolder) -> None:
    class Case:
        foreground = np.array([[0, 0, 0, 1], [1, 1, 1, 1]], np.int32)
        record = SimpleNamespace(reference_ml={"left": 1.0, "right": 0.0})

    told: list[str] = []
    reporter = Silent()
    reporter.message = told.append  # type: ignore[method-assign]

    report_absent_labels(PreparedDataset(prepared_folder(prepared.config)).plan, [Case()], 0, reporter)  # type: ignore[list-item]

    assert told == ["no training case of fold 0 has right: it cannot be trained"]
