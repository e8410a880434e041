"""All engines give the same masks and tables, and a scan whose worker dies is repeated or reported."""

from __future__ import annotations

import csv
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medhybrid.data.workers import Processes
from medhybrid.errors import ConfigError, DeviceError, OutputError
from medhybrid.geometry import Grid, turn_to_ras
from medhybrid.inference.collect import collect
from medhybrid.inference.engines import pool as pools
from medhybrid.inference.engines.pool import Pool, WorkerArguments, own_device, predict_on
from medhybrid.inference.engines.ray import RayActors
from medhybrid.inference.folder import predict_items
from medhybrid.inference.folder_job import FolderJob
from medhybrid.inference.model import Model
from medhybrid.inference.sharing import Share, hold_folder
from medhybrid.inference.worklist import WorkItem, make_worklist
from medhybrid.scans import discover
from medhybrid.steps.predict import predict
from tests.servers import listens_beyond_this_machine
from tests.synthetic import AFFINE, make_test_plan, save_nifti
from tests.test_masks_on_grid import level_of, thresholding_model, with_box

SHAPE = (18, 16, 8)
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray (extra [scale]) is not installed")


def write_scans(folder: Path, n: int = 6) -> Path:
    array, _ = with_box(SHAPE)
    for i in range(n):
        save_nifti(folder / f"s{i}.nii.gz", np.roll(array, i, axis=1))
    return folder


