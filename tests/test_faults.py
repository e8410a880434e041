"""Full and read-only disks, files that vanish or change: the reason is told, what is done is kept, no half file has a name."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medhybrid.errors import OutputError
from medhybrid.inference import folder as folder_job
from medhybrid.inference.folder import FolderJob
from medhybrid.inference.worklist import WorkItem
from medhybrid.steps.predict import predict
from tests.inference.test_engines import SHAPE, load, rows_of, write_scans
from tests.synthetic import save_nifti


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


def test_an_output_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(OutputError, match="cannot be written to"):
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