def load(device: str = "cpu", victim: str = "", deaths: int = 0, diary: str = "") -> Model:
    """Return a model that thresholds; the process dies `deaths` times on the scan named `victim`."""
    array, _ = with_box(SHAPE)
    x, y, z = turn_to_ras(AFFINE).grid(Grid(SHAPE, AFFINE)).spacing_mm
    plan = make_test_plan(spacing_mm=(x, y, z))
    model = thresholding_model(plan, level_of(array, Grid(SHAPE, AFFINE), plan))
    conclude = model.conclude

    def die(scan: Any, inferred: Any) -> Any:
        if scan.case == victim and len(list(Path(diary).iterdir())) < deaths:
            (Path(diary) / f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return conclude(scan, inferred)

    model.conclude = die  # type: ignore[method-assign]
    return model


def items_of(scans: Path) -> list[WorkItem]:
    return list(make_worklist(discover(scans), [("T1", False)], {}).items)


def run(out: Path, scans: Path, pool: Pool | None, **load_arguments: Any) -> dict[str, dict[str, str]]:
    """Predict in this process or on a pool; return the rows of `work.csv` by case."""
    items, job = items_of(scans), FolderJob(load(), out)
    recipe = WorkerArguments(load, tuple(load_arguments.items()), "cpu", out, job.made_by, threads=1)
    outcomes = predict_items(job, items) if pool is None else predict_on(pool, recipe, items, job)
    collect(outcomes, [i.case for i in items], job)
    return rows_of(out / "work.csv")


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {r["case"]: r for r in csv.DictReader(file)}


def masks_of(out: Path) -> dict[str, bytes]:
    return {p.name: np.asarray(nib.load(p).dataobj).tobytes() for p in sorted((out / "masks").glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Return two worker processes that import this module once; those that die are replaced."""
    with Processes(2) as started:
        yield started


@contextmanager
def ray_pool() -> Iterator[RayActors]:
    with ray_actors() as started:
        yield started
    gc.collect()  # here, since Ray leaves processes of a failed start open, which would warn in another test


def ray_actors(attempts: int = 5) -> RayActors:
    """Return Ray actors on this computer; Ray may need several attempts to start while it is busy."""
    try:
        return RayActors(2, address="local", device="cpu")
    except DeviceError:
        if attempts == 1:
            raise
        return ray_actors(attempts - 1)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "AGAIN_AFTER_S", 0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=needs_ray)])
def test_a_pool_gives_the_same_masks_and_tables_and_repeats_scans_whose_worker_died(
    engine: str, processes: Processes, tmp_path: Path
) -> None:
    scans, diary = write_scans(tmp_path / "scans"), tmp_path / "diary"
    (scans / "broken.nii.gz").write_bytes(b"x")
    diary.mkdir()
    plain = run(tmp_path / "plain", scans, None)
    with nullcontext(processes) if engine == "local" else ray_pool() as pool:
        pooled = run(tmp_path / "pooled", scans, pool, victim="s3", deaths=1, diary=str(diary))
        assert listens_beyond_this_machine(os.getpid()) == []

    assert masks_of(tmp_path / "pooled") == masks_of(tmp_path / "plain")
    assert len(masks_of(tmp_path / "plain")) == 6
    assert {c: r["state"] for c, r in pooled.items()} == {c: r["state"] for c, r in plain.items()}
    assert {c: r["attempts"] for c, r in pooled.items()} == {c: "2" if c == "s3" else "1" for c in plain}
    ours, theirs = (rows_of(tmp_path / name / "results.csv") for name in ("plain", "pooled"))
    assert [{**r, "seconds": ""} for r in ours.values()] == [{**r, "seconds": ""} for r in theirs.values()]
    assert not list((tmp_path / "pooled" / "started").iterdir())


@pytest.mark.slow
def test_a_scan_that_kills_every_worker_fails_until_it_changes(processes: Processes, tmp_path: Path) -> None:
    scans, out, diary = write_scans(tmp_path / "scans", 3), tmp_path / "out", tmp_path / "diary"
    diary.mkdir()
    rows = run(out, scans, processes, victim="s1", deaths=99, diary=str(diary))

    assert {c: r["state"] for c, r in rows.items()} == {"s0": "done", "s1": "failed", "s2": "done"}
    assert "3 workers died on it" in rows["s1"]["reason"]
    assert "SIGKILL" in rows["s1"]["reason"]
    assert len(list(diary.iterdir())) == 3

    again = run(out, scans, None)
    assert "its worker died in 3 attempts" in again["s1"]["reason"]
    assert not (out / "masks" / "s1.nii.gz").exists()

    save_nifti(scans / "s1.nii.gz", with_box(SHAPE)[0][::-1])
    assert run(out, scans, None)["s1"]["state"] == "done"


def test_an_interruption_does_not_count_as_an_attempt(tmp_path: Path) -> None:
    items, job = items_of(write_scans(tmp_path / "scans", 2)), FolderJob(load(), tmp_path / "out")

    def stop(*_: Any, **__: Any) -> Any:
        assert list((tmp_path / "out" / "started").iterdir()), "it is on record while it is worked on"
        raise KeyboardInterrupt

    job.model.infer = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(predict_items(job, items))

    assert not list((tmp_path / "out" / "started").iterdir())


def test_a_worker_that_cannot_load_the_model_ends_the_work(tmp_path: Path) -> None:
    class InThisProcess:
        def map(self, function: Any, items: Any) -> Any:
            return ((i, function(i)) for i in items)

    def no_model(**_: Any) -> Model:
        raise ConfigError("no model here")

    recipe, items = WorkerArguments(no_model, (), "cpu", tmp_path, ""), items_of(write_scans(tmp_path / "scans", 2))
    with pytest.raises(ConfigError, match="no model here"):
        list(predict_on(InThisProcess(), recipe, items, FolderJob(load(), tmp_path)))


def test_gpus_are_assigned_to_workers_in_turn() -> None:
    assert [own_device("auto", 2, place) for place in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [own_device("auto", 1, 3), own_device("cpu", 4, 1), own_device("auto", 0, 1)] == ["auto", "cpu", "auto"]


@given(st.lists(st.text(max_size=20), max_size=20), st.integers(1, 50))
def test_every_case_is_in_exactly_one_share(cases: list[str], count: int) -> None:
    for case in cases:
        assert sum(Share(i, count).takes(case) for i in range(count)) == 1


@pytest.mark.parametrize("text", ["3/3", "0/0", "-1/2", "1", "a/b", "1/2/3", ""])
def test_an_invalid_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a valid share"):
        Share.parse(text)


def test_shares_in_any_order_give_all_results(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "scans", 9)
    whole = predict(scans, model=load(), out=tmp_path / "whole")
    counts = [predict(scans, model=load(), out=tmp_path / "parts", share=Share(i, 3)).n_done for i in (2, 0, 1)]

    assert sum(counts) == whole.n_done == 9
    assert all(counts), "nine names, three shares: none is empty"
    assert masks_of(tmp_path / "parts") == masks_of(tmp_path / "whole")
    rows = [rows_of(tmp_path / name / "results.csv") for name in ("whole", "parts")]
    assert [{**r, "seconds": ""} for r in rows[0].values()] == [{**r, "seconds": ""} for r in rows[1].values()]


def test_a_share_lists_the_scans_of_other_shares_as_waiting(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "scans", 9)
    predict(scans, model=load(), out=tmp_path / "out", share=Share(0, 3))

    states = [r["state"] for r in rows_of(tmp_path / "out" / "work.csv").values()]
    assert len(states) == 9
    assert set(states) == {"done", "waiting"}


def test_a_second_process_is_refused_unless_it_has_another_share(tmp_path: Path) -> None:
    with hold_folder(tmp_path, None):
        for share in (None, Share(0, 2)):
            with pytest.raises(OutputError, match="another process is using"), hold_folder(tmp_path, share):
                pass
    with hold_folder(tmp_path, Share(0, 2)), hold_folder(tmp_path, Share(1, 2)):
        for share in (None, Share(0, 2), Share(1, 3)):
            with pytest.raises(OutputError, match="another process is using"), hold_folder(tmp_path, share):
                pass
    with hold_folder(tmp_path, Share(1, 3)):
        pass


@pytest.mark.slow
def test_a_job_of_a_slurm_array_predicts_its_share(trained: tuple[Any, Path], tmp_path: Path) -> None:
    from medhybrid.cli import main

    scans, out = write_scans(tmp_path / "my scans"), tmp_path / "out"
    assert main(["predict", str(scans), "-m", str(trained[1]), "-o", str(out), "--engine", "slurm", "--workers=2"]) == 0
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    job = subprocess.run(["bash", out / "predict.sbatch"], env=environment, capture_output=True, text=True)

    assert job.returncode == 0, job.stderr
    assert {p.name[:-7] for p in (out / "masks").iterdir()} == {f"s{i}" for i in range(6) if Share(1, 2).takes(f"s{i}")}
    assert "#SBATCH --array=0-1\n" in (out / "predict.sbatch").read_text()
